"""Search for good settings: `python -m runs.search classification --data digits --parameters learning-rate`."""

import csv
import importlib
import math
import signal
import sys
import time
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import tyro

from agents.config import DQNConfig
from runs import jobs
from runs.commands import DIVERGED, INTERRUPTED, refusing_bad_input
from runs.config import TrainConfig
from runs.folders import RunFolder, whole_rows
from runs.perception_config import PerceptionConfig
from runs.presets import PRESETS
from runs.progress import console, say

RANGES = {
    "learning-rate": (1e-5, 1e-2),
    "backbone-learning-rate": (1e-6, 1e-3),
    "weight-decay": (1e-4, 1.0),
    "motion-weight": (1.0, 100.0),
    "label-spread": (0.1, 3.0),
    "gradient-clip-norm": (0.1, 100.0),
    "optimizer-epsilon": (1e-8, 1e-3),
    "auxiliary-weight": (1e-3, 10.0),
    "n-steps": (1, 10),
    "batch-size": (16, 256),
    "target-update-steps": (100, 10_000),
}
SCORED_BY = {
    "classification": ("f1_weighted",),
    "segmentation": ("miou",),
    "captioning": ("facts_true", "bleu4"),
    "autoencoding": ("psnr",),
    "contrast": ("validation_loss",),
    "gan": ("frechet",),
}
"""By what, the first that a run tells."""
LOWER_IS_BETTER = ("validation_loss", "frechet")
FINER = 4.0  # times narrower, on a log scale, once the better place is known
EDGE = 0.05  # of a range, on a log scale, that counts as its end
POLL_SECONDS = 0.5
WARM_UP_TRIALS = 3  # that are never cut short: the others are compared with their median


@dataclass(frozen=True)
class SearchArgs:
    """Try settings at random on a log scale, first all over their ranges, then around the best; stop what lags behind.

    What follows is given to the training command as it is: `python -m runs.search segmentation --data DIR
    --total-updates 500`. The same command goes on with a search that was stopped.
    """

    what: tyro.conf.Positional[str]
    """A preset of `runs.train_dqn`, or a task of `runs.train_perception`."""
    parameters: tuple[str, ...] = ("learning-rate",)
    """What is searched, with its range where that is not the usual one: `learning-rate=1e-5:1e-2`."""
    trials: int = 16
    """Runs made in all, those stopped early too; the latter half looks around the best of the former."""
    out: Path | None = None
    """The search's folder; `runs/out/search-WHAT` when not given."""
    search_seed: int = 0
    """Of what is tried. The runs' own seed is their option."""


@dataclass(frozen=True)
class Parameter:
    """An option and the range that it is searched in."""

    name: str
    low: float
    high: float
    whole: bool
    """Whether it counts something."""

    def around(self, value: float) -> "Parameter":
        """Return it with a range `FINER` times as narrow around a value, within its own."""
        reach = (self.high / self.low) ** (0.5 / FINER)
        low, high = max(self.low, value / reach), min(self.high, value * reach)
        return Parameter(
            self.name, math.floor(low) if self.whole else low, math.ceil(high) if self.whole else high, self.whole
        )

    def edge(self, value: float) -> str | None:
        """Return which end of the range a value lies at, in words; None where it does not."""
        place = math.log(value / self.low) / math.log(self.high / self.low)
        if place > 1 - EDGE:
            return "upper"
        return "lower" if place < EDGE and not (self.whole and self.low == 1) else None


def read_parameter(text: str, agent: bool) -> Parameter:
    """Return the parameter that `name` or `name=LOW:HIGH` says.

    Raises:
        ValueError: there is no such option, or no such range.
    """
    name, _, range_ = text.partition("=")
    known = {f.name.replace("_", "-"): f.type for f in (*fields(TrainConfig), *fields(DQNConfig))}
    known |= {"auxiliary-weight": float}
    if not agent:
        known = {f.name.replace("_", "-"): f.type for f in fields(PerceptionConfig)}
    whole = known.get(name) is int
    if name not in known or not (whole or float in (known[name], *get_args(known[name]))):
        raise ValueError(f"--parameters {name}: no number that training takes; usual ones are {', '.join(RANGES)}")
    try:
        low, high = (float(end) for end in (range_.split(":") if range_ else RANGES[name]))
    except KeyError as error:
        raise ValueError(f"--parameters {name} has no usual range: give one, {name}=LOW:HIGH") from error
    except ValueError as error:
        raise ValueError(f"--parameters {text}: a range is LOW:HIGH, two numbers") from error
    if not 0 < low < high < math.inf or (whole and not (low.is_integer() and high.is_integer())):
        numbers = "whole numbers " if whole else ""
        raise ValueError(f"--parameters {text}: needs {numbers}0 < LOW < HIGH, the scale is logarithmic")
    return Parameter(name, low, high, whole)


