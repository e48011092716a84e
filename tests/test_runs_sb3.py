"""Runs of SB3's algorithms as a whole: training, resuming, watching, scoring, handing the backbone on."""

import csv
import json
import pickle
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import metrics, refused, run, start
from safetensors.torch import load_file
from stable_baselines3 import DQN

from agents.sb3 import weights_of
from runs import evaluate, watch
from runs.checkpoints import CheckpointError, load_backbone_weights
from runs.commands import DIVERGED
from runs.config import ResumeArgs
from runs.evaluate import EvaluateArgs
from runs.sb3_checkpoints import load_sb3
from runs.sb3_run import resumed_run
from runs.train_sb3 import main
from runs.watch import WatchArgs

SHORT = "--num-envs 2 --num-threads 1 --evaluation-episodes 1 --evaluate-every-steps 0 --tracking none".split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each algorithm on Catch, the actor-critics over the pretrained Pong agent's eye."""
    folder = tmp_path_factory.mktemp("sb3")
    for algorithm in ("ppo", "a2c", "dqn"):
        eye = [] if algorithm == "dqn" else ["--backbone", "runs/pretrained/pong", "--freeze"]
        steps = ["--total-steps", "1100" if algorithm == "a2c" else "520", "--checkpoint-every-steps", "200"]
        assert main([algorithm, "catch", *SHORT, *steps, *eye, "--out", str(folder / algorithm)]) == 0
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "dqn"])
def test_a_run_is_told_scored_and_watched(
    trained: dict[str, Path], algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained[algorithm]
    rows = metrics(folder)
    assert any(row["return"] and row["episode_length"] for row in rows), rows
    assert any(row["loss"] or row["value_loss"] for row in rows), rows
    assert rows[-1]["evaluation_score"] and int(rows[-1]["steps"]) >= 520
    with (folder / "layers.csv").open() as file:
        layers = {row["layer"]: row for row in csv.DictReader(file)}
    eye = layers["features_extractor.backbone.conv2"]
    assert float(eye["activation_spread"]) > 0 and bool(eye["update_ratio"]) == (
        algorithm == "dqn"
    )  # the others': frozen
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["episodes"] == 3 and found["game"] == "catch"
    assert evaluate.main(EvaluateArgs(folder, episodes=3)) == 0
    assert capsys.readouterr().out.startswith(f"catch: {found['mean']:.2f}")
    assert watch.main(WatchArgs(folder, video=tmp_path / "seen.mp4")) == 0
    assert (tmp_path / "seen.mp4").stat().st_size > 5_000
    player, config = load_sb3(folder)
    opinion, value = player.opinion(torch.zeros(2, 4, 84, 84, dtype=torch.uint8).numpy())
    assert config.algorithm == algorithm and opinion.shape == (2, 3) and value.shape == (2,)
    if algorithm != "dqn":
        assert torch.allclose(opinion.sum(dim=1), torch.ones(2))


def test_a_loss_that_is_no_number_stops_and_spoils_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ["--total-steps", "2000", "--checkpoint-every-steps", "128", "--out", str(out), "--learning-rate", "1e30"]
    assert main(["ppo", "catch", *SHORT, *options]) == DIVERGED
    assert "not a finite number" in " ".join(" ".join(capsys.readouterr()).split())
    for checkpoint in (out / "checkpoints").glob("*/weights.safetensors"):
        assert all(weight.isfinite().all() for weight in load_file(checkpoint).values())
    assert not (out / "evaluation.json").exists()


def test_a_dqn_that_goes_on_twice_waits_for_a_fresh_replay_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    run("runs.train_sb3", "dqn", "catch", *SHORT, "--total-steps", "100", "--out", str(out))
    run("runs.train_sb3", "--resume", str(out), "--total-steps", "200")
    monkeypatch.setattr("runs.sb3_run.SB3_REPLAY_STEPS", 1_000)
    model = resumed_run(ResumeArgs(out, total_steps=1_000)).model
    assert isinstance(model, DQN) and model.learning_starts == 200 + 1_000 // 100


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def test_only_resume_opens_what_holds_pickles(
    trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained["ppo"], folder)
    models = list(folder.glob("checkpoints/*/model.zip"))
    for model in models:
        model.write_bytes(pickle.dumps(Bomb()))
    monkeypatch.chdir(tmp_path)
    assert models and evaluate.main(EvaluateArgs(folder, episodes=1)) == 0
    assert not Path("exploded").exists()


def test_a_frozen_eye_stays_and_goes_on(trained: dict[str, Path]) -> None:
    before = load_backbone_weights("runs/pretrained/pong", 4)[1]
    name, after = load_backbone_weights(str(trained["ppo"]), 4)
    assert name == "nature" and before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_it_goes_on_by_sb3s_own_means(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start("runs.train_sb3", "a2c", "catch", *SHORT, "--total-steps", "100000", "--out", str(out))
    while not (out / "metrics.csv").exists() or len(metrics(out)) < 1:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and "--resume" in output, output
    checkpoint = out / "checkpoints" / (out / "checkpoints" / "latest").read_text().strip()
    steps, first = int(checkpoint.name), load_file(checkpoint / "weights.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "stable_baselines3.common.base_class.BaseAlgorithm.load", lambda *_, **__: {}["an option that is no more"]
        )
        with pytest.raises(CheckpointError, match="the version of this program that wrote it"):
            resumed_run(ResumeArgs(out, total_steps=steps + 100))
    resumed = resumed_run(ResumeArgs(out, total_steps=steps + 100))
    weights = weights_of(resumed.model)
    assert weights.keys() == first.keys() and all(torch.equal(weights[name], first[name]) for name in first)
    assert resumed.model.policy.optimizer.state_dict()["state"] and resumed.model.num_timesteps == steps
    del resumed  # and its lock
    assert main(["--resume", str(out), "--total-steps", str(steps + 100)]) == 0
    later = sorted(int(path.name) for path in (out / "checkpoints").iterdir() if path.name.isdigit())[-1]
    assert later >= steps + 100
    second = load_file(out / "checkpoints" / str(later) / "weights.safetensors")
    assert first.keys() == second.keys() and any(not torch.equal(first[name], second[name]) for name in first)
    assert "which is its end" in refused("runs.train_sb3", "--resume", str(out))


def test_wrong_input_gets_a_line(trained: dict[str, Path], tmp_path: Path) -> None:
    assert "nearest: pong" in refused("runs.train_sb3", "ppo", "pogn", "--out", str(tmp_path / "a"))
    assert "neither a checkpoint" in refused(
        "runs.train_sb3", "ppo", "catch", "--backbone", "x", "--out", str(tmp_path)
    )
    assert "an SB3 agent's" in refused("runs.train_dqn", "--resume", str(trained["ppo"]))
    assert "at least 1" in refused("runs.train_sb3", "ppo", "catch", "--num-envs", "0")
    assert "must be above 0" in refused("runs.train_sb3", "ppo", "catch", "--learning-rate", "0")
