"""A report of runs, right to the digit against a slow recomputation from the files that the runs left."""

import csv
import dataclasses
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, refused, run
from PIL import Image
from test_runs_statistics import percentile

from agents.config import DQNConfig
from envs.config import EnvConfig
from envs.scores import HUMAN_AND_RANDOM, human_normalized
from runs import machine
from runs.checkpoints import save_json
from runs.config import SB3Config, TrackingConfig, TrainConfig, to_json
from runs.report import ReportArgs, main
from runs.report_pictures import draw_curves
from runs.results import read_result, settings_of
from runs.statistics import RESAMPLES
from runs.tracking import DQN_METRICS, SB3_METRICS, Tracker
from runs.train_dqn import main as train

GAMES, N_STEPS, SEEDS = ("breakout", "pong"), (1, 3), (0, 1, 2)
Scored = list[tuple[int, float, list[float]]]  # steps, seconds and scores of evaluations


def leave_run(folder: Path, config: TrainConfig | SB3Config, evaluations: Scored) -> Path:
    """Leave in `folder` what a run leaves that was scored like this."""
    folder.mkdir()
    save_json(folder / "config.json", {"config": to_json(config), "versions": machine.versions(), "wandb_id": "a"})
    tracker = Tracker(folder, DQN_METRICS if isinstance(config, TrainConfig) else SB3_METRICS, config, "a", None, print)
    for steps, seconds, scores in evaluations:
        tracker.log({"steps": steps, "frames": 4 * steps, "seconds": seconds - 0.5, "episodes": 1})
        human = human_normalized(config.env.game, float(np.mean(scores)))
        row = {"steps": steps, "seconds": seconds, "evaluation_score": float(np.mean(scores))}
        row |= {"evaluation_score_std": float(np.std(scores))} | (
            {} if human is None else {"evaluation_human_normalized": human}
        )
        tracker.log(row)
        told = {"game": config.env.game, "protocol": config.env.protocol, "episodes": len(scores)}
        told |= {"epsilon": config.evaluation_epsilon, "seed": config.seed, "mean": float(np.mean(scores))}
        told |= {"std": float(np.std(scores)), "human_normalized": human, "scores": scores, "steps": steps}
        told["final"] = steps >= config.total_steps
        save_json(folder / "evaluation.json", told)
    tracker.close()
    return folder


