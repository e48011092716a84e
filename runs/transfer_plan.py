"""What a table of transfer is made of: its cells, the jobs that they read, and the results that there are."""

import csv
import json
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from runs import jobs
from runs.curves import read_curve
from runs.folders import RunFolder
from runs.perception_config import HEADS

TARGETS = {"probe": "F1 of a linear probe", "segmentation": "mIoU", "dqn": "score"}
NONE, RANDOM = "none", "random-frozen"
SECONDS_A_THOUSAND = {"perception": 110.0, "dqn": 1.7}  # updates and steps, on two cores of 2026; only for the plan
FINE_TUNING_RATE = "1e-4"  # of a pretrained backbone under a DQN, whose own head learns at 5e-4
EVALUATIONS = 8  # of a DQN, on its way
COLUMNS = ("source", "variant", "target", "seed", "steps", "value")

Curve = list[tuple[int, float]]
"""Values by steps of a DQN, by updates of perception; the last is what it came to."""


@dataclass(frozen=True)
class TransferArgs:
    """Pretrain a backbone on some things, use it for others, and tell what it gained, with intervals.

    What is there already is reused; a run that was stopped goes on. To go on, give the same command again: of runs
    that are done `results.csv` and `sizes.json` are enough, their folders may be deleted.
    """

    game: tyro.conf.Positional[str]
    """An Atari game whose labels are known."""
    sources: Annotated[str, tyro.conf.arg(name="from")] = "none,random-frozen,contrast,segmentation,dqn"
    """What to pretrain on: any perception task, with a head of its own as in `autoencoding:variational`, or `dqn`;
    `none` trains all from nothing, `random-frozen` leaves a backbone as it was drawn."""
    targets: Annotated[str, tyro.conf.arg(name="to")] = "probe,segmentation,dqn"
    """What to use it for: a `probe`, a linear layer that reads the game's variables off it, `segmentation`, `dqn`."""
    seeds: int = 3
    """Runs of each, with seeds 0, 1, 2, …"""
    updates: int = 3_000
    """Of each perception run."""
    dqn_steps: int = 200_000
    """Of each DQN."""
    record_steps: int = 20_000
    """Of the recording that perception learns from, made if it is not there."""
    at_once: int = 1
    """Runs side by side, each on its share of the cores. Two on two cores make about a third more in the same time."""
    out: Path | None = None
    """Where everything goes; `runs/out/transfer-GAME` when not given."""
    plan: bool = False
    """Say what there is to do and how long it takes, and stop."""


@dataclass(frozen=True)
class Job:
    """A run of one of our commands, in a folder of its own."""

    folder: Path
    command: tuple[str, ...]
    thousands: float
    """Of updates or steps."""
    needs: tuple["Job", ...] = ()
    """The jobs whose folders it reads."""

    @property
    def kind(self) -> str:
        """What its time goes by."""
        return "dqn" if self.command[0] == "runs.train_dqn" else "perception"

    def is_done(self) -> bool:
        """Whether it came to its end."""
        card = self.folder / "card.json"
        if card.exists():
            found = json.loads(card.read_text())
            return all(found["done"].get(game, [0])[0] >= found["steps"] for game in found["games"])
        return jobs.is_whole(self.folder)


@dataclass(frozen=True)
class Cell:
    """What one source, used in one way, gave one target."""

    source: str
    variant: str
    target: str
    seed: int

    @property
    def name(self) -> str:
        """Its backbone in words."""
        return self.source if self.source in (NONE, RANDOM) else f"{self.source}, {self.variant}"

    def read(self, folder: Path) -> Curve:
        """Return what the run in a folder came to: of a DQN the scores on its way too, of perception the test's."""
        if self.target == "dqn":
            steps, scores, _ = read_curve(folder, "steps", "evaluation_score")
            return [(int(step), score) for step, score in zip(steps, scores, strict=True)]
        found: Any = json.loads((folder / "test.json").read_text())
        return [(found["updates"], float(found["test"]["f1_weighted" if self.target == "probe" else "miou"]))]


