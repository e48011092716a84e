"""A run that is killed, anywhere, and resumed ends where the uninterrupted run ends, bit for bit."""

import json
import math
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from commands import TINY, metrics, refused, run, start

from agents.dqn import DQN
from runs import dqn_run
from runs.checkpoints import CheckpointError, find_checkpoint, load_json, load_tensors
from runs.commands import DIVERGED
from runs.config import ResumeArgs
from runs.dqn_run import resumed_run
from runs.folders import RunFolder
from runs.train_dqn import main as train

# What a run may be slower or faster at, but not different in.
CLOCKS = {"seconds", "steps_per_second", "updates_per_second", "memory_gb"}
ATARI = (
    "pong --device cpu --total-steps 700 --learning-starts-steps 200 --replay-capacity-steps 512 --num-envs 2 "
    "--n-steps 3 --batch-size 8 --target-update-steps 100 --checkpoint-every-steps 90 --evaluate-every-steps 0 "
    "--evaluation-video-steps 0 --final-evaluation-episodes 1 --log-every-steps 50 --tracking none --double "
    "--protocol v5 --stop-at-score None"
).split()


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, str]]]:
    checkpoint = find_checkpoint(folder)
    tensors = load_tensors(checkpoint / "learner.safetensors") | load_tensors(checkpoint / "weights.safetensors")
    rows = [{k: v for k, v in row.items() if k not in CLOCKS} for row in metrics(folder)]
    return tensors, rows