def dqn(game: str, n_steps: int, seed: int, protocol: str = "classic") -> TrainConfig:
    return TrainConfig(
        preset="pong",
        env=EnvConfig(game, protocol=protocol),  # type: ignore[arg-type]
        agent=DQNConfig(n_steps=n_steps, learning_starts_steps=100),
        tracked=TrackingConfig(tracking="none"),
        total_steps=3_000,
        seed=seed,
        device="cpu",
        precision="float32",
        num_threads=1,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three seeds of two settings on two games, one of which was slower at each seed."""
    folder, rng, made = tmp_path_factory.mktemp("runs"), np.random.default_rng(0), []
    for game in GAMES:
        low, high = HUMAN_AND_RANDOM[game]
        for n_steps in N_STEPS:
            for seed in SEEDS:
                scored = [
                    (steps, steps / 100 + seed + n_steps, (low + (high - low) * rng.random(4) * steps / 2e3).tolist())
                    for steps in (1_000, 2_000, 3_000, 3_000)
                ]
                made.append(leave_run(folder / f"{game}-{n_steps}-{seed}", dqn(game, n_steps, seed), scored))
    return made


@pytest.fixture(scope="module")
def report(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of them, made by one command."""
    out = tmp_path_factory.mktemp("report")
    files = [str(out / f"report.{kind}") for kind in ("html", "md", "png")]
    printed = run("runs.report", *map(str, folders), "--out", *files)
    assert printed.split() == files
    return out


def tables(text: str) -> list[list[dict[str, str]]]:
    """Return the tables of Markdown, each a list of rows by the head's words."""
    found: list[list[dict[str, str]]] = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
        if rows:
            found.append([dict(zip(rows[0], row, strict=True)) for row in rows[2:]])
    return found


class Cells(HTMLParser):
    """Collects the words of a page's cells, and what it refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._open = tag in ("td", "th")
        if self._open:
            self.cells.append("")
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.cells[-1] += data


# The slow twin: plain loops over the files.


def slow_mean(strata: list[list[float]]) -> float:
    return sum(sum(scores) / len(scores) for scores in strata) / len(strata)


def slow_median(strata: list[list[float]]) -> float:
    return percentile([sum(scores) / len(scores) for scores in strata], 0.5)


def slow_iqm(strata: list[list[float]]) -> float:
    every = sorted(score for scores in strata for score in scores)
    cut = len(every) // 4
    kept = every[cut : len(every) - cut]
    return sum(kept) / len(kept)


def slow_gap(strata: list[list[float]]) -> float:
    return 1 - slow_mean([[min(score, 1.0) for score in scores] for scores in strata])


def told(strata: list[list[float]], statistic: Callable[[list[list[float]]], float] = slow_mean) -> str:
    """Return a statistic and its interval as the report must print them; the draws are those of its generator."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(scores), (RESAMPLES, len(scores))).tolist() for scores in strata]
    values = []
    for number in range(RESAMPLES):
        values.append(statistic([[s[i] for i in draw[number]] for s, draw in zip(strata, draws, strict=True)]))
    shown = [statistic(strata), percentile(values, 0.025), percentile(values, 0.975)]
    value, low, high = (f"{x:,.2f}" if abs(x) < 100 else f"{x:,.1f}" for x in shown)
    return f"{value} [{low}, {high}]"


def scores_of(folders: list[Path], game: str, n_steps: int) -> list[float]:
    """Return the last evaluations' means, from each game's score."""
    found = []
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())["config"]
        if (config["env"]["game"], config["agent"]["n_steps"]) == (game, n_steps):
            scores = json.loads((folder / "evaluation.json").read_text())["scores"]
            found.append(sum(scores) / len(scores))
    return found


def test_the_report_is_right_to_the_digit(folders: list[Path], report: Path) -> None:
    final, over_games, *_ = tables((report / "report.md").read_text())
    assert [(row["game"], row["setting"]) for row in final] == [(g, f"n_steps {n}") for g in GAMES for n in N_STEPS]
    normalised: dict[int, list[list[float]]] = {n: [] for n in N_STEPS}
    for row, (game, n_steps) in zip(final, [(g, n) for g in GAMES for n in N_STEPS], strict=True):
        scores, (low, high) = scores_of(folders, game, n_steps), HUMAN_AND_RANDOM[game]
        normalised[n_steps].append([(score - low) / (high - low) for score in scores])
        assert row["score [95 %]"] == told([scores])
        assert row["human-normalised"] == told(normalised[n_steps][-1:])
        assert (row["seeds"], row["steps"], row["ε"]) == ("3", "3,000", "0.01")
        assert row["Mnih 2015"] == {"pong": "18.90", "breakout": "401.2"}[game]
    slow = {"IQM": slow_iqm, "median": slow_median, "mean": slow_mean, "optimality gap": slow_gap}
    for row, n_steps in zip(over_games, N_STEPS, strict=True):
        assert {name: row[name] for name in slow} == {name: told(normalised[n_steps], of) for name, of in slow.items()}


def test_the_curves_numbers_are_those_of_the_runs(folders: list[Path], report: Path) -> None:
    *_, breakout, pong = tables((report / "report.md").read_text())
    for game, table in (("breakout", breakout), ("pong", pong)):
        assert [row[f"{game}: steps"] for row in table] == ["1,000", "2,000", "3,000"]
        for row in table:
            for n_steps in N_STEPS:
                last: dict[Path, float] = {}  # at one place the later row counts
                for folder in folders:
                    if folder.name.startswith(f"{game}-{n_steps}"):
                        for line in csv.DictReader((folder / "metrics.csv").open()):
                            if line["evaluation_score"] and f"{int(line['steps']):,}" == row[f"{game}: steps"]:
                                last[folder] = float(line["evaluation_score"])
                assert row[f"n_steps {n_steps}"] == told([list(last.values())])


