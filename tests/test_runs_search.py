"""Ranges by hand, and a whole search that is stopped, goes on, and looks finer around the best."""

import csv
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, environment, refused, run

from runs.folders import RunFolder
from runs.search import Parameter, Search, SearchArgs, read_parameter

TINY = (
    "classification --data digits --backbone lenet --total-updates 8 --evaluate-every-updates 4 --log-every-updates 4 "
    "--num-threads 1 --no-baselines"
).split()


def test_ranges_by_hand() -> None:
    rate = Parameter("learning-rate", 1e-4, 1.0, whole=False)
    # A quarter of four decades is one: half of it to either side.
    finer = rate.around(1e-2)
    assert (finer.low, finer.high) == pytest.approx((1e-2 / 10**0.5, 1e-2 * 10**0.5))
    assert rate.around(1e-4).low == 1e-4 and rate.around(1.0).high == 1.0
    assert [rate.edge(value) for value in (1.1e-4, 1e-2, 0.9)] == ["lower", None, "upper"]
    steps = Parameter("n-steps", 1, 16, whole=True).around(5)
    assert (steps.low, steps.high) == (3, 8)  # 5 / sqrt 2 and 5 · sqrt 2, outwards


def test_parameters_are_read() -> None:
    assert read_parameter("learning-rate", agent=True) == Parameter("learning-rate", 1e-5, 1e-2, whole=False)
    assert read_parameter("n-steps=2:8", agent=True) == Parameter("n-steps", 2, 8, whole=True)
    for text, agent, named in (
        ("n-steps", False, "no number that training takes"),
        ("backbone", True, "no number that training takes"),
        ("discount", True, "no usual range"),
        ("learning-rate=0:1", True, "0 < LOW < HIGH"),
        ("learning-rate=fast", True, "LOW:HIGH"),
        ("n-steps=0.5:3", True, "whole numbers"),
    ):
        with pytest.raises(ValueError, match=named):
            read_parameter(text, agent)


def trials(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_search_is_stopped_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "search"
    # One of two sizes is best, so that the best lies at an end.
    options = [*TINY, "--parameters", "learning-rate", "batch-size=63:64", "--trials", "3", "--out", str(out)]
    command = [sys.executable, "-m", "runs.search", *options]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not (out / "1" / "metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    said = run("runs.search", *options)
    assert "run 3 of 3" in said and "run 1 of 3" not in said
    assert "warning: the best batch-size" in said and "end of its range 63 to 64" in said
    rows = trials(out)
    assert len(rows) == 3 and {row["run"] for row in rows} >= {"0", "1"}
    scores = [float(row["f1_weighted"]) for row in rows if not row["stopped"]]
    assert scores == sorted(scores, reverse=True)
    assert (out / "parallel.png").stat().st_size > 5_000
    assert len({row["learning-rate"] for row in rows}) == 3
    assert "run " not in run("runs.search", *options).split("┏")[0]  # there is nothing left to do
    assert trials(out) == rows
    assert "search for something else" in refused("runs.search", *options, "--dropout", "0.5")


class Told:
    """A process that has written its evaluations, and comes to its end unless it is stopped."""

    def __init__(self, folder: Path, metric: str, scores: list[float]) -> None:
        self.asked, self.returncode = 0, None
        folder.mkdir(parents=True)
        lines = [f"{500 * (i + 1)},{score}" for i, score in enumerate(scores)]
        (folder / "metrics.csv").write_text("\n".join([f"updates,{metric}", *lines, ""]))

    def poll(self) -> int | None:
        self.asked += 1
        if self.asked > 4 and self.returncode is None:
            self.returncode = 0
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        self.returncode = -number

    def wait(self) -> int | None:
        return self.returncode


@pytest.mark.parametrize(
    ("task", "metric", "sign"), [("classification", "f1_weighted", 1), ("contrast", "validation_loss", -1)]
)
def test_what_lags_is_stopped_and_the_best_is_looked_around(
    task: str, metric: str, sign: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is nearer to a rate of 1e-3 does better; below the median of three others or more is the end."""
    out, told, rates, scores = tmp_path / "search", [], [], []

    def start(folder: Path, command: tuple[str, ...]) -> Told:
        rates.append(float(command[command.index("--learning-rate") + 1]))
        scores.append(1 - abs(math.log10(rates[-1]) + 3) / 10)
        told.append(Told(folder, metric, [sign * scores[-1]] * 2))
        return told[-1]

    monkeypatch.setattr("runs.search.jobs.start", start)
    monkeypatch.setattr("runs.search.POLL_SECONDS", 0)
    search = Search(SearchArgs(task, trials=10, out=out), ["--data", "digits"])
    search.run()
    search.tell()
    whole: list[int] = []
    for number, (process, score) in enumerate(zip(told, scores, strict=True)):
        lags = len(whole) >= 3 and score < np.median([scores[other] for other in whole])
        assert process.returncode == (-signal.SIGTERM if lags else 0), number
        if number >= 5:  # an eighth of the range's three decades to either side of the best
            best = rates[max(whole, key=scores.__getitem__)]
            assert abs(math.log10(rates[number] / best)) <= 3 / 8 + 1e-9
        whole += [] if lags else [number]
    assert 3 < len(whole) < 10
    assert {row["run"] for row in trials(out) if not row["stopped"]} == set(map(str, whole))


def test_wrong_input_gets_a_line(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "search")]
    assert "grows with batch-size" in refused("runs.search", "contrast", *out, "--parameters", "batch-size")
    assert "no preset" in refused("runs.search", "pongg", *out)
    assert "is of single runs" in refused("runs.search", "pong", *out, "--resume", "x")
    assert "is searched" in refused("runs.search", "pong", *out, "--learning-rate", "1e-3")
    (tmp_path / "search").mkdir()
    lock = RunFolder(tmp_path / "search", resumed=True)
    assert "in use by a live run" in refused("runs.search", *TINY, *out)
    del lock
    (tmp_path / "file").touch()
    assert "file" in refused("runs.search", "pong", "--out", str(tmp_path / "file"))
    # What training says of its options stands above, and the corrected command goes.
    assert "Unrecognized" in run("runs.search", *TINY, *out, "--trials", "2", "--no-such-option", "1", expect=2)
    assert "run 2 of 2" in run("runs.search", *TINY, *out, "--trials", "2")
