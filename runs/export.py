"""Make a small copy of an agent to hand on: `python -m runs.export CHECKPOINT FOLDER`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from runs.commands import refusing_bad_input, run_command


@dataclass(frozen=True)
class ExportArgs:
    """Copy what acting needs out of a checkpoint: weights and configuration, without replay and optimizer."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint folder, or a run folder (its newest checkpoint)."""
    folder: tyro.conf.Positional[Path]
    """Where the copy goes; it must not exist yet, or be empty."""
    to: Literal["bf16"] = "bf16"
    """`bf16`: a weights-only checkpoint of half the size, which evaluate and watch read as any other."""


def main(args: ExportArgs) -> int:
    """Write the copy and say how large it is; return the exit code."""
    from runs.agent_checkpoints import load_agent, load_config, write_weights
    from runs.checkpoints import find_checkpoint

    with refusing_bad_input():
        about = load_config(find_checkpoint(args.checkpoint))[1]
        agent, config = load_agent(args.checkpoint, "cpu")
        if args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
            raise ValueError(f"'{args.folder}' exists and is not empty: choose another folder")
        try:
            args.folder.mkdir(parents=True, exist_ok=True)
            kept = {name: about[name] for name in ("steps", "wandb_id", "evaluation") if name in about}
            write_weights(args.folder, config, agent, kept, bf16=True)
        except OSError as error:
            raise ValueError(f"cannot write '{args.folder}': {error.strerror}") from error
    size = sum(file.stat().st_size for file in args.folder.iterdir())
    print(f"{args.folder}: {size / 2**20:.1f} MB, trained for {about['steps']:,} steps")
    return 0


if __name__ == "__main__":
    run_command(main, ExportArgs)
