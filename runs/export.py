"""Make a small copy of an agent to hand on: `python -m runs.export CHECKPOINT FOLDER`, for SB3 `FILE.zip --to sb3`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from runs.commands import refusing_bad_input, run_command


@dataclass(frozen=True)
class ExportArgs:
    """Copy what acting needs out of a checkpoint: weights and configuration, without replay and optimizer."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint of `runs.train_dqn`, or its run folder (its newest checkpoint)."""
    target: tyro.conf.Positional[Path]
    """Where the copy goes: a folder that does not exist yet, or is empty; for SB3 the name of a new .zip."""
    to: Literal["bf16", "sb3"] = "bf16"
    """`bf16`: a weights-only checkpoint of half the size, which evaluate and watch read as any other. `sb3`, of
    NatureCNN without dueling: a model that plain `stable_baselines3.DQN.load` plays, on uint8 stacks (4, 84,
    84); SB3's own format has pickles in it."""


def main(args: ExportArgs) -> int:
    """Write the copy and say how large it is; return the exit code."""
    with refusing_bad_input():
        (_write_sb3 if args.to == "sb3" else _write_folder)(args)
    return 0


def _write_sb3(args: ExportArgs) -> None:
    from agents.sb3 import as_sb3_dqn
    from runs.agent_checkpoints import load_agent

    agent, _ = load_agent(args.checkpoint, "cpu")
    if args.target.suffix != ".zip" or args.target.exists() or not args.target.parent.is_dir():
        raise ValueError(f"'{args.target}': needs the name of a new .zip in a folder that is there")
    model = as_sb3_dqn(agent.weights(), agent.frame_shape, agent.stack)
    try:
        model.save(args.target)
    except OSError as error:
        raise ValueError(f"cannot write '{args.target}': {error.strerror or error}") from error
    print(f"{args.target}: {args.target.stat().st_size / 2**20:.1f} MB, for stable_baselines3.DQN.load")


def _write_folder(args: ExportArgs) -> None:
    from runs.agent_checkpoints import load_agent, load_config, write_weights
    from runs.checkpoints import find_checkpoint

    about = load_config(find_checkpoint(args.checkpoint))[1]
    agent, config = load_agent(args.checkpoint, "cpu")
    if args.target.exists() and (not args.target.is_dir() or any(args.target.iterdir())):
        raise ValueError(f"'{args.target}' exists and is not empty: choose another folder")
    try:
        args.target.mkdir(parents=True, exist_ok=True)
        kept = {name: about[name] for name in ("steps", "wandb_id", "evaluation") if name in about}
        write_weights(args.target, config, agent, kept, bf16=True)
    except OSError as error:
        raise ValueError(f"cannot write '{args.target}': {error.strerror or error}") from error
    size = sum(file.stat().st_size for file in args.target.iterdir())
    print(f"{args.target}: {size / 2**20:.1f} MB, trained for {about['steps']:,} steps")


if __name__ == "__main__":
    run_command(main)
