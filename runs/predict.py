"""Say what a perception task sees: `python -m runs.predict CHECKPOINT IMAGE…`, or of a live game: `--game GAME`.

A gan draws without either.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

from envs.config import Protocol
from runs.commands import need_writable, refusing_bad_input, run_command
from runs.config import Device
from runs.playing import play_randomly

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class PredictArgs:
    """Print what a trained network says of pictures or of a game, and draw it."""

    checkpoint: tyro.conf.Positional[Path]
    """A perception task's checkpoint folder, or a run folder (its newest checkpoint)."""
    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Picture files."""
    game: str | None = None
    """Play this Atari game at random and look at it instead."""
    steps: int = 240
    """Steps of the game."""
    every_steps: int = 20
    """Steps between two looks."""
    protocol: Protocol = "classic"
    """`classic` or `v5`."""
    seed: int = 0
    """Of the game and the actions."""
    out: Path | None = None
    """Draw pictures and answers here, as PNG."""
    device: Device = "auto"
    """cpu, cuda, mps or auto."""


def main(args: PredictArgs) -> int:
    """Print a line for each picture; return the exit code."""
    from PIL import Image

    with refusing_bad_input():
        import torch

        from runs import machine
        from runs.perception_checkpoints import load_perception
        from runs.perception_run import passes

        if args.images and args.game is not None:
            raise ValueError("give pictures to look at or --game GAME, not both")
        if args.steps < 1 or args.every_steps < 1:
            raise ValueError("need --steps and --every-steps of at least 1")
        need_writable(args.out, ".png")
        machine.settle_thread(machine.usable_cores())
        network, task, config, about = load_perception(args.checkpoint, args.device)
        if args.game is None:
            seen = list(_read(args.images, about))
        else:
            played = play_randomly(args.game, args.protocol, args.seed, args.steps, args.every_steps)
            seen = [(f"step {step}", frames) for step, frames in played]
        if not seen and not (config.task == "gan" and args.out is not None):
            drawn = ", or, for what it draws, --out" if config.task == "gan" else ""
            raise ValueError(f"give pictures to look at, or --game GAME with at least --every-steps steps{drawn}")
        nothing = np.zeros((0, about["channels"], *about["size"]), np.uint8)
        images = np.stack([image for _, image in seen]) if seen else nothing
        if images.shape[1] != about["channels"]:
            raise ValueError(f"'{args.checkpoint}' looks at {about['channels']} channels, a game has {images.shape[1]}")
    device = next(network.parameters()).device
    with torch.inference_mode(), passes(config.precision, device):
        batches = torch.from_numpy(images).split(config.batch_size)
        answers = torch.cat([task.answer(network, batch.to(device)).cpu() for batch in batches])
    for (name, _), answer in zip(seen, answers, strict=True):
        print(f"{name}: {task.words(answer.flatten().tolist())}")
    if args.out is not None:
        Image.fromarray(task.picture(network, images, answers)).save(args.out)
        print(args.out)
    return 0


def _read(files: tuple[Path, ...], about: dict[str, Any]) -> "Iterator[tuple[str, NDArray[np.uint8]]]":
    """Yield pictures as the network was trained on them; one that looks at stacks sees a still grey picture."""
    from runs.picture_sets import read_picture

    for file in files:
        grey = about["channels"] != 3
        picture = read_picture(file, about["size"][0], grey)
        yield str(file), np.repeat(picture, about["channels"], axis=0) if grey else picture


if __name__ == "__main__":
    run_command(main)
