"""A perception task learnt during play: resumed exactly, kept as any task's checkpoint, refused where it cannot be."""

import math
import signal
import time
from pathlib import Path

import pytest
from commands import TINY, metrics, refused, run, start
from test_runs_resume import ATARI, assert_same

from runs.perception_checkpoints import load_config

LABELS = ["--auxiliary", "segmentation", "--auxiliary-batch-size", "2"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames") / "recorded"
    run("runs.record_frames", "--games", "breakout", "--steps", "1000", "--out", str(folder))
    return folder


def options_of(task: str, recorded: Path) -> list[str]:
    if task == "contrast":
        return [*TINY, "--auxiliary", "contrast", "--auxiliary-batch-size", "3"]
    return [*ATARI, "--game", "breakout", "--total-steps", "320", *LABELS, "--auxiliary-data", str(recorded)]


@pytest.mark.parametrize("task", ["contrast", "segmentation"])
def test_killed_and_resumed_it_ends_as_if_it_never_was(recorded: Path, tmp_path: Path, task: str) -> None:
    options, whole, killed = options_of(task, recorded), tmp_path / "whole", tmp_path / "killed"
    run("runs.train_dqn", *options, "--out", str(whole))
    process = start("runs.train_dqn", *options, "--out", str(killed))
    latest, learning = killed / "checkpoints" / "latest", 180 if task == "contrast" else 270
    while not latest.exists() or int(latest.read_text()) < learning:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run("runs.train_dqn", "--resume", str(killed))
    assert_same(whole, killed)

    learnt = [row for row in metrics(whole) if row["auxiliary_loss"]]
    assert learnt
    for name in ("auxiliary_loss", "backbone_gradient_norm", "auxiliary_gradient_norm"):
        assert all(math.isfinite(float(row[name])) and float(row[name]) > 0 for row in learnt), name
    scores = [row["auxiliary_score"] for row in metrics(whole) if row["evaluation_score"]]
    assert scores and all((0 < float(score) < 1) if task == "segmentation" else score == "" for score in scores)
    backbone = ["--backbone", str(whole / "auxiliary"), "--total-steps", "150", "--learning-starts-steps", "100"]
    run("runs.train_dqn", *TINY, *backbone, "--out", str(tmp_path / "next"))
    if task == "segmentation":
        said = run("runs.evaluate", str(whole / "auxiliary"), "--data", str(recorded))
        assert "recall_ball" in said
        assert load_config(whole / "auxiliary")[0].head == "decoder"  # reads what the agent reads


def test_wrong_input_gets_a_line(recorded: Path, tmp_path: Path) -> None:
    train, out = ["runs.train_dqn", "pong"], tmp_path / "run"
    options = ["--tracking", "none", "--out", str(out)]
    with_data = ["--auxiliary-data", str(recorded)]
    for contradiction, named in (
        (LABELS, "labels: give --auxiliary-data, a recording of this game (python -m runs.record_frames)"),
        (["--auxiliary", "contrast", *with_data], "takes none"),
        (["--auxiliary", "contrast", "--auxiliary-batch-size", "64"], "more than the --batch-size 32"),
    ):
        assert named in refused(*train, *options, *contradiction)
    assert "has no pong, but breakout" in refused(*train, *options, *LABELS, *with_data)
    assert "holds no recording" in refused(*train, *options, *LABELS, "--auxiliary-data", str(tmp_path))
    assert not out.exists()