def test_the_page_needs_no_other_file_and_says_the_same(report: Path) -> None:
    page = Cells()
    page.feed((report / "report.html").read_text())
    assert page.sources and all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not page.tags & {"script", "link", "iframe"}
    text = (report / "report.md").read_text()
    words = [cell for table in tables(text) for row in table for cell in row.values()]
    assert [cell for cell in words if cell not in page.cells] == []
    for name in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert Image.open(report / name).width > 500
    whole = Image.open(report / "report.png").convert("L")
    assert whole.height > 900 and min(whole.crop((0, 0, whole.width, 100)).tobytes()) < 100  # a table at the top


def test_wall_clock_curves_are_means_at_one_time(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Against straight lines between a run's evaluations, worked out in a loop; what is drawn is looked at."""
    from matplotlib.axes import Axes

    drawn: list[tuple[list[float], list[float]]] = []
    plot = Axes.plot

    def watched(self: Axes, x: list[float], y: list[float], **options: object) -> object:
        if "label" in options:
            drawn.append((list(x), list(y)))
        return plot(self, x, y, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Axes, "plot", watched)
    mine = [folder for folder in folders if folder.name.startswith("pong-3")]
    draw_curves(settings_of([read_result(folder) for folder in mine]))
    _, (minutes, means) = drawn
    runs = []
    for folder in mine:
        rows = [row for row in csv.DictReader((folder / "metrics.csv").open()) if row["evaluation_score"]]
        runs.append({float(row["seconds"]): float(row["evaluation_score"]) for row in rows})
    places = sorted({place for told_at in runs for place in told_at})
    places = [p for p in places if max(min(r) for r in runs) <= p <= min(max(r) for r in runs)]
    expected = []
    for place in places:
        total = 0.0
        for told_at in runs:
            before, after = max(p for p in told_at if p <= place), min(p for p in told_at if p >= place)
            share = (place - before) / (after - before) if after > before else 0.0
            total += told_at[before] + share * (told_at[after] - told_at[before])
        expected.append(total / len(runs))
    assert len(places) > 3 and minutes == pytest.approx([place / 60 for place in places])
    assert means == pytest.approx(expected)


def test_settings_protocols_and_algorithms_are_kept_apart(tmp_path: Path) -> None:
    scored: Scored = [(3_000, 60.0, [1.0, 2.0])]
    made = [leave_run(tmp_path / f"v5-{seed}", dqn("pong", 1, seed, "v5"), scored) for seed in (0, 1)]
    made += [leave_run(tmp_path / f"classic-{seed}", dqn("pong", 1, seed), scored) for seed in (0, 1)]
    ppo = SB3Config("ppo", "pong", tracked=TrackingConfig(tracking="none"), total_steps=3_000)
    made.append(leave_run(tmp_path / "ppo", ppo, scored))
    renamed = dataclasses.replace(dqn("pong", 1, 2), run_name="other", num_threads=2)
    made.append(leave_run(tmp_path / "renamed", renamed, [(1_000, 20.0, [1.0, 1.0])]))
    assert main(ReportArgs((*made, made[0]), (tmp_path / "r.md",))) == 0
    text = (tmp_path / "r.md").read_text()
    classic, v5, *_ = tables(text)
    assert [(row["setting"], row["seeds"]) for row in classic] == [("dqn, protocol classic", "3"), ("SB3's ppo", "1")]
    assert [(row["SB3 zoo"], row["CleanRL"]) for row in classic] == [("20.60", "20.25"), ("20.99", "")]
    assert [row["setting"] for row in v5] == ["dqn, protocol v5"] and "SB3 zoo" not in v5[0]
    assert "pong, SB3's ppo: one seed, hence no interval." in text and classic[1]["score [95 %]"] == "1.50"
    assert "seed 2 has not come to its end; it was scored at step 1,000 of 3,000." in text


def test_a_strangers_run_puts_nothing_into_the_page(tmp_path: Path) -> None:
    made = []
    for seed, source in enumerate(("nature", "![x](http://far.away/x.png) <script> [y](http://far.away) &lt;b")):
        config = dataclasses.replace(dqn("pong", 1, seed), agent=DQNConfig(backbone=source, learning_starts_steps=100))
        made.append(leave_run(tmp_path / str(seed), config, [(3_000, 60.0, [1.0])]))
    assert main(ReportArgs(tuple(made), (tmp_path / "r.html",))) == 0
    page = Cells()
    page.feed((tmp_path / "r.html").read_text())
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not page.tags & {"script", "a"} and any("<script>" in cell for cell in page.cells)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("runs/out/seg/best", "runs/out/contrast/best", False),
        ("seg-0", "seg-1", True),
        ("runs/out/seg-0/best", "runs/out/seg-1/best", True),
        ("runs/out/seg-0/checkpoints/500", "runs/out/seg-1/checkpoints/700", True),
        ("seg/a-0", "contrast/a-1", False),
        ("seg-0", "contrast-1", False),
        ("nature", "impala", False),
    ],
)
def test_runs_from_eyes_of_each_seed_are_one_setting(tmp_path: Path, one: str, other: str, alike: bool) -> None:
    made = []
    for seed, source in enumerate((one, other)):
        config = dataclasses.replace(
            dqn("pong", 1, seed), agent=DQNConfig(backbone=source, learning_starts_steps=100), diagnostics=not seed
        )
        made.append(leave_run(tmp_path / str(seed), config, [(3_000, 60.0, [1.0])]))
    assert len(settings_of([read_result(folder) for folder in made])) == (1 if alike else 2)


