"""Tell what a pretrained backbone is worth: `python -m runs.transfer pong --from none,contrast,dqn --to probe,dqn`."""

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from runs import jobs
from runs.commands import refusing_bad_input, run_command
from runs.curves import read_curve
from runs.folders import EVALUATION, RunFolder
from runs.perception_config import HEADS

TARGETS = {"probe": "F1 of a linear probe", "segmentation": "mIoU", "dqn": "score"}
NONE, RANDOM = "none", "random-frozen"
SECONDS_A_THOUSAND = {"perception": 110.0, "dqn": 1.7}  # updates and steps, on two cores of 2026; only for the plan
FINE_TUNING_RATE = "1e-4"  # of a pretrained backbone under a DQN, whose own head learns at 5e-4
EVALUATIONS = 8  # of a DQN, on its way
COLUMNS = ("source", "variant", "target", "seed", "value")


@dataclass(frozen=True)
class TransferArgs:
    """Pretrain a backbone on some things, use it for others, and tell what it gained, with intervals.

    What is there already is reused; a run that was stopped goes on. To go on, give the same command again.
    """

    game: tyro.conf.Positional[str]
    """An Atari game whose labels are known."""
    sources: Annotated[str, tyro.conf.arg(name="from")] = "none,random-frozen,contrast,segmentation,dqn"
    """What to pretrain on: any perception task, with a head of its own as in `autoencoding:variational`, or `dqn`;
    `none` trains all from nothing, `random-frozen` leaves a backbone as it was drawn."""
    targets: Annotated[str, tyro.conf.arg(name="to")] = "probe,segmentation,dqn"
    """What to use it for."""
    seeds: int = 3
    """Runs of each, with seeds 0, 1, 2, …"""
    updates: int = 3_000
    """Of each perception run."""
    dqn_steps: int = 200_000
    """Of each DQN."""
    record_steps: int = 20_000
    """Of the recording that perception learns from, made if it is not there."""
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
    job: Job

    def value(self) -> float:
        """Return the figure that its job came to."""
        result = EVALUATION if self.target == "dqn" else "test.json"
        found: Any = json.loads((self.job.folder / result).read_text())
        if self.target == "dqn":
            return float(found["mean"])
        return float(found["test"]["f1_weighted" if self.target == "probe" else "miou"])


