"""Measure how speed and memory change with what is asked: `python -m runs.scaling --picture FILE`."""

import json
import multiprocessing
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs.benchmark import WARM_UP_STEPS, BenchmarkArgs, Result, measured_alone, whole_loop
from runs.commands import PLOTS, need_writable, refusing_bad_input, run_command

SB3_STEPS = 100_000
SB3_BYTES = SB3_STEPS * 2 * 4 * 84 * 84  # each state, and the one after it, as whole stacks


@dataclass(frozen=True)
class ScalingArgs:
    """Measure the whole loop over environments, beside a busy process, and over steps held in the replay."""

    game: str = "pong"
    """The Atari game."""
    environments: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Environments side by side."""
    held_steps: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Steps in the replay when learning is measured; a million take 7.1 GB and some minutes to play."""
    steps: int = 3_000
    """Steps measured each time, after a warm-up."""
    rounds: int = 3
    """How often each number of environments is measured; medians are shown."""
    json: Path | None = None
    """Write all measurements to this file."""
    picture: Path | None = None
    """Draw them to this file, PNG or SVG."""


def beside_a_busy_process(args: BenchmarkArgs) -> Result:
    """Measure the whole loop while another process keeps one core busy."""
    neighbour = multiprocessing.get_context("spawn").Process(target=_spin, args=(os.getpid(),), daemon=True)
    neighbour.start()
    try:
        return measured_alone(whole_loop, args)
    finally:
        neighbour.kill()
        neighbour.join()


def _spin(starter: int) -> None:
    while os.getppid() == starter:  # or it would outlive one that was killed
        pass


def sb3_replay_memory(steps: int) -> Result:
    """Fill SB3's ReplayBuffer with this many stacks of four frames; return the memory that it took."""
    import gymnasium
    import numpy as np
    from stable_baselines3.common.buffers import ReplayBuffer

    from runs import machine

    before = machine.resident_memory()
    stacks = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    buffer = ReplayBuffer(steps, stacks, gymnasium.spaces.Discrete(6), optimize_memory_usage=False)
    stack = np.ones((1, 4, 84, 84), np.uint8)
    for _ in range(steps):
        buffer.add(stack, stack, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    return {"memory_gb": (machine.resident_memory() - before) / 1e9}


def main(args: ScalingArgs) -> int:
    """Measure, print the tables, return the exit code."""
    from rich.table import Table

    from runs.progress import console

    with refusing_bad_input():
        from agents.replay import FrameReplay
        from envs.atari import check_game
        from runs import machine

        check_game(args.game)
        if min(args.environments, default=1) < 1 or min(args.held_steps, default=10_000) < 1_000 or args.rounds < 1:
            raise ValueError("need --environments and --rounds of at least 1, --held-steps of at least 1000")
        if args.steps < WARM_UP_STEPS:
            raise ValueError(f"need --steps of at least {WARM_UP_STEPS}")
        needed = FrameReplay.bytes_needed(max(args.held_steps, default=0), (84, 84))
        machine.check_memory(needed, "lower --held-steps")
        need_writable(args.json)
        need_writable(args.picture, *PLOTS)
    wide, whole = console(width=110), dict[str, Any]()

    def keep(**measured: Any) -> None:
        whole.update(measured)
        if args.json is not None:
            args.json.write_text(json.dumps(whole, indent=1))

    speeds: dict[int, list[float]] = {number: [] for number in args.environments}
    quiet, busy = [], []
    for _ in range(args.rounds):
        for number in args.environments:
            settings = BenchmarkArgs(game=args.game, steps=args.steps, num_envs=number)
            speeds[number].append(measured_alone(whole_loop, settings)["steps_per_second"])
        settings = BenchmarkArgs(game=args.game, steps=args.steps)
        quiet.append(measured_alone(whole_loop, settings)["steps_per_second"])
        busy.append(beside_a_busy_process(settings)["steps_per_second"])
    keep(environments=speeds, quiet=quiet, busy=busy)
    table = Table("environments", "steps/s", title=f"{args.game}, whole loop, median of {args.rounds}")
    for number, measured in speeds.items():
        table.add_row(str(number), f"{statistics.median(measured):,.0f}")
    wide.print(table)
    shares = [b / q for b, q in zip(busy, quiet, strict=True)]
    wide.print(
        f"beside a process that keeps one core busy: {statistics.median(busy):,.0f} steps/s, "
        f"{statistics.median(shares):.0%} of the quiet speed ({', '.join(f'{share:.0%}' for share in shares)})"
    )
    held = {}
    for steps in args.held_steps:
        held[steps] = measured_alone(whole_loop, BenchmarkArgs(game=args.game, steps=args.steps), steps)
        keep(held=held)
    table = Table("steps held", "steps/s", "resident memory, GB", title=f"{args.game}, whole loop")
    for steps, measured in held.items():
        table.add_row(f"{steps:,}", f"{measured['steps_per_second']:,.0f}", f"{measured['memory_gb']:.2f}")
    wide.print(table)
    if machine.available_memory() > SB3_BYTES:
        theirs = measured_alone(sb3_replay_memory, SB3_STEPS)["memory_gb"]
        keep(sb3_gb_for_100000_steps=theirs)
        wide.print(f"SB3's ReplayBuffer of {SB3_STEPS:,} steps: {theirs:.2f} GB, so {10 * theirs:.0f} GB for a million")
    else:
        wide.print(f"SB3's ReplayBuffer of {SB3_STEPS:,} steps does not fit: it takes {SB3_BYTES / 1e9:.1f} GB")
    if args.picture is not None:
        draw(speeds, held, args.picture)
    return 0


def draw(speeds: dict[int, list[float]], held: dict[int, Result], file: Path) -> None:
    """Draw both tables side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = list(speeds)
    left.plot(numbers, [statistics.median(speeds[number]) for number in numbers], marker="o", color="C0")
    left.set(xscale="log", xlabel="environments side by side", ylabel="steps/s")
    left.set_xticks(numbers, [str(number) for number in numbers], minor=False)
    left.minorticks_off()
    steps = list(held)
    right.plot(steps, [held[s]["steps_per_second"] for s in steps], marker="o", color="C0", label="steps/s")
    right.set(xscale="log", xlabel="steps in the replay", ylabel="steps/s")
    memory = right.twinx()
    memory.plot(steps, [held[s]["memory_gb"] for s in steps], marker="s", color="C1", label="memory")
    memory.set(ylabel="resident memory, GB")
    for axes in (left, right, memory):
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    figure.legend(handles=[*right.lines, *memory.lines], loc="outside upper right", ncols=2, frameon=False)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    run_command(main)