def test_a_real_run_with_a_video(tmp_path: Path) -> None:
    out, video = tmp_path / "catch | 1", ["--evaluate-every-steps", "100", "--evaluation-video-steps", "12"]
    assert train([*TINY, *video, "--total-steps", "200", "--out", str(out)]) == 0
    assert main(ReportArgs((out,), (tmp_path / "r.html", tmp_path / "r.md"))) == 0
    final, *_ = tables((tmp_path / "r.md").read_text())
    mean = json.loads((out / "evaluation.json").read_text())["mean"]
    assert final[0]["score [95 %]"] == f"{mean:.2f}" and final[0]["human-normalised"] == ""
    strip = np.asarray(Image.open(tmp_path / "r-strips.png").convert("L"))
    (out / "videos" / "mine.mp4").write_bytes(b"another's")
    (out / "videos" / "300.mp4").write_bytes((out / "videos" / "200.mp4").read_bytes()[:100])
    assert main(ReportArgs((out,), (tmp_path / "again.md",))) == 0
    assert np.array_equal(strip, np.asarray(Image.open(tmp_path / "again-strips.png").convert("L")))
    assert (strip[30:].max(axis=1) - strip[30:].min(axis=1)).max() > 100  # a ball on black, and paper
    page = Cells()
    page.feed((tmp_path / "r.html").read_text())
    assert "catch | 1" in page.cells


def test_what_is_no_run_of_an_agent_is_refused(folders: list[Path], tmp_path: Path) -> None:
    assert "at least one run" in refused("runs.report")
    assert "is no run" in refused("runs.report", str(tmp_path), "--out", str(tmp_path / "r.md"))
    young = leave_run(tmp_path / "young", dqn("pong", 1, 0), [])
    with pytest.raises(ValueError, match="no evaluation yet"):
        read_result(young)
    (young / "config.json").write_text("{")
    (young / "evaluation.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        read_result(young)
    save_json(young / "config.json", {"config": to_json(dqn("pong", 1, 0))})
    with pytest.raises(ValueError, match="lacks episodes, epsilon"):
        read_result(young)
    save_json(young / "config.json", {"config": {"task": "gan"}})
    with pytest.raises(ValueError, match="perception run"):
        read_result(young)
    assert "cannot write '/proc/r.md'" in refused("runs.report", str(folders[0]), "--out", "/proc/r.md")
    assert "ends in .html or .md or .png" in refused("runs.report", str(folders[0]), "--out", str(tmp_path / "r.pdf"))
    assert not list(tmp_path.glob("r*"))
