"""Draw the learning curves of runs: `python -m runs.curves RUN_FOLDER… --out FILE.png`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from runs.commands import PLOTS, need_writable, refusing_bad_input, run_command
from runs.folders import whole_rows


@dataclass(frozen=True)
class CurvesArgs:
    """Draw one metric of `metrics.csv` against another, a line for each run."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The runs' folders."""
    out: Path = Path("curves.png")
    """The picture: PNG, SVG or PDF."""
    metric: str = "evaluation_score"
    """What is drawn; where the runs have its standard deviation, that is a band around it."""
    over: str = "steps"
    """Against what: steps, frames, updates or seconds."""


def read_curve(folder: Path, over: str, metric: str) -> tuple[list[float], list[float], list[float]]:
    """Return a run's (over, metric, standard deviation), 0 where there is none, of the rows that tell them.

    Raises:
        ValueError: there is no run, or it does not tell them.
    """
    if not (folder / "metrics.csv").exists():
        raise ValueError(f"'{folder}' has no metrics.csv: give the folder of a run")
    rows = whole_rows(folder / "metrics.csv")
    told = [name for name in (rows[0] if rows else {}) if any(row[name] for row in rows)]
    if missing := [name for name in (over, metric) if name not in told]:
        raise ValueError(f"'{folder}' tells no {missing[0]}; it tells {', '.join(told) or 'nothing yet'}")
    # Rows of evaluations do not tell all counts: those are as in the row before. Of each place the last row counts:
    # the evaluation at the end is of more games than the one before it.
    place, last = "", {}
    for row in rows:
        place = row[over] or place
        if row[metric] and place:
            last[float(place)] = row
    spread = [float(row.get(f"{metric}_std") or 0) for row in last.values()]
    return list(last), [float(row[metric]) for row in last.values()], spread


def main(args: CurvesArgs) -> int:
    """Draw; return the exit code."""
    with refusing_bad_input():
        if not args.runs:
            raise ValueError("give the folder of at least one run")
        need_writable(args.out, *PLOTS)
        try:
            curves = [read_curve(run, args.over, args.metric) for run in args.runs]
        except ValueError as error:
            raise ValueError(f"{error}. See --metric and --over") from error
    names = [run.name for run in args.runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in args.runs]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, (x, y, spread) in zip(names, curves, strict=True):
        (line,) = axes.plot(x, y, marker="o", markersize=4, label=name)
        low, high = ([value + sign * band for value, band in zip(y, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set(xlabel=args.over.replace("_", " "), ylabel=args.metric.replace("_", " "))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(args.out, dpi=120)
    print(args.out)
    return 0


if __name__ == "__main__":
    run_command(main)