def read_parameters(args: SearchArgs) -> list[Parameter]:
    """Return what is searched; a learning rate that falls to an end, only above that.

    Raises:
        ValueError: one cannot be meant.
    """
    agent = args.what in PRESETS
    parameters = [read_parameter(text, agent) for text in args.parameters]
    if args.what == "contrast" and any(each.name == "batch-size" for each in parameters):
        raise ValueError("a contrast's loss is against its batch, and grows with batch-size: it cannot be searched")
    least = PRESETS[args.what][1].agent.learning_rate_end if agent else None
    for index, (each, text) in enumerate(zip(parameters, args.parameters, strict=True)):
        if least and each.name == "learning-rate" and each.low < least:
            if each.name != text:
                raise ValueError(f"--parameters {text}: {args.what}'s ends at {least}, begin there")
            parameters[index] = replace(each, low=least)
    return parameters


class Search:
    """A study on disk, and the runs that it is made of."""

    def __init__(self, args: SearchArgs, passed_on: list[str]) -> None:
        """Open the study, or a new one.

        Raises:
            ValueError: optuna is missing, something cannot be meant, or the folder holds another search.
        """
        self.agent = args.what in PRESETS
        if not self.agent and args.what not in SCORED_BY:
            raise ValueError(f"'{args.what}' is no preset ({', '.join(PRESETS)}) and no task ({', '.join(SCORED_BY)})")
        if args.trials < 2:
            raise ValueError(f"trials {args.trials} must be at least 2")
        self.parameters = read_parameters(args)
        self.metrics = ("evaluation_score",) if self.agent else SCORED_BY[args.what]
        self.count = "steps" if self.agent else "updates"
        self.lower_is_better = self.metrics[0] in LOWER_IS_BETTER
        self.args = args
        self.out = (args.out or Path("runs/out") / f"search-{args.what}").absolute()
        program = "runs.train_dqn" if self.agent else "runs.train_perception"
        self.command = (program, args.what, *passed_on, "--tracking", "none")
        if self.agent:  # a search wants to know how good each gets
            self.command += ("--stop-at-score", "None")
        given = {option.split("=")[0].removeprefix("--").replace("_", "-") for option in passed_on}
        if twice := {each.name for each in self.parameters} & given:
            raise ValueError(f"--{min(twice)} is searched: give it a range, not a value")
        if single := {"resume", "check", "tracking", "stop-at-score", "out"} & given:
            raise ValueError(
                f"--{min(single)} is of single runs: a search goes on, scores and keeps them in its own way"
            )
        self._open_study()

    def _open_study(self) -> None:
        """Open what is on disk, or a new one."""
        try:
            self.optuna: Any = importlib.import_module("optuna")
        except ImportError as error:
            raise ValueError("optuna is not installed: pip install 'saccade[search]'") from error
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        self._lock = RunFolder(self.out, resumed=True)
        self.study = self.optuna.create_study(
            study_name="search",
            storage=f"sqlite:///{self.out / 'study.db'}",
            pruner=self.optuna.pruners.MedianPruner(n_startup_trials=WARM_UP_TRIALS),
            direction="minimize" if self.lower_is_better else "maximize",
            load_if_exists=True,
        )
        about = {"command": list(self.command), "parameters": list(self.args.parameters)}
        if self.study.user_attrs.get("about", about) != about:
            if any(trial.state.name in ("COMPLETE", "PRUNED") for trial in self.study.trials):
                raise ValueError(f"'{self.out}' holds a search for something else: give another --out")
            for begun in self.study.get_trials(states=(self.optuna.trial.TrialState.RUNNING,)):
                self.study.tell(begun.number, state=self.optuna.trial.TrialState.FAIL)
        self.study.set_user_attr("about", about)

    def run(self) -> None:
        """Make what is missing of the trials.

        Raises:
            KeyboardInterrupt: it was stopped; the next search goes on with what was begun.
            ValueError: the run of a stopped search is alive, or training refused its options.
        """
        states = self.optuna.trial.TrialState
        for stopped in self.study.get_trials(states=(states.RUNNING,)):
            self.study.tell(stopped.number, state=states.FAIL)
            if "folder" in stopped.user_attrs:
                self.study.enqueue_trial(stopped.params, user_attrs=stopped.user_attrs)
        while (made := len(self.study.get_trials(states=(states.COMPLETE, states.PRUNED)))) < self.args.trials:
            searched = self.parameters
            if made >= self.args.trials // 2 and (best := self._best()) is not None:
                searched = [each.around(best.params[each.name]) for each in self.parameters]
            # Drawn by the trial's number, so that a search that goes on tries nothing twice.
            seed = self.args.search_seed * 1_000_003 + len(self.study.trials)
            self.study.sampler = self.optuna.samplers.RandomSampler(seed=seed)
            trial = self.study.ask()
            values = {}
            for each in searched:
                suggest = trial.suggest_int if each.whole else trial.suggest_float
                values[each.name] = suggest(each.name, each.low, each.high, log=True)
            folder = Path(trial.user_attrs.get("folder", str(self.out / str(trial.number))))
            trial.set_user_attr("folder", str(folder))
            said = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
            say(f"run {made + 1} of {self.args.trials}: {said}")
            options = tuple(part for name, value in values.items() for part in (f"--{name}", repr(value)))
            if not jobs.is_whole(folder):
                self._follow(trial, folder, (*self.command, *options, "--out", str(folder)))
            else:
                self._tell(trial, folder)

    def _follow(self, trial: Any, folder: Path, command: tuple[str, ...]) -> None:
        """Run a trial, tell the study how it does, and stop it where it lags behind."""
        process, told, states = jobs.start(folder, command), 0, self.optuna.trial.TrialState
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                for count, value in self.scores(folder)[told:]:
                    trial.report(value, count)
                    told += 1
                    if process.poll() is None and trial.should_prune():
                        process.send_signal(signal.SIGTERM)
                        process.wait()
                        self.study.tell(trial, state=states.PRUNED)
                        return
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            if jobs.wait(process) == 0:
                self._tell(trial, folder)
            raise
        if process.returncode == 0:
            self._tell(trial, folder)
        elif process.returncode == DIVERGED:
            self.study.tell(trial, state=states.PRUNED)
        elif process.returncode in (INTERRUPTED, 128 + signal.SIGTERM, 128 + signal.SIGHUP):
            raise KeyboardInterrupt
        else:
            self.study.tell(trial, state=states.FAIL)
            raise ValueError(f"run {trial.number} ended with exit code {process.returncode}: what it said stands above")

    def _tell(self, trial: Any, folder: Path) -> None:
        """Tell the study what a whole run came to: its best evaluation."""
        values = [value for _, value in self.scores(folder)]
        if values:
            self.study.tell(trial, min(values) if self.lower_is_better else max(values))
        else:  # nothing but values that are no numbers
            self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)

    def scores(self, folder: Path) -> list[tuple[int, float]]:
        """Return the evaluations that a run has written so far, by its count."""
        found = {}
        for row in whole_rows(folder / "metrics.csv"):
            told = next((row[name] for name in self.metrics if row.get(name)), None)
            if told is not None and math.isfinite(float(told)):
                found[int(row[self.count])] = float(told)
        return sorted(found.items())

    def _best(self) -> Any:
        done = self.study.get_trials(states=(self.optuna.trial.TrialState.COMPLETE,))
        return self.study.best_trial if done else None

    def tell(self) -> None:
        """Print the runs, the best first, draw them, and warn where the best lies at the end of a range."""
        from rich.table import Table

        best = self._best()
        if best is None:
            raise ValueError("no run came to its end: what each said stands above")
        sign = 1 if self.lower_is_better else -1
        trials = [trial for trial in self.study.trials if trial.state.name in ("COMPLETE", "PRUNED")]
        trials.sort(
            key=lambda trial: math.inf if trial.value is None or trial.state.name == "PRUNED" else sign * trial.value
        )
        names = [each.name for each in self.parameters]
        rows = []
        for trial in trials:
            last = max(trial.intermediate_values.items(), default=(0, math.nan))
            whole = trial.state.name == "COMPLETE"
            score = trial.value if whole else last[1]
            stopped = "" if whole else f"stopped at {self.count[:-1]} {last[0]:,}"
            rows.append([Path(trial.user_attrs["folder"]).name, *(trial.params[n] for n in names), score, stopped])
        heads = ["run", *names, self.metrics[0], ""]
        table = Table(*heads)
        for row in rows:
            table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
        console().print(table)
        with (self.out / "trials.csv").open("w", newline="") as file:
            csv.writer(file).writerows([[*heads[:-1], "stopped"], *rows])
        self._draw()
        for each in self.parameters:
            if (edge := each.edge(best.params[each.name])) is not None:
                say(
                    f"warning: the best {each.name}, {best.params[each.name]:.3g}, lies at the {edge} end of its range "
                    f"{each.low:g} to {each.high:g}: search on with --parameters {each.name}=LOW:HIGH and another --out"
                )
        say(str(self.out / "parallel.png"))

    def _draw(self) -> None:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            plots = importlib.import_module("optuna.visualization.matplotlib")
            names = [each.name for each in self.parameters]
            axes = plots.plot_parallel_coordinate(self.study, params=names, target_name=self.metrics[0])
        figure = axes.figure
        for each in figure.axes:
            if each.get_label() == "<colorbar>":  # says what the first axis says, over the last one's numbers
                each.remove()
        figure.set_size_inches(3 + 2 * len(names), 4)
        figure.savefig(self.out / "parallel.png", dpi=120, bbox_inches="tight")
        pyplot.close(figure)


def read_args(argv: list[str]) -> tuple[SearchArgs, list[str]]:
    """Read the command line: the search's own options, and those that it passes on to training."""
    return tyro.cli(SearchArgs, args=argv, prog="python -m runs.search", return_unknown_args=True)


def main(argv: list[str]) -> int:
    """Search; return 0, or 130 when it was interrupted."""
    with refusing_bad_input():
        search = Search(*read_args(argv))
    jobs.listen()
    with refusing_bad_input():
        try:
            search.run()
            search.tell()
        except KeyboardInterrupt:
            say("stopped. The same command goes on")
            return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