class Plan:
    """All jobs of a table: what to pretrain, and what to use it for."""

    def __init__(self, args: TransferArgs) -> None:
        """Raise ValueError for a source or a target that there is not."""
        self.args, self.out = args, (args.out or Path("runs/out") / f"transfer-{args.game}").absolute()
        sources, targets = (list(dict.fromkeys(names.split(","))) for names in (args.sources, args.targets))
        heads = [f"{task}:{head}" for task, kinds in HEADS.items() for head in kinds]
        known = (NONE, RANDOM, "dqn", *HEADS, *heads)
        for name, choices in [(s, known) for s in sources] + [(t, tuple(TARGETS)) for t in targets]:
            if name not in choices:
                raise ValueError(f"'{name}' is none of {', '.join(choices)}")
        if min(args.seeds, args.updates, args.dqn_steps, args.record_steps) < 1:
            raise ValueError("--seeds, --updates, --dqn-steps and --record-steps must be at least 1")
        self._sizes = {name: getattr(args, name) for name in ("game", "updates", "dqn_steps", "record_steps")}
        self._sizes_file = self.out / "sizes.json"
        record = ("runs.record_frames", "--games", args.game, "--steps", str(args.record_steps))
        self.data = self.out / "data"
        self.pretraining: list[Job] = []
        if set(targets) != {"dqn"} or set(sources) - {NONE, RANDOM, "dqn"}:
            self.pretraining.append(Job(self.data, (*record, "--out", str(self.data)), 0.1))
        self.cells: list[Cell] = []
        for source in sources:
            variants = {NONE: ("whole",), RANDOM: ("frozen",)}.get(source, ("frozen", "fine-tuned"))
            for seed in range(args.seeds):
                if source not in (NONE, RANDOM):
                    self.pretraining.append(self._from_nothing(source, seed))
                for target in targets:
                    for variant in variants if target != "probe" else variants[:1]:
                        self.cells.append(Cell(source, variant, target, seed, self._use(source, variant, target, seed)))

    def check_sizes(self) -> None:
        """Raise ValueError where the runs that are there are of another game or of other sizes."""
        if self._sizes_file.exists() and (found := json.loads(self._sizes_file.read_text())) != self._sizes:
            raise ValueError(f"'{self.out}' holds runs of {found}: give the same game and sizes, or another --out")

    def open(self) -> None:
        """Take the folder, and write of what game and how large the runs are to `sizes.json`.

        Raises:
            ValueError: a transfer in it is alive, or it cannot be written.
        """
        self._lock = RunFolder(self.out, resumed=True)
        self._sizes_file.write_text(json.dumps(self._sizes))

    def jobs(self) -> Iterator[Job]:
        """Yield every job once, what others need first."""
        seen: set[Path] = set()
        for job in [*self.pretraining, *(cell.job for cell in self.cells)]:
            if job.folder not in seen:
                seen.add(job.folder)
                yield job

    def left(self) -> list[Job]:
        """Return the jobs that are not done."""
        return [job for job in self.jobs() if not job.is_done()]

    def seconds_left(self) -> float:
        """Return about how long they take: as long as those that are done, else as long as ours did."""
        rates = {kind: [rate] for kind, rate in SECONDS_A_THOUSAND.items()}
        for job in self.jobs():
            if job.is_done() and (job.folder / "metrics.csv").exists():
                rows = list(csv.DictReader((job.folder / "metrics.csv").open()))
                rates[job.kind].append(max(float(row["seconds"] or 0) for row in rows) / job.thousands)
        return sum(job.thousands * float(np.mean(rates[job.kind][1:] or rates[job.kind])) for job in self.left())

    def _from_nothing(self, what: str, seed: int) -> Job:
        if what == "dqn":
            return self._dqn(f"{NONE}-{seed}", seed)
        task, _, head = what.partition(":")
        return self._perception(f"{_name(what)}-{seed}", task, seed, *(["--head", head] if head else []))

    def _use(self, source: str, variant: str, target: str, seed: int) -> Job:
        """Return the job that uses a source's backbone, frozen or fine-tuned, for a target."""
        if source == NONE and target != "probe":
            return self._from_nothing(target, seed)
        eye = [] if source in (NONE, RANDOM) else ["--backbone", str(self._from_nothing(source, seed).folder)]
        name = f"{_name(source)}-{variant}-{seed}"
        if target == "dqn":
            how = {"frozen": ["--freeze-backbone-steps", str(self.args.dqn_steps)]}
            return self._dqn(name, seed, *eye, *how.get(variant, ["--backbone-learning-rate", FINE_TUNING_RATE]))
        task = "classification" if target == "probe" else target
        head = ["--head", "linear"] if target == "probe" else []
        return self._perception(f"{target}-{name}", task, seed, *eye, *(["--freeze"] * (variant == "frozen")), *head)

    def _perception(self, name: str, task: str, seed: int, *more: str) -> Job:
        folder, updates = self.out / "perception" / name, self.args.updates
        options = ["--data", str(self.data), "--game", self.args.game, "--total-updates", str(updates)]
        options += ["--seed", str(seed), "--no-baselines", "--tracking", "none", "--out", str(folder), *more]
        return Job(folder, ("runs.train_perception", task, *options), updates / 1_000)

    def _dqn(self, name: str, seed: int, *more: str) -> Job:
        folder, steps = self.out / "dqn" / name, self.args.dqn_steps
        options = [
            "--game",
            self.args.game,
            "--total-steps",
            str(steps),
            "--stop-at-score",
            "None",
            "--seed",
            str(seed),
        ]
        options += ["--evaluate-every-steps", str(max(1, steps // EVALUATIONS)), "--evaluation-video-steps", "0"]
        options += ["--tracking", "none", "--out", str(folder), *more]
        return Job(folder, ("runs.train_dqn", "pong", *options), steps / 1_000)


def _name(source: str) -> str:
    """Return a source as part of a folder's name."""
    return source.replace(":", "-")


def gathered(cells: list[Cell]) -> dict[tuple[str, str], dict[str, list[Cell]]]:
    """Return the cells that are done by source and variant, then by target."""
    rows: dict[tuple[str, str], dict[str, list[Cell]]] = {}
    for cell in cells:
        if cell.job.is_done():
            rows.setdefault((cell.source, cell.variant), {}).setdefault(cell.target, []).append(cell)
    return rows


def write_results(plan: Plan) -> None:
    """Write every figure that there is to `results.csv`, and the table of their means to `results.md`."""
    from runs.statistics import interval

    done = [cell for cell in plan.cells if cell.job.is_done()]
    with (plan.out / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((c.source, c.variant, c.target, c.seed, c.value()) for c in done)
    targets = [target for target in TARGETS if any(cell.target == target for cell in plan.cells)]
    lines = [f"| backbone | {' | '.join(TARGETS[target] for target in targets)} |", "|---" * (1 + len(targets)) + "|"]
    for (source, variant), row in gathered(plan.cells).items():
        shown = []
        for target in targets:
            values = [cell.value() for cell in row.get(target, [])]
            digits = 1 if target == "dqn" else 3
            told = f"{np.mean(values):.{digits}f}" if values else ""
            if values and (found := interval([np.array(values)])) is not None:
                told += f" [{found[0]:.{digits}f}, {found[1]:.{digits}f}]"
            shown.append(told + (f" ({len(values)})" if values and len(values) < plan.args.seeds else ""))
        name = source if source in (NONE, RANDOM) else f"{source}, {variant}"
        lines.append(f"| {name} | {' | '.join(shown)} |")
    (plan.out / "results.md").write_text("\n".join(lines) + "\n")


def draw(plan: Plan, path: Path) -> None:
    """Draw a panel for each target: means with their intervals, of DQNs the learning curves."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    from runs.statistics import curve, interval

    rows = gathered(plan.cells)
    targets = [target for target in TARGETS if any(target in row for row in rows.values())]
    figure, panels = pyplot.subplots(
        1, len(targets), figsize=(5 * len(targets), 4), layout="constrained", squeeze=False
    )
    colours = pyplot.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for axes, target in zip(panels[0], targets, strict=True):
        for place, ((source, variant), row) in enumerate(rows.items()):
            cells, colour = row.get(target, []), colours[place % 20]
            label = source if source in (NONE, RANDOM) else f"{source}, {variant}"
            if target == "dqn" and cells:
                runs = [read_curve(cell.job.folder, "steps", "evaluation_score")[:2] for cell in cells]
                steps, scores, band = curve([runs])
                axes.plot(steps, scores, color=colour, marker="o", markersize=3, label=label)
                if band is not None:
                    axes.fill_between(steps, *band, color=colour, alpha=0.12, linewidth=0)
            elif cells:
                values = [cell.value() for cell in cells]
                low, high = interval([np.array(values)]) or (min(values), max(values))
                axes.plot([low, high], [place, place], color=colour, linewidth=2)
                axes.plot(float(np.mean(values)), place, marker="o", color=colour, label=label)
        axes.set(xlabel="steps" if target == "dqn" else TARGETS[target])
        axes.set(ylabel=TARGETS[target] if target == "dqn" else "", title=target)
        axes.grid(alpha=0.3)
        if target != "dqn":
            axes.set_yticks([])
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main(args: TransferArgs) -> int:
    """Run what is left to do; return the exit code."""
    with refusing_bad_input():
        from envs.atari import check_game

        check_game(args.game)
        plan = Plan(args)
        plan.check_sizes()
    jobs.listen()
    left, total = plan.left(), len(list(plan.jobs()))
    print(f"{plan.out}: {total} runs, {total - len(left)} of them done; {plan.seconds_left() / 3600:.1f} hours left")
    for job in left:
        print(f"  {job.folder.relative_to(plan.out)}")
    if args.plan:
        return 0
    with refusing_bad_input():
        plan.open()
    for number, job in enumerate(left, start=1):
        print(
            f"[{number} of {len(left)}, {plan.seconds_left() / 3600:.1f} hours left] {job.folder.relative_to(plan.out)}"
        )
        sys.stdout.flush()
        with refusing_bad_input():
            process = jobs.start(job.folder, job.command)
        if code := jobs.wait(process):
            print(f"stopped at {job.folder.relative_to(plan.out)}. To go on: the same command again", file=sys.stderr)
            return code
        write_results(plan)
    write_results(plan)
    draw(plan, plan.out / "results.png")
    print((plan.out / "results.md").read_text())
    print(plan.out / "results.png")
    return 0


if __name__ == "__main__":
    run_command(main, TransferArgs)
