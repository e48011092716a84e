"""What a report says: Markdown of headings, tables and the names of pictures; and the same as HTML on its own."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from envs.scores import Published, published
from runs.config import SB3Config
from runs.report_pictures import normalised_scores
from runs.results import Result, Setting, differences, shown
from runs.statistics import (
    CONFIDENCE,
    RESAMPLES,
    Interval,
    Statistic,
    curve,
    interquartile_mean,
    interval,
    mean,
    median,
    optimality_gap,
)

STATISTICS: dict[str, Statistic] = {
    "IQM": interquartile_mean,
    "median": median,
    "mean": mean,
    "optimality gap": optimality_gap,
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1160px; margin: 2em auto;
  padding: 0 1em; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2em; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 13px; }
th, td { padding: 4px 9px; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid #999; vertical-align: bottom; } tr:hover td { background: #f6f6f6; }
td { font-variant-numeric: tabular-nums; } img { max-width: 100%; } code { background: #f3f3f3; padding: 0 3px; }
"""


class FinalTable(NamedTuple):
    """Final scores under one protocol, beside what was published under it."""

    protocol: str
    head: list[str]
    rows: list[list[str]]
    columns: list[Published]


def markdown(settings: Sequence[Setting], pictures: dict[str, str]) -> str:
    """Return the report; `pictures` says where `curves` and, if there are any, `statistics` and `strips` lie."""
    results = [result for setting in settings for result in setting.results]
    games = sorted({result.env.game for result in results})
    title = escaped(", ".join(games)) if len(games) <= 4 else f"{len(games)} games"
    lines = [f"# {title}", "", f"Runs: {len(results)}. Settings: {len(settings)}. Games: {len(games)}.", ""]
    lines += [f"- {note}" for note in notes(settings)]
    lines += ["", "## Final scores", "", *_final_scores(settings)]
    if any(normalised_scores(setting) for setting in settings):
        lines += ["", "## Over all games", "", *_over_games(settings), "", _picture(pictures, "statistics")]
    lines += ["", "## Learning curves", "", _picture(pictures, "curves"), ""]
    lines += ["The mean over seeds and its 95 % interval, as far as all seeds go; faint, each seed."]
    if "strips" in pictures:
        lines += ["", "## Videos", "", _picture(pictures, "strips")]
    lines += ["", "## Settings that differ", "", *_settings(settings)]
    lines += ["", "## Hardware and versions", "", *_machines(results)]
    lines += ["", "## Runs", "", *_runs(settings)]
    lines += ["", "## The curves in numbers", "", *_curves(settings)]
    return "\n".join(lines) + "\n"


def html(text: str, pictures: dict[str, bytes]) -> str:
    """Return Markdown whose pictures are named as in `pictures` as one HTML page that needs no other file."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for name, data in pictures.items():
        body = body.replace(f'src="{name}"', f'src="data:image/png;base64,{base64.b64encode(data).decode()}"')
    title = escape(text.splitlines()[0].removeprefix("# "))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    page = f'<html lang="en">\n<head>{head}<style>{STYLE}</style></head>\n<body>\n{body}</body>\n</html>'
    return f"<!doctype html>\n{page}\n"


def notes(settings: Sequence[Setting]) -> Iterator[str]:
    """Yield what a reader must know before comparing."""
    for setting in settings:
        for game, results in setting.games.items():
            seeds = [result.config.seed for result in results]
            where = escaped(f"{game}, {setting.name}")
            if len(results) == 1:
                yield f"{where}: one seed, hence no interval."
            if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
                yield f"{where}: seed {', '.join(map(str, twice))} is there more than once."
            if len({(r.versions.get("processor"), r.versions.get("gpu")) for r in results}) > 1:
                yield f"{where}: on several kinds of machine, whose wall clocks do not compare."
            for result in results:
                if not result.finished:
                    steps = f"{result.evaluation['steps']:,} of {result.config.total_steps:,}"
                    yield f"{where}: seed {result.config.seed} has not come to its end; it was scored at step {steps}."
    if len({tuple(setting.games) for setting in settings}) > 1:
        yield "Not every setting has every game: its figures over all games are of those that it has."
    yield (
        f"Intervals are of the stratified bootstrap over seeds ({100 * CONFIDENCE:.0f} %, {RESAMPLES:,} draws, "
        "percentiles; Agarwal et al. 2021). Of one game's two or three seeds it is from the least to the greatest."
    )


def number(value: float) -> str:
    """Return a score as the report prints it."""
    return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.1f}"


def with_interval(value: float, found: Interval) -> str:
    """Return a figure and its interval as the report prints them."""
    return number(value) + (f" [{number(found[0])}, {number(found[1])}]" if found is not None else "")


def escaped(words: object) -> str:
    """Return words that Markdown takes as they are: a stranger's run makes no link and no picture of them."""
    plain = "".join("\\" + letter if letter in "\\|<>*`&" else letter for letter in str(words))
    return plain.replace("](", "]\\(")


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    every = [[escaped(cell) for cell in row] for row in (head, *rows)]
    every.insert(1, ["---"] * len(head))
    return [f"| {' | '.join(row)} |" for row in every]


def _picture(pictures: dict[str, str], name: str) -> str:
    return f"![{name}]({pictures[name]})"


