"""What every run has, whatever learns in it: a folder of its own, a display, a tracker, checkpoints, an end."""

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from runs import machine
from runs.checkpoints import (
    CheckpointError,
    CheckpointWriter,
    load_json,
    newest_checkpoint,
    restore_weights,
    save_json,
    write_about,
)
from runs.commands import DIVERGED, StopSignal, first_line
from runs.config import ResumeRun, SB3Config, TrainConfig
from runs.evaluate import describe
from runs.folders import EVALUATION, RunFolder
from runs.perception_config import PerceptionConfig
from runs.progress import ProgressDisplay
from runs.tracking import Tracker, need_tracker

Config = TypeVar("Config", TrainConfig, PerceptionConfig, SB3Config)


class Run(Generic[Config]):
    """A run, new or resumed. Each kind of run sets up what learns, then opens the folder."""

    command: ClassVar[str]
    """The module that trains, and goes on."""
    metrics: ClassVar[dict[str, str]]
    """What it tracks, and what each means; the first is what it counts by."""
    format: ClassVar[str]
    """Of its checkpoints."""
    unit: ClassVar[str] = "step"
    """What `done` and `total` count: the run has an attribute `steps`, its configuration `total_steps`."""

    def __init__(self, config: Config, wandb_id: str) -> None:
        """Take a configuration in which `auto` is settled.

        Raises:
            ValueError: the tracker is not installed.
        """
        assert config.out is not None
        need_tracker(config.tracked.tracking)
        self.config, self.folder, self._wandb_id = config, config.out, wandb_id
        self.stop_signal = StopSignal()
        self._seconds = 0.0
        machine.settle_thread(config.num_threads)

    @property
    def done(self) -> int:
        """Units so far."""
        return int(getattr(self, f"{self.unit}s"))

    @property
    def total(self) -> int:
        """Units at its end."""
        return int(getattr(self.config, f"total_{self.unit}s"))

    def _load(self, checkpoint: Path) -> None:
        """Become what the run was when that was written."""
        raise NotImplementedError

    def _open(self, checkpoint: Path | None) -> None:
        """Take the folder, which is made here and not sooner, so that a run that is refused leaves none.

        Raises:
            ValueError: it has other contents or another holder, or the checkpoint is damaged or does not fit.
        """
        self._resumed = checkpoint is not None
        self._lock = RunFolder(self.folder, resumed=self._resumed)
        self.display = ProgressDisplay(self.total, f"{self.unit}s")
        self._checkpoints = CheckpointWriter(self.folder, self.config.checkpoints_kept, self.unit, self.display.say)
        if checkpoint is not None:
            if newest_checkpoint(self.folder) != checkpoint:  # by a run that ended since this was chosen
                raise CheckpointError(f"'{self.folder}' went on meanwhile: give the same command again")
            self._checkpoints.previous = checkpoint
            restore_weights(self.folder, "best")
            try:
                self._load(checkpoint)
            except (KeyError, RuntimeError, TypeError, IndexError) as error:
                raise misfit(checkpoint, error) from error
            if (self.folder / EVALUATION).exists():  # it is not at its end any more
                save_json(self.folder / EVALUATION, load_json(self.folder / EVALUATION) | {"final": False})
        write_about(self.folder, self.format, self.config, {"wandb_id": self._wandb_id})

    def _is_finite(self) -> bool:
        """Whether what was learnt since the last look at it, or is known by now, are finite numbers."""
        raise NotImplementedError

    def _may_be_kept(self) -> bool:
        """Whether what there is may replace the last good checkpoint; say so where it may not."""
        finite = self._is_finite()
        if not finite:
            self.display.say("warning: no checkpoint, because the loss is not a finite number; the last good one stays")
        return finite

    def _save_checkpoint(self, write: Callable[[Path], None]) -> Path | None:
        """Write a checkpoint, with the rows of metrics before it on disk; where that fails, warn and return None."""

        def write_all(folder: Path) -> None:
            self._tracker.sync()
            write(folder)

        return self._checkpoints.save(self.done, write_all)

    def _write(self, path: Path, write: Callable[[Path], object]) -> bool:
        """Write a file that a run can go on without; where that fails, warn and return False."""
        try:
            path.parent.mkdir(exist_ok=True)
            write(path)
        except OSError as error:
            self.display.say(f"warning: could not write '{path}' ({error.strerror or error}); training goes on")
            return False
        return True

    def _log_evaluation(self, row: dict[str, float], result: dict[str, Any]) -> None:
        """Log an agent's scores in a row with what was counted, and each game's; and say them."""
        row |= {"evaluation_score": result["mean"], "evaluation_score_std": result["std"]}
        if result["human_normalized"] is not None:
            row["evaluation_human_normalized"] = result["human_normalized"]
        self._tracker.log(row)
        self._tracker.log_episodes(result["scores"], result["lengths_steps"], self.done)
        self.display.say(f"step {self.done:,}: {describe(result)}")

    def _write_evaluation(self, result: dict[str, Any], *, final: bool) -> None:
        """Write an agent's scores to `evaluation.json`; the final ones say that the run is at its end."""
        about = result | {"steps": self.done, "final": final}
        self._write(self.folder / EVALUATION, lambda path: save_json(path, about))

    def _begin(self, words: str) -> None:
        """Open the tracker, and say in `words` what learns what, and where the run lives."""
        state = f"resumed at {self.unit} {self.done:,}" if self._resumed else "new"
        self.display.say(f"{words}, {state}: {self.folder}")
        machine.settle_process()
        resumed_at = self.done if self._resumed else None
        self._tracker = Tracker(self.folder, self.metrics, self.config, self._wandb_id, resumed_at, self.display.say)
        self.display.begin(self.done)
        self._clock = time.monotonic() - self._seconds

    def seconds(self) -> float:
        """Return how long it has run, earlier parts of it included."""
        return round(time.monotonic() - self._clock, 2)

    def how_to_go_on(self, ended: str) -> str:
        """Return why and where it ended, and the command that goes on."""
        more = "" if ended == "stopped" else f" --total-{self.unit}s N"
        resume = f"python -m {self.command} --resume '{self.folder}'{more}"
        return f"{ended} at {self.unit} {self.done:,}. To go on: {resume}"

    def exit_code(self, ended: str) -> int:
        """Return what its process does: 0 at the end, 128 and its number after a signal, 3 when the loss diverged."""
        if ended == "stopped":
            return self.stop_signal.exit_code
        return DIVERGED if ended == "diverged" else 0


