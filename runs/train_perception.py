"""Train a perception task: `python -m runs.train_perception segmentation --data DIR`, or `--resume RUN_FOLDER`."""

import shutil
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import tyro

from runs.commands import refusing_bad_input, resumes
from runs.perception_config import PerceptionConfig, PerceptionResumeArgs

if TYPE_CHECKING:
    from runs.perception_run import PerceptionRun

RANDOM_FROZEN = "random-frozen"  # the folder, in a run's, of the probe on a backbone that learnt nothing


def train(run: "PerceptionRun") -> str:
    """Run the loop; return why it ended: `done`, `stopped` or `diverged`."""
    config = run.config
    run.begin()
    while run.updates < config.total_updates and not run.stop_signal.number:
        images, targets = run.next_batch()
        run.learn(images, targets)

        # Look at it, save it.
        last = run.updates == config.total_updates
        if (last or run.passed(config.log_every_updates)) and not run.log():
            return "diverged"
        if last or run.passed(config.evaluate_every_updates):
            run.evaluate()
        if last or run.passed(config.checkpoint_every_updates):
            run.save()
    return "stopped" if run.stop_signal.number else "done"


def finish(run: "PerceptionRun", ended: str) -> str:
    """Test what there is, baselines beside it, and say how to go on; return why it ended."""
    if ended == "stopped":
        run.save()
        run.display.say(run.how_to_go_on(ended))
    if ended == "done":
        result = run.test()
        config = run.config
        if config.baselines and config.task == "classification" and run.data.recorded:
            probe, ended = random_frozen(run)
            result |= {RANDOM_FROZEN: probe} if probe else {}
            if ended == "diverged":
                run.display.say("warning: the probe beside it diverged and is left out")
                ended = "done"
        if ended == "done":
            run.keep(result)
        tell(run, result)
        run.display.say(f"pictures of the test split: {run.folder / 'test.png'}")
        run.display.say(run.how_to_go_on(ended))
    run.close()
    return ended


def random_frozen(run: "PerceptionRun") -> tuple[dict[str, Any] | None, str]:
    """Train a linear probe on a fresh backbone as the run's own was trained; return its test figures, and how it ended.

    In the run's folder, so that it is there once; one that was stopped starts again.
    """
    from runs.perception_run import PerceptionRun

    folder = run.folder / RANDOM_FROZEN
    shutil.rmtree(folder, ignore_errors=True)
    tracked = run.config.tracked.sent_to("none")
    fresh = {"backbone": run.backbone_name, "freeze": True, "finetune": False, "head": "linear", "baselines": False}
    run.display.say("beside it, a linear probe on a frozen backbone of random weights:")
    probe = PerceptionRun(replace(run.config, out=folder, tracked=tracked, **fresh), "none")
    probe.stop_signal = run.stop_signal
    with probe.display:
        ended = train(probe)
        result = probe.test() if ended == "done" else None
        probe.close()
    return result and result["test"], ended


def tell(run: "PerceptionRun", result: dict[str, Any]) -> None:
    """Print the test figures as a table, a column for the run and for each baseline."""
    from rich.table import Table

    columns = [name for name in ("majority", RANDOM_FROZEN, "test") if name in result]
    caption = "majority: a blind guess, of what is commonest" if "majority" in columns else None
    table = Table(title=f"{run.config.task} of {run.data.name}, test split", caption=caption)
    table.add_column("")
    for name in columns:
        table.add_column("this run" if name == "test" else name, justify="right")
    for metric in dict.fromkeys(metric for name in reversed(columns) for metric in result[name]):
        values = (result[name].get(metric) for name in columns)
        table.add_row(metric, *("" if value is None else f"{value:.3f}" for value in values))
    run.display.show(table)


def read_args(argv: list[str]) -> PerceptionConfig | PerceptionResumeArgs:
    """Read the command line: `--resume FOLDER`, or a task's name and what differs from its defaults."""
    kind = PerceptionResumeArgs if resumes(argv) else PerceptionConfig
    return tyro.cli(kind, args=argv, prog="python -m runs.train_perception", config=(tyro.conf.OmitArgPrefixes,))


def main(argv: list[str]) -> int:
    """Train; return 0 at the end of the run, 128 and its number when a signal stopped it, 3 when the loss diverged."""
    with refusing_bad_input():
        args = read_args(argv)
    if isinstance(args, PerceptionConfig) and args.check:
        from runs.check import check

        return check(args)
    with refusing_bad_input():
        from runs.perception_run import new_run, resumed_run

        run = new_run(args) if isinstance(args, PerceptionConfig) else resumed_run(args)
    run.stop_signal.listen()
    with run.display:
        ended = finish(run, train(run))
    return run.exit_code(ended)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