def assert_same(one: Path, two: Path) -> None:
    (tensors, rows), (others, other_rows) = outcome(one), outcome(two)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name
    assert rows == other_rows
    assert (one / "layers.csv").read_text() == (two / "layers.csv").read_text()
    assert json.loads((one / "evaluation.json").read_text()) == json.loads((two / "evaluation.json").read_text())
    if (one / "best").exists():
        best, other = (load_tensors(run / "best" / "weights.safetensors") for run in (one, two))
        assert all(torch.equal(weight, other[name]) for name, weight in best.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run("runs.train_dqn", *TINY, "--out", str(out))
    return out


EVALUATED = "--evaluate-every-steps 90 --evaluation-episodes 2 --evaluation-video-steps 10".split()


@pytest.mark.parametrize("options", [[*TINY, *EVALUATED], ATARI], ids=["catch", "pong"])
def test_killed_at_random_and_resumed(options: list[str], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run("runs.train_dqn", *options, "--out", str(whole))
    random.seed(len(options))
    process = start("runs.train_dqn", *options, "--out", str(killed))
    latest, places = killed / "checkpoints" / "latest", []
    end = options[options.index("--total-steps") + 1]
    for _ in range(4):
        seen = latest.read_text() if latest.exists() else ""
        while process.poll() is None and (not latest.exists() or latest.read_text() == seen):
            time.sleep(0.002)
        time.sleep(random.uniform(0.0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.returncode != -signal.SIGKILL:
            break
        places.append(latest.read_text())
        process = start("runs.train_dqn", "--resume", str(killed))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 or places[-1] == end, output  # or it was killed when all was done
    assert len(places) >= 2, places
    assert_same(whole, killed)


def test_killed_while_a_checkpoint_is_written(whole: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    process = start("runs.train_dqn", *TINY, "--out", str(killed))
    deaths, folder = 0, killed / "checkpoints"
    for _ in range(30):
        while process.poll() is None:
            # After the first whole checkpoint: a half-written one is what we want to catch.
            if (folder / "latest").exists() and list(folder.glob(".*.partial")):
                process.send_signal(signal.SIGKILL)
        process.wait()
        if process.returncode != -signal.SIGKILL:
            break
        deaths += bool(list(folder.glob(".*.partial")))
        process = start("runs.train_dqn", "--resume", str(killed))
        if deaths >= 3:
            break
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert deaths >= 1
    assert not list(folder.glob(".*.partial"))
    assert_same(whole, killed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_says_how_to_go_on_and_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = [*TINY, "--checkpoint-every-steps", "0"]
    run("runs.train_dqn", *options, "--out", str(whole))
    process = start("runs.train_dqn", *options, "--out", str(stopped))
    while not (stopped / "metrics.csv").exists() or len((stopped / "metrics.csv").read_text().splitlines()) < 4:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(number)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + number, output
    assert f"--resume '{stopped}'" in output
    run("runs.train_dqn", "--resume", str(stopped))
    assert_same(whole, stopped)


def test_a_run_goes_on_when_nobody_reads_what_it_says(whole: Path, tmp_path: Path) -> None:
    unread = tmp_path / "unread"
    process = start("runs.train_dqn", *TINY, "--out", str(unread))
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(100) == 0
    assert_same(whole, unread)


def test_a_finished_run_goes_on_to_a_new_end(whole: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    run("runs.train_dqn", *TINY, "--total-steps", "300", "--out", str(parts))
    run("runs.train_dqn", "--resume", str(parts), "--total-steps", "600")
    (tensors, _), (others, _) = outcome(whole), outcome(parts)
    assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


def test_a_new_end_is_remembered(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run("runs.train_dqn", *TINY, "--total-steps", "300", "--out", str(out))
    process = start("runs.train_dqn", "--resume", str(out), "--total-steps", "400")
    while load_json(out / "config.json")["config"]["total_steps"] == 300:
        assert process.poll() is None
    process.kill()  # before any checkpoint that says so, or it had it all
    process.wait()
    told = start("runs.train_dqn", "--resume", str(out)).communicate(timeout=100)[0]
    assert find_checkpoint(out).name == "400", told


def test_checkpoints_that_somebody_took_away_are_made_anew(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start("runs.train_dqn", *TINY, "--out", str(out))
    while not (out / "checkpoints" / "latest").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGSTOP)
    shutil.rmtree(out / "checkpoints")
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert_same(whole, out)


def test_a_run_that_went_on_meanwhile_is_not_gone_on_with_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    run("runs.train_dqn", *TINY, "--total-steps", "300", "--checkpoints-kept", "9", "--out", str(out))
    real = RunFolder.__init__

    def after_another(folder: RunFolder, path: Path, *, resumed: bool) -> None:
        (out / "checkpoints" / "latest").write_text("240")
        real(folder, path, resumed=resumed)

    monkeypatch.setattr(RunFolder, "__init__", after_another)
    with pytest.raises(CheckpointError, match="went on meanwhile"):
        resumed_run(ResumeArgs(out, total_steps=600))


def test_an_end_that_lies_behind_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run("runs.train_dqn", *TINY, "--total-steps", "120", "--out", str(out))
    (out / "evaluation.json").unlink()  # as if it was stopped
    assert "step 120, which is beyond 100: give a larger --total-steps" in refused(
        "runs.train_dqn", "--resume", str(out), "--total-steps", "100"
    )
    assert "--total-steps" in run("runs.train_dqn", "--resume", str(out), "--total-steps", "120")


def test_the_best_weights_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also over a resume, and where a run was killed between the two renames that replace them."""
    out, means = tmp_path / "run", [1.0, 3.0, 2.0]
    evaluate = dqn_run.evaluate
    monkeypatch.setattr(dqn_run, "evaluate", lambda *given: evaluate(*given) | {"mean": means.pop(0)})
    options = [*TINY, "--evaluate-every-steps", "60", "--total-steps", "180", "--out", str(out)]
    means.append(0.0)  # of the games at the end
    assert train(options) == 0 and not means
    best = load_json(out / "best" / "config.json")
    weights = (out / "best" / "weights.safetensors").read_bytes()
    assert best["evaluation"]["mean"] == 3.0
    (out / "best").rename(out / ".best-old")
    means += [2.5, 0.0]
    assert train(["--resume", str(out), "--total-steps", "240"]) == 0 and not means
    assert (out / "best" / "weights.safetensors").read_bytes() == weights and not (out / ".best-old").exists()
    means += [4.0, 0.0]
    assert train(["--resume", str(out), "--total-steps", "300"]) == 0
    assert load_json(out / "best" / "config.json")["evaluation"]["mean"] == 4.0


def test_more_steps_are_made_whatever_the_score(tmp_path: Path) -> None:
    options, out = list(TINY), tmp_path / "run"
    options[options.index("--stop-at-score") + 1] = "-100"
    options[options.index("--evaluate-every-steps") + 1] = "200"
    run("runs.train_dqn", *options, "--out", str(out))
    assert find_checkpoint(out).name == "200"
    run("runs.train_dqn", "--resume", str(out), "--total-steps", "500")
    assert find_checkpoint(out).name == "500"


def test_a_run_that_reached_its_score_stays_at_its_end(tmp_path: Path) -> None:
    options, out = list(TINY), tmp_path / "run"
    options[options.index("--stop-at-score") + 1] = "-100"
    options[options.index("--evaluate-every-steps") + 1] = "200"
    run("runs.train_dqn", *options, "--out", str(out))
    whole, told = metrics(out), json.loads((out / "evaluation.json").read_text())
    assert told["final"] and told["steps"] == 200
    assert "which is its end" in refused("runs.train_dqn", "--resume", str(out))
    # As it is when it was killed during the games at its end.
    (out / "evaluation.json").write_text(json.dumps(told | {"final": False, "episodes": 10}))
    lines = (out / "metrics.csv").read_text().splitlines(keepends=True)
    (out / "metrics.csv").write_text("".join(lines[:-1]))
    assert "score reached at step 200" in run("runs.train_dqn", "--resume", str(out))
    assert json.loads((out / "evaluation.json").read_text()) == told
    assert [row["evaluation_score"] for row in metrics(out)] == [row["evaluation_score"] for row in whole]


def test_a_loss_that_is_no_number_is_seen_at_the_end_at_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = DQN.learn_each
    monkeypatch.setattr(DQN, "learn_each", lambda *args: [math.nan * told for told in learn(*args)])
    out = tmp_path / "run"
    never = ["--log-every-steps", "100000", "--checkpoint-every-steps", "0"]
    assert train([*TINY, *never, "--out", str(out)]) == DIVERGED
    assert not (out / "evaluation.json").exists() and not (out / "checkpoints").exists()


def test_a_run_killed_before_its_last_evaluation_makes_it(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    # As it is between the last checkpoint and the evaluation at the end.
    (out / "evaluation.json").unlink()
    lines = (out / "metrics.csv").read_text().splitlines(keepends=True)
    (out / "metrics.csv").write_text("".join(lines[:-1]))
    run("runs.train_dqn", "--resume", str(out))
    again = metrics(out)
    assert [row["evaluation_score"] for row in again] == [row["evaluation_score"] for row in metrics(whole)]
    assert "is at step 600" in refused("runs.train_dqn", "--resume", str(out))