class Plan:
    """All jobs of a table: what to pretrain, and what to use it for."""

    def __init__(self, args: TransferArgs) -> None:
        """Raise ValueError for a source or a target that there is not."""
        from runs.machine import usable_cores

        self.args, self.out = args, (args.out or Path("runs/out") / f"transfer-{args.game}").absolute()
        sources, targets = (dict.fromkeys(names.split(",")) for names in (args.sources, args.targets))
        heads = [f"{task}:{head}" for task, kinds in HEADS.items() for head in kinds]
        known = (NONE, RANDOM, "dqn", *HEADS, *heads)
        for name, choices in [(s, known) for s in sources] + [(t, tuple(TARGETS)) for t in targets]:
            if name not in choices:
                raise ValueError(f"'{name}' is none of {', '.join(choices)}")
        self.targets = [target for target in TARGETS if target in targets]
        if min(args.seeds, args.updates, args.dqn_steps, args.record_steps) < 1:
            raise ValueError("--seeds, --updates, --dqn-steps and --record-steps must be at least 1")
        most = usable_cores() if hasattr(os, "sched_setaffinity") else 1
        if not 1 <= args.at_once <= most:
            raise ValueError(f"--at-once {args.at_once} must be 1 to {most}: each run needs a core that can be its own")
        self._sizes = {name: getattr(args, name) for name in ("game", "updates", "dqn_steps", "record_steps")}
        self._sizes_file, self._results_file = self.out / "sizes.json", self.out / "results.csv"
        self.log_file = self.out / "log.txt"
        """What runs that are side by side say."""
        record = ("runs.record_frames", "--games", args.game, "--steps", str(args.record_steps))
        self.data = Job(self.out / "data", (*record, "--out", str(self.out / "data")), 0.1)
        self.cells: dict[Cell, Job] = {}
        for seed in range(args.seeds):
            for source in sources:
                variants = {NONE: ("whole",), RANDOM: ("frozen",)}.get(source, ("frozen", "fine-tuned"))
                for target in targets:
                    for variant in variants if target != "probe" else variants[:1]:
                        self.cells[Cell(source, variant, target, seed)] = self._use(source, variant, target, seed)
        self.results: dict[Cell, Curve] = {}

    def read_results(self) -> None:
        """Read `results.csv`, where there is one, and take in what the folders of runs hold beyond it.

        Raises:
            ValueError: what is there is of another game or of other sizes.
        """
        from runs.checkpoints import load_json

        if self._sizes_file.exists() and (found := load_json(self._sizes_file)) != self._sizes:
            raise ValueError(f"'{self.out}' holds runs of {found}: give the same game and sizes, or another --out")
        if self._results_file.exists():
            if not self._sizes_file.exists():
                raise ValueError(
                    f"'{self._results_file}' lacks the sizes.json beside it, which tells the game: copy both"
                )
            with self._results_file.open(newline="") as file:
                reader = csv.DictReader(file)
                if tuple(reader.fieldnames or ()) != COLUMNS:
                    raise ValueError(f"'{self._results_file}' is not of this command: move it away")
                for row in reader:
                    cell = Cell(row["source"], row["variant"], row["target"], int(row["seed"]))
                    self.results.setdefault(cell, []).append((int(row["steps"]), float(row["value"])))
        self.gather()

    def gather(self) -> list[Cell]:
        """Take in the results of the runs that have come to their end; return which are new."""
        new = [cell for cell, job in self.cells.items() if cell not in self.results and job.is_done()]
        self.results |= {cell: cell.read(self.cells[cell].folder) for cell in new}
        return new

    def open(self) -> None:
        """Take the folder, and write of what game and how large the runs are to `sizes.json`.

        Raises:
            ValueError: a transfer in it is alive, or it cannot be written.
        """
        from runs.checkpoints import replace_text

        self._lock = RunFolder(self.out, resumed=True)
        replace_text(self._sizes_file, json.dumps(self._sizes) + "\n")

    def jobs(self) -> list[Job]:
        """Return every job once, after those that it needs."""
        return _in_order(self.cells.values())

    def left(self) -> list[Job]:
        """Return the jobs that are to be done: those of cells without a result, and what they need."""
        missing = [job for cell, job in self.cells.items() if cell not in self.results]
        return [job for job in _in_order(missing) if not job.is_done()]

    def seconds_left(self) -> float:
        """Return about how long they take: as long as those that are done, else as long as ours did."""
        at_once = self.args.at_once
        measured: dict[str, list[float]] = {kind: [] for kind in SECONDS_A_THOUSAND}
        for job in self.jobs():
            if job.is_done() and (job.folder / "metrics.csv").exists():
                seconds = max(read_curve(job.folder, "seconds", "seconds")[0])
                measured[job.kind].append(seconds / job.thousands / at_once)
        expected = {kind: rate / (1 + (at_once - 1) / 3) for kind, rate in SECONDS_A_THOUSAND.items()}
        rates = {kind: float(np.mean(found or expected[kind])) for kind, found in measured.items()}
        return sum(job.thousands * rates[job.kind] for job in self.left())

    def write(self) -> None:
        """Write every figure that there is to `results.csv`, and the table of their means to `results.md`."""
        from runs.statistics import interval

        waiting = self._results_file.with_suffix(".new")
        with waiting.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for cell, curve in self.results.items():
                writer.writerows((*astuple(cell), steps, value) for steps, value in curve)
        waiting.replace(self._results_file)
        targets = self.targets
        lines = [
            f"| backbone | {' | '.join(TARGETS[target] for target in targets)} |",
            "|---" * (1 + len(targets)) + "|",
        ]
        for name, row in self.rows().items():
            shown = []
            for target in targets:
                values = [curve[-1][1] for curve in row.get(target, [])]
                digits = 1 if target == "dqn" else 3
                told = f"{np.mean(values):.{digits}f}" if values else ""
                if values and (found := interval([np.array(values)])) is not None:
                    told += f" [{found[0]:.{digits}f}, {found[1]:.{digits}f}]"
                shown.append(told + (f" ({len(values)})" if values and len(values) < self.args.seeds else ""))
            lines.append(f"| {name} | {' | '.join(shown)} |")
        (self.out / "results.md").write_text("\n".join(lines) + "\n")

    def rows(self) -> dict[str, dict[str, list[Curve]]]:
        """Return the results that there are by backbone and target, in the order that the sources were given in."""
        rows: dict[str, dict[str, list[Curve]]] = {}
        for cell in self.cells:
            if cell in self.results:
                rows.setdefault(cell.name, {}).setdefault(cell.target, []).append(self.results[cell])
        return rows

    def _from_nothing(self, what: str, seed: int) -> Job:
        if what == "dqn":
            return self._dqn(f"{NONE}-{seed}", seed, None)
        task, _, head = what.partition(":")
        return self._perception(f"{_name(what)}-{seed}", task, seed, None, *(["--head", head] if head else []))

    def _use(self, source: str, variant: str, target: str, seed: int) -> Job:
        """Return the job that uses a source's backbone, frozen or fine-tuned, for a target."""
        if source == NONE and target != "probe":
            return self._from_nothing(target, seed)
        eye = None if source in (NONE, RANDOM) else self._from_nothing(source, seed)
        name = f"{_name(source)}-{variant}-{seed}"
        if target == "dqn":
            how = {"frozen": ["--freeze-backbone-steps", str(self.args.dqn_steps)]}
            return self._dqn(name, seed, eye, *how.get(variant, ["--backbone-learning-rate", FINE_TUNING_RATE]))
        task = "classification" if target == "probe" else target
        head = ["--head", "linear"] if target == "probe" else []
        return self._perception(f"{target}-{name}", task, seed, eye, *(["--freeze"] * (variant == "frozen")), *head)

    def _perception(self, name: str, task: str, seed: int, eye: Job | None, *more: str) -> Job:
        updates = self.args.updates
        options = ["--data", str(self.data.folder), "--game", self.args.game, "--total-updates", str(updates)]
        command = ["runs.train_perception", task, *options, "--no-baselines", *more]
        return self._training(self.out / "perception" / name, command, seed, updates, (self.data,), eye)

    def _dqn(self, name: str, seed: int, eye: Job | None, *more: str) -> Job:
        steps = self.args.dqn_steps
        options = ["--game", self.args.game, "--total-steps", str(steps), "--stop-at-score", "None"]
        options += ["--evaluate-every-steps", str(max(1, steps // EVALUATIONS)), "--evaluation-video-steps", "0"]
        return self._training(
            self.out / "dqn" / name, ["runs.train_dqn", "pong", *options, *more], seed, steps, (), eye
        )

    def _training(
        self, folder: Path, command: list[str], seed: int, count: int, needs: tuple[Job, ...], eye: Job | None
    ) -> Job:
        command += ["--seed", str(seed), "--tracking", "none", "--out", str(folder)]
        if eye is not None:
            command += ["--backbone", str(eye.folder)]
            needs += (eye,)
        return Job(folder, tuple(command), count / 1_000, needs)


def _name(source: str) -> str:
    """Return a source as part of a folder's name."""
    return source.replace(":", "-")


def _in_order(wanted: Iterable[Job]) -> list[Job]:
    """Return jobs and what they need, each once, after what it needs."""
    found: dict[Job, None] = {}
    for job in wanted:
        found |= dict.fromkeys((*_in_order(job.needs), job))
    return list(found)
