"""Tell what a pretrained backbone is worth: `python -m runs.transfer pong --from none,contrast,dqn --to probe,dqn`."""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np

from runs import jobs
from runs.commands import INTERRUPTED, refusing_bad_input, run_command
from runs.progress import say
from runs.transfer_plan import TARGETS, Job, Plan, TransferArgs

POLL_SECONDS = 0.5


def draw(plan: Plan) -> Path:
    """Draw a panel for each target: means with their intervals, of DQNs the learning curves; return the picture."""
    from matplotlib import color_sequences
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from runs.statistics import curve, interval

    rows = plan.rows()
    figure = Figure(figsize=(5 * len(plan.targets), 4), layout="constrained")
    panels = figure.subplots(1, len(plan.targets), squeeze=False)
    colours = color_sequences["tab20"]
    for axes, target in zip(panels[0], plan.targets, strict=True):
        for place, (name, row) in enumerate(rows.items()):
            curves, colour = row.get(target, []), colours[place % 20]
            if target == "dqn" and curves:
                steps, scores, band = curve(
                    [[([step for step, _ in points], [score for _, score in points]) for points in curves]]
                )
                axes.plot(steps, scores, color=colour, marker="o", markersize=3, label=name)
                if band is not None:
                    axes.fill_between(steps, *band, color=colour, alpha=0.12, linewidth=0)
            elif curves:
                values = [points[-1][1] for points in curves]
                low, high = interval([np.array(values)]) or (min(values), max(values))
                axes.plot([low, high], [place, place], color=colour, linewidth=2)
                axes.plot(float(np.mean(values)), place, marker="o", color=colour)
        axes.grid(alpha=0.3)
        if target == "dqn":
            axes.set(xlabel="steps", ylabel=TARGETS[target], title=target)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.legend(frameon=False, fontsize=8)
        else:
            axes.set(xlabel=TARGETS[target], title=target, ylim=(len(rows) - 0.5, -0.5))
            axes.set_yticks(range(len(rows)), list(rows) if axes is panels[0][0] else [""] * len(rows))
    path = plan.out / "results.png"
    figure.savefig(path, dpi=110)
    return path


def make(plan: Plan) -> int:
    """Run what is left, `--at-once` side by side; return the exit code, 0 once nothing is left."""
    at_once = plan.args.at_once
    free = [sorted(os.sched_getaffinity(0))[lane::at_once] for lane in range(at_once)] if at_once > 1 else [[]]
    busy: dict[Job, tuple[list[int], subprocess.Popen[bytes]]] = {}
    log = plan.log_file.open("a") if at_once > 1 else None
    try:
        while left := plan.left():
            ready = [job for job in left if job not in busy and all(need.is_done() for need in job.needs)]
            for job in ready[: len(free)]:
                hours = plan.seconds_left() / 3600
                say(f"[{len(left)} left, {hours:.1f} hours] {job.folder.relative_to(plan.out)}")
                with refusing_bad_input():
                    process = jobs.start(job.folder, job.command, log)
                cores = free.pop()
                busy[job] = cores, process
                if cores:
                    os.sched_setaffinity(process.pid, cores)
            while not (ended := [job for job, (_, process) in busy.items() if process.poll() is not None]):
                time.sleep(POLL_SECONDS)
            for job in ended:
                cores, process = busy.pop(job)
                free.append(cores)
                if process.returncode or not job.is_done():
                    said = f"; what it said stands in '{plan.log_file}'" if log else ""
                    say(f"{job.folder.relative_to(plan.out)} ended: the same command goes on{said}", stderr=True)
                    return process.returncode or 1
            for cell in plan.gather():
                value = plan.results[cell][-1][1]
                say(f"{cell.name}: {TARGETS[cell.target]} {value:.3f} (seed {cell.seed})")
            plan.write()
    except KeyboardInterrupt:
        say("stopped: the same command goes on", stderr=True)
        return INTERRUPTED
    finally:
        for _, process in busy.values():
            process.send_signal(signal.SIGINT)
        for _, process in busy.values():
            jobs.wait(process)
        if log:
            log.close()
    return 0


def main(args: TransferArgs) -> int:
    """Run what is left to do; return the exit code."""
    with refusing_bad_input():
        from envs.atari import check_game

        check_game(args.game)
        plan = Plan(args)
        plan.read_results()
    jobs.listen()
    left, total = plan.left(), len(plan.jobs())
    sizes = f"{args.updates:,} updates or {args.dqn_steps:,} steps each"
    hours = plan.seconds_left() / 3600
    say(f"{plan.out}: {total} runs of {sizes}, {len(left)} of them left, about {hours:.1f} hours")
    for job in left:
        say(f"  {job.folder.relative_to(plan.out)}")
    if args.plan:
        return 0
    with refusing_bad_input():
        plan.open()
    if code := make(plan):
        return code
    plan.write()
    picture = draw(plan)
    say((plan.out / "results.md").read_text())
    say(str(picture))
    return 0


if __name__ == "__main__":
    run_command(main)
