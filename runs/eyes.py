"""Perception checkpoints that look at what an agent sees while it plays."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from perception.segmentation import Segmentation
from runs.perception_checkpoints import load_perception
from runs.perception_run import passes

TASKS = ("segmentation", "captioning", "classification")


class Seen(NamedTuple):
    """What an eye says of a stack of frames."""

    words: str
    mask: NDArray[np.uint8] | None  # (H, W), the class of each pixel of the network's input


class Eye:
    """A perception network with its task. `classes` are the names of a mask's values, if it says a mask."""

    def __init__(self, checkpoint: Path, device: str = "auto") -> None:
        """Load it; its `name` is that of its task.

        Raises:
            ValueError: the checkpoint cannot be read, or its task says nothing of a frame.
        """
        self._network, self._task, self._config, about = load_perception(checkpoint, device)
        if self._config.task not in TASKS:
            raise ValueError(
                f"--eye '{checkpoint}' has learnt {self._config.task}, which says nothing of a frame: give one of "
                f"{', '.join(TASKS)}"
            )
        self.name: str = self._config.task
        self.shape: tuple[int, ...] = (about["channels"], *about["size"])
        self.classes = self._task.names if isinstance(self._task, Segmentation) else None

    @torch.inference_mode()
    def look(self, frames: NDArray[np.uint8]) -> Seen:
        """Say what a stack of frames (C, H, W) shows."""
        device = next(self._network.parameters()).device
        with passes(self._config.precision, device):
            answer = self._task.answer(self._network, torch.from_numpy(frames[None]).to(device))[0].cpu()
        words = self._task.words(answer.flatten().tolist())
        return Seen(words, None if self.classes is None else answer.numpy())


def open_eyes(checkpoints: tuple[Path, ...], frames: tuple[int, ...], device: str) -> list[Eye]:
    """Load eyes for frames of this shape (C, H, W); those of one task are numbered.

    Raises:
        ValueError: a checkpoint cannot be read, says nothing of a frame, or is for images of another shape.
    """
    eyes: list[Eye] = []
    for checkpoint in checkpoints:
        eye = Eye(checkpoint, device)
        if eye.shape != frames:
            theirs, ours = ("×".join(map(str, shape)) for shape in (eye.shape, frames))
            raise ValueError(f"--eye '{checkpoint}' looks at images of {theirs}; this agent sees {ours}")
        alike = sum(other.name.split("-")[0] == eye.name for other in eyes)
        eye.name += f"-{alike + 1}" if alike else ""
        eyes.append(eye)
    return eyes
