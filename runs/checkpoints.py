"""Checkpoints: folders of safetensors and JSON, whole or absent.

    checkpoints/<steps>/config.json          the run's configuration and versions
                        weights.safetensors  the network: all that evaluate and watch read
                        learner.safetensors  target network, optimizer, generators, the batch prepared next
                        state.json           counters, environments, and the replay's segments in order
                        replay/*.safetensors rows of the replay, in files that the next checkpoint links
    checkpoints/latest                       the name of the newest one

A checkpoint is written under another name, synced and renamed, then `latest` is replaced: whenever the machine stops,
the last good one is left. No file is a pickle, so that opening a stranger's checkpoint runs no code.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.dqn import DQN
from agents.replay import FrameReplay
from runs import machine
from runs.config import TrainConfig, from_json, to_json

FORMAT = "saccade-dqn-1"
PARTIAL = ".partial"
SEGMENT_ROWS = 16_384  # of the replay, to a file: 116 MB, so that writing one takes little memory


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another kind; the message says which and what to do."""


class Segment(NamedTuple):
    """A file with rows of the replay, and up to where it goes in each ring."""

    file: str
    stop: list[int]


class CheckpointWriter:
    """Writes the checkpoints of one run, and knows which of the replay's rows are on disk already."""

    def __init__(self, run_folder: Path, kept: int) -> None:
        """Write below `run_folder`; keep the newest `kept`."""
        self.folder = run_folder / "checkpoints"
        self._kept = kept
        self._segments: list[Segment] = []
        self._previous: Path | None = None

    def resume(self, checkpoint: Path, segments: list[Segment]) -> None:
        """Go on from `checkpoint`, whose segments the next one links."""
        self._previous, self._segments = checkpoint, segments

    def save(
        self,
        about: dict[str, Any],
        config: TrainConfig,
        agent: DQN,
        replay: FrameReplay,
        learner: dict[str, Tensor],
        state: Any,
    ) -> Path:
        """Write a checkpoint and return its folder.

        Args:
            about: what `config.json` says beside the configuration; its `steps` name the checkpoint.
            config: of the run.
            agent: its weights and what learning on needs.
            replay: rows that no earlier checkpoint has are written, the others linked.
            learner: further tensors to keep.
            state: further JSON to keep.

        Raises:
            OSError: it could not be written; the last good checkpoint stays.
        """
        steps = about["steps"]
        target, partial = self.folder / str(steps), self.folder / f".{steps}{PARTIAL}"
        if self._previous == target:  # saved at this very step before; to displace it would risk it
            return target
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(f".*{PARTIAL}"):
            shutil.rmtree(leftover)
        try:
            (partial / "replay").mkdir(parents=True)
            segments = self._save_replay(partial / "replay", steps, replay)
            write_weights(partial, config, agent, about)
            tensors = {f"agent.{name}": value for name, value in agent.state_dict().items()}
            tensors |= {f"replay.{name}": value for name, value in replay.state_dict().items()}
            save_tensors(partial / "learner.safetensors", tensors | learner)
            save_json(partial / "state.json", {"segments": segments, "loop": state})
            _sync(partial / "replay")
            _sync(partial)
            if target.exists():  # left by a stop between the two renames below, and not named by `latest`
                shutil.rmtree(target)
            partial.rename(target)
            _sync(self.folder)
            replace_text(self.folder / "latest", target.name)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._previous, self._segments = target, segments
        self._delete_old()
        return target

    def _save_replay(self, folder: Path, steps: int, replay: FrameReplay) -> list[Segment]:
        written = replay.rows_written()
        oldest = written - replay.rows
        segments = [s for s in self._segments if (np.array(s.stop) > oldest).any()]
        for segment in segments:
            assert self._previous is not None
            _link(self._previous / "replay" / segment.file, folder / segment.file)
        done = np.array(self._segments[-1].stop) if self._segments else np.zeros_like(written)
        while (done < written).any():
            rows = replay.segment(done, SEGMENT_ROWS // replay.num_envs + 1)
            done = rows["stop"].numpy()
            segment = Segment(f"{steps}-{len(segments)}.safetensors", done.tolist())
            save_tensors(folder / segment.file, rows)
            segments.append(segment)
        return segments

    def _delete_old(self) -> None:
        for old in sorted(_checkpoints_in(self.folder))[: -self._kept]:
            folder = self.folder / str(old)
            if folder != self._previous:
                gone = self.folder / f".{old}-old{PARTIAL}"
                folder.rename(gone)
                shutil.rmtree(gone)


def write_weights(folder: Path, config: TrainConfig, agent: DQN, about: dict[str, Any], bf16: bool = False) -> None:
    """Write what acting needs: the weights, the configuration, and the shapes to build the network with."""
    weights = {name: w.to(torch.bfloat16 if bf16 else w.dtype).contiguous() for name, w in agent.weights().items()}
    save_tensors(folder / "weights.safetensors", weights)
    shapes = {"num_actions": agent.num_actions, "frame_shape": agent.frame_shape, "stack": agent.stack}
    about = {"format": FORMAT, "shapes": shapes, "versions": machine.versions()} | about
    save_json(folder / "config.json", about | {"config": to_json(config)})


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint folder that `path` is, or the newest one of the run folder that it is.

    Raises:
        CheckpointError: there is none.
    """
    if (path / "weights.safetensors").exists():
        return path
    latest = path / "checkpoints" / "latest"
    if latest.exists():
        return path / "checkpoints" / latest.read_text().strip()
    if path.is_file():
        raise CheckpointError(
            f"'{path}' is a file. A checkpoint is a folder with config.json and weights.safetensors; "
            "pickles (.pt, .pth, .zip) are refused and never opened, because they run code"
        )
    if not path.exists():
        raise CheckpointError(f"there is nothing at '{path}'; give a checkpoint folder or a run folder")
    raise CheckpointError(f"'{path}' holds no checkpoint yet: no weights.safetensors, and no checkpoints/latest")


def load_config(checkpoint: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """Return the run's configuration and all that `config.json` says.

    Raises:
        CheckpointError: it is missing, damaged, or of another format.
    """
    about = load_json(checkpoint / "config.json")
    if about.get("format") != FORMAT:
        raise CheckpointError(
            f"'{checkpoint}' has the format {about.get('format')!r}, this program reads {FORMAT!r}; "
            "open it with the version that wrote it"
        )
    try:
        return from_json(TrainConfig, about["config"]), about
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"'{checkpoint}/config.json': {error}") from error


def load_agent(path: Path | str, device: str = "auto") -> tuple[DQN, TrainConfig]:
    """Return the agent of a checkpoint or run folder, ready to `act`, and the configuration it was trained with.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or does not fit.
        ValueError: there is no such device.
    """
    checkpoint = find_checkpoint(Path(path))
    config, about = load_config(checkpoint)
    device = machine.choose_device(device)
    agent = make_agent(config, about["shapes"], device)
    load_weights(checkpoint, agent)
    return agent, config


def make_agent(config: TrainConfig, shapes: dict[str, Any], device: str) -> DQN:
    """Return a fresh agent for frames and actions of these shapes."""
    return DQN(
        config.agent,
        shapes["num_actions"],
        frame_shape=tuple(shapes["frame_shape"]),
        stack=shapes["stack"],
        device=device,
        precision=machine.choose_precision(config.precision, device),
        seed=config.seed,
    )


def load_weights(checkpoint: Path, agent: DQN) -> None:
    """Load the network's weights.

    Raises:
        CheckpointError: they are missing, damaged, or of another backbone, head or number of actions.
    """
    weights = load_tensors(checkpoint / "weights.safetensors")
    expected = {name: tuple(weight.shape) for name, weight in agent.weights().items()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"'{checkpoint}' does not fit its configuration or this game: {name} is {found.get(name, 'absent')}, "
                f"a network with backbone {agent.config.backbone}, dueling {agent.config.dueling} and "
                f"{agent.num_actions} actions has {expected.get(name, 'none')}"
            )
    agent.load_weights(weights)


def load_learner(checkpoint: Path, agent: DQN, replay: FrameReplay) -> tuple[dict[str, Tensor], Any, list[Segment]]:
    """Restore the agent's learning state and the replay; return the further tensors, the JSON and the segments.

    Raises:
        CheckpointError: the checkpoint holds weights alone, or is damaged.
    """
    if not (checkpoint / "learner.safetensors").exists():
        raise CheckpointError(f"'{checkpoint}' holds weights alone and cannot be resumed; resume the run's own folder")
    load_weights(checkpoint, agent)
    saved, tensors = load_json(checkpoint / "state.json"), load_tensors(checkpoint / "learner.safetensors")
    agent.load_state_dict(_with_prefix(tensors, "agent."))
    replay.load_state_dict(_with_prefix(tensors, "replay."))
    segments = [Segment(*segment) for segment in saved["segments"]]
    for segment in segments:
        replay.load_segment(load_tensors(checkpoint / "replay" / segment.file))
    rest = {name: value for name, value in tensors.items() if not name.startswith(("agent.", "replay."))}
    return rest, saved["loop"], segments


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors, contiguous, and sync them to disk."""
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    _sync(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors.

    Raises:
        CheckpointError: the file is missing, cut short, a pickle, or no safetensors at all.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start[:2] in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"):
            raise CheckpointError(f"'{path}' is a pickle under another name: refused, since opening one runs code")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"'{path}' cannot be read (missing, cut short or damaged): {error}") from error


def save_json(path: Path, value: Any) -> None:
    """Write JSON and sync it to disk."""
    path.write_text(json.dumps(value, indent=1))
    _sync(path)


def load_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' cannot be read (missing, cut short or damaged): {error}") from error


def replace_text(path: Path, text: str) -> None:
    """Replace a small file in one stroke."""
    partial = path.with_name(f".{path.name}{PARTIAL}.txt")
    partial.write_text(text)
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def _checkpoints_in(folder: Path) -> list[int]:
    return [int(child.name) for child in folder.iterdir() if child.name.isdigit()]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
