"""Ranges by hand, and a whole search that is stopped, goes on, and looks finer around the best."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, environment, refused, run

from runs.search import Parameter, read_parameter

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
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while not (out / "1" / "metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    said = run("runs.search", *options)
    assert "run 3 of 3" in said and "run 1 of 3" not in said
    assert "warning: the best batch-size" in said and "end of its range 63 to 64" in said
    rows = trials(out)
    assert len(rows) == 3 and {row["run"] for row in rows} >= {"0", "1"}
    scores = [float(row["f1_weighted"]) for row in rows if "stopped" not in row["f1_weighted"]]
    assert scores == sorted(scores, reverse=True)
    assert (out / "parallel.png").stat().st_size > 5_000
    began = time.monotonic()
    run("runs.search", *options)  # there is nothing left to do
    assert time.monotonic() - began < 20 and trials(out) == rows
    assert "search for something else" in refused("runs.search", *options, "--batch-size", "8")


def test_wrong_input_gets_a_line(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "search")]
    assert "no preset" in refused("runs.search", "pongg", *out)
    assert "the search's own folder" in refused("runs.search", "pong", *out, "--resume", "x")
    # What training says of its options stands above: the search ends with its exit code.
    assert "Unrecognized" in run("runs.search", "pong", *out, "--trials", "2", "--no-such-option", "1", expect=2)