def final_tables(settings: Sequence[Setting]) -> Iterator[FinalTable]:
    """Yield a table for each protocol, so that none is compared with another."""
    rows = [(game, s, results) for s in settings for game, results in s.games.items()]
    rows.sort(key=lambda row: row[0])
    for protocol in sorted({results[0].env.protocol for _, _, results in rows}):
        mine = [row for row in rows if row[2][0].env.protocol == protocol]
        columns: dict[str, dict[str, Published]] = {}  # by name and algorithm
        for _, _, results in mine:
            for column in _comparable(results[0]):
                if any(game in column.scores for game, _, _ in mine):
                    columns.setdefault(column.name, {})[column.algorithm] = column
        head = ["game", "setting", "ε", "seeds", "steps", "wall clock", "score [95 %]", "human-normalised", *columns]
        shown_of = [column for of_algorithms in columns.values() for column in of_algorithms.values()]
        yield FinalTable(protocol, head, [_final_row(*row, columns) for row in mine], shown_of)


def _final_scores(settings: Sequence[Setting]) -> Iterator[str]:
    for protocol, head, rows, columns in final_tables(settings):
        yield f"Protocol `{protocol}`; the mean over seeds of the last evaluation."
        yield ""
        yield from _table(head, rows)
        yield ""
        for column in columns:
            yield f"- {column.name} ({column.algorithm}): {escaped(column.taken)}."
        yield ""


def _final_row(
    game: str, setting: Setting, results: list[Result], columns: dict[str, dict[str, Published]]
) -> list[str]:
    scores = np.array([result.score for result in results])
    human = [result.evaluation["human_normalized"] for result in results]
    row = [
        game,
        setting.name,
        _range(sorted({result.evaluation["epsilon"] for result in results}), "g"),
        str(len(results)),
        _range(sorted({result.evaluation["steps"] for result in results})),
        _clock(float(np.mean([result.seconds for result in results]))),
        with_interval(float(scores.mean()), interval([scores])),
        "" if None in human else with_interval(float(np.mean(human)), interval([np.array(human)])),
    ]
    allowed = {column.name for column in _comparable(results[0])}
    for name, of_algorithms in columns.items():
        column = of_algorithms.get(results[0].algorithm)
        there = name in allowed and column is not None and game in column.scores
        row.append(number(column.scores[game]) if there and column is not None else "")
    return row


def _comparable(result: Result) -> list[Published]:
    """Return what was published of the run's algorithm under its rules."""
    env = result.env
    altered = env.full_action_space or env.mode is not None or env.difficulty is not None
    return [] if altered else published(result.algorithm, env.protocol)


def _over_games(settings: Sequence[Setting]) -> Iterator[str]:
    """Yield the table of statistics of human-normalised scores, of the games that have a human score."""
    yield (
        "Human-normalised scores of all runs: 0 is the random agent, 1 the human. IQM is the mean of the middle half, "
        "the optimality gap how far runs stay below 1 on average."
    )
    yield ""
    rows = []
    for setting in settings:
        if strata := normalised_scores(setting):
            told = [with_interval(float(of(*strata)), interval(strata, of)) for of in STATISTICS.values()]
            rows.append([setting.name, len(strata), sum(map(len, strata)), *told])
    yield from _table(["setting", "games", "runs", *STATISTICS], rows)


def _settings(settings: Sequence[Setting]) -> Iterator[str]:
    """Yield a table of the options in which settings differ, of one algorithm or of all."""
    every = [setting.options for setting in settings]
    names = dict.fromkeys(differences(every))
    for options in every:
        akin = [other for other in every if other["algorithm"] == options["algorithm"]]
        names |= dict.fromkeys(differences(akin))
    if not names:
        yield "None: all runs have the same settings, but for game and seed."
        return
    rows = [[name] + [shown(options[name]) if name in options else "" for options in every] for name in names]
    yield from _table(["option", *(setting.name for setting in settings)], rows)


def _machines(results: Sequence[Result]) -> Iterator[str]:
    """Yield a table with a column for each kind of machine and set of versions."""
    kinds: list[dict[str, str]] = []
    for result in results:
        config = result.config
        precision = "float32" if isinstance(config, SB3Config) else config.precision
        about = {"device": config.device, "precision": precision, "threads": str(config.num_threads)}
        kinds.append(result.versions | about)
    different = [kind for place, kind in enumerate(kinds) if kind not in kinds[:place]]
    names = dict.fromkeys(name for kind in different for name in kind)
    head = ["", *(f"{kinds.count(kind)} of {len(kinds)} runs" for kind in different)]
    yield from _table(head, ([name] + [kind.get(name, "") for kind in different] for name in names))


def _runs(settings: Sequence[Setting]) -> Iterator[str]:
    rows = []
    for setting in settings:
        for game, results in setting.games.items():
            for r in results:
                score = f"{number(r.score)} ± {number(r.evaluation['std'])}"
                where = [r.folder.name, r.versions.get("commit", "")]
                rows.append([game, setting.name, r.config.seed, f"{r.evaluation['steps']:,}", _clock(r.seconds)])
                rows[-1] += [r.evaluation["episodes"], score, *where]
    yield from _table(["game", "setting", "seed", "steps", "wall clock", "games", "score ± std", "run", "commit"], rows)


def _curves(settings: Sequence[Setting]) -> Iterator[str]:
    for game in sorted({game for setting in settings for game in setting.games}):
        told = [(s.name, curve([[r.over_steps for r in s.games[game]]])) for s in settings if game in s.games]
        cells: dict[float, dict[str, str]] = {}
        for name, (places, values, found) in told:
            for place, steps in enumerate(places):
                band = None if found is None else (found[0][place], found[1][place])
                cells.setdefault(float(steps), {})[name] = with_interval(float(values[place]), band)
        names = [name for name, _ in told]
        rows = [[f"{steps:,.0f}", *(cells[steps].get(name, "") for name in names)] for steps in sorted(cells)]
        yield from _table([f"{game}: steps", *names], rows)
        yield ""


def _range(values: Sequence[float], form: str = ",") -> str:
    return " to ".join(format(value, form) for value in dict.fromkeys((values[0], values[-1])))


def _clock(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