def misfit(checkpoint: Path, error: Exception) -> CheckpointError:
    """Return what is raised for a checkpoint that another version of this program wrote."""
    about = f"'{checkpoint}' does not fit ({first_line(error)})"
    return CheckpointError(f"{about}: go on with the version of this program that wrote it")


def settled(config: Config, about: str) -> Config:
    """Return a new run's configuration with its device, its name, which begins with `about`, and its folder.

    Raises:
        ValueError: there is no such device.
    """
    name = config.run_name or f"{about}-s{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    out = (config.out or Path("runs/out") / name).absolute()
    return replace(config, run_name=name, out=out, device=machine.choose_device(config.device))


def new_wandb_id() -> str:
    """Return a name for W&B's run, which a resumed run keeps."""
    return secrets.token_hex(4)


def refuse_finished(checkpoint: Path, unit: str, total: int | None, planned: int, ended: bool) -> None:
    """Raise CheckpointError where nothing is left to do.

    That is where a run has `ended`, scores and all, and no new `total` beyond that is given, and where a new one, other
    than was `planned`, lies behind it.
    """
    count = int(checkpoint.name)
    if (ended and (total or 0) <= count) or (total not in (None, planned) and (total or 0) < count):
        which = "which is its end" if ended else f"which is beyond {total:,}"
        raise CheckpointError(
            f"'{checkpoint.parent.parent}' is at {unit} {count:,}, {which}: give a larger --total-{unit}s"
        )


def resumed(args: ResumeRun, read: Callable[[Path], tuple[Config, dict[str, Any]]]) -> tuple[Config, str, Path]:
    """Return the configuration, W&B's run and the newest checkpoint of the run in a folder; `read` reads the former.

    The configuration is that of the run's last start, which may have moved its end since the checkpoint.

    Raises:
        ValueError: there is no checkpoint, it is damaged, or there is no such device.
    """
    folder = args.resume.absolute()
    checkpoint = newest_checkpoint(folder)
    config, about = read(checkpoint)
    if (folder / "config.json").exists() and "format" in load_json(folder / "config.json"):
        config = read(folder)[0]
    device = machine.choose_device(args.device or config.device)
    tracked = config.tracked.sent_to(args.tracking)
    return replace(config, out=folder, device=device, tracked=tracked), about["wandb_id"], checkpoint
