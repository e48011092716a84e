"""The commands, whole, with what a person may get right and wrong."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ROOT, TINY, environment, metrics, refused, run, start
from PIL import Image

from agents.dqn import DQN
from agents.replay import FrameReplay
from envs.episodes import Episodes, Transition
from runs import train_dqn
from runs.agent_checkpoints import load_agent
from runs.checkpoints import load_tensors, save_tensors

COMMANDS = sorted(
    path.stem for path in (ROOT / "runs").glob("[a-z]*.py") if 'if __name__ == "__main__":' in path.read_text()
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "trained"
    run(
        "runs.train_dqn",
        *TINY,
        "--out",
        str(folder),
        "--evaluate-every-steps",
        "300",
        "--evaluation-video-steps",
        "20",
        "--evaluation-epsilon",
        "0.07",
    )
    return folder


def test_the_list_of_commands_and_games() -> None:
    listed = run("runs")
    for name in COMMANDS:
        assert f"python -m runs.{name} " in listed
    games = run("runs.games").splitlines()
    assert sum(line.startswith(("pong ", "breakout ")) for line in games) == 2
    assert any("104 Atari games" in line for line in games)


def test_curves_are_drawn(trained: Path, tmp_path: Path) -> None:
    picture = tmp_path / "curves.png"
    run("runs.curves", str(trained), str(trained), "--out", str(picture))
    assert Image.open(picture).width > 500
    run("runs.curves", str(trained), "--metric", "loss", "--over", "updates", "--out", str(tmp_path / "loss.svg"))
    other = tmp_path / trained.name
    shutil.copytree(trained, other)
    run("runs.curves", str(trained), str(other), "--over", "frames", "--out", str(tmp_path / "frames.svg"))
    told = (tmp_path / "frames.svg").read_text()
    assert f"<!-- {trained} -->" in told and f"<!-- {other} -->" in told  # both, under names that tell them apart
    assert "tells no reward" in refused("runs.curves", str(trained), "--metric", "reward", "--out", str(picture))
    assert "no metrics.csv" in refused("runs.curves", str(tmp_path), "--out", str(picture))


def test_help_is_quick() -> None:
    took = []
    for _ in range(3):  # the best of them: a busy machine tells of others' work
        began = time.monotonic()
        start("runs.train_dqn", "pong", "--help").communicate()
        took.append(time.monotonic() - began)
        if took[-1] < 1.5:
            break
    assert min(took) < 1.5
    # What takes seconds to import is left alone by every command's.
    program = (
        "import runpy, sys\n"
        f"for name in {COMMANDS}:\n"
        "    sys.argv = [name, '--help']\n"
        "    try:\n"
        "        runpy.run_module(f'runs.{name}', run_name='__main__', alter_sys=True)\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0, name\n"
        "    assert not {'torch', 'ale_py', 'wandb', 'matplotlib'} & sys.modules.keys(), name\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("usage: ") == len(COMMANDS), done.stderr


def test_a_command_ends_quietly_when_nobody_reads_what_it_prints() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "runs.games"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_every_promised_option_is_there() -> None:
    shown = run("runs.train_dqn", "classic", "--help")
    for option in (
        "game protocol seed total-steps out learning-rate batch-size discount replay-capacity-steps device precision "
        "learning-starts-steps target-update-steps checkpoint-every-steps evaluate-every-steps num-envs double dueling "
        "n-steps full-action-space mode difficulty stop-at-score run-name tracking wandb-project wandb-entity "
        "wandb-group wandb-tags"
    ).split():
        assert f"--{option} " in shown or f"--{option}," in shown or f"--{option}\n" in shown, option


def test_a_run_leaves_what_it_promises(trained: Path) -> None:
    rows = metrics(trained)
    assert [row["steps"] for row in rows if row["epsilon"]] == [str(step) for step in range(50, 601, 50)]
    assert sum(row["evaluation_score"] != "" for row in rows) == 3  # at 300, at 600, and the one at the end
    # All while nothing is learnt yet, then 1 - 0.98 · step / 2,500.
    shares = {int(row["steps"]): float(row["epsilon"]) for row in rows if row["epsilon"]}
    assert [shares[step] for step in (50, 100, 600)] == pytest.approx([1.0, 0.9608, 0.7648])
    last = [row for row in rows if row["epsilon"]][-1]
    assert last["frames"] == last["steps"] and float(last["replay_fill"]) == 1.0  # catch skips no frames
    assert {"loss", "td_error", "q", "gradient_norm", "held_out_q"} <= {
        name for row in rows for name in row if row[name]
    }
    assert sorted(p.name for p in (trained / "checkpoints").iterdir()) == ["540", "600", "latest"]
    assert sorted(p.name for p in (trained / "videos").iterdir()) == ["300.mp4", "600.mp4"]
    assert json.loads((trained / "evaluation.json").read_text())["epsilon"] == 0.07
    about = json.loads((trained / "config.json").read_text())
    assert about["versions"]["torch"] and about["versions"]["commit"] and about["config"]["env"]["game"] == "catch"


@pytest.mark.parametrize("protocol", ["classic", "v5"])
def test_the_loop_stores_and_copies_when_it_should(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, epsilons, lost, truncated, copied = list[Transition](), list[float](), [], [], []
    add, act, receive, update_target = FrameReplay.add, DQN.act, Episodes.receive, DQN.update_target

    def received(games: Episodes) -> Transition:
        seen.append(receive(games))
        return seen[-1]

    def added(replay: FrameReplay, *given: Any) -> None:
        _, _, rewards, cut, over, last_frames = given
        step = seen[-1]
        assert rewards is step.rewards and last_frames is step.last_frames
        lost.append(step.life_lost.copy())
        assert np.array_equal(cut, step.terminated | (step.life_lost if protocol == "classic" else False))
        assert np.array_equal(over, step.terminated | step.truncated)
        truncated.append(over & ~cut)
        add(replay, *given)

    def acted(agent: DQN, frames: Any, epsilon: float) -> Any:
        epsilons.append(epsilon)
        return act(agent, frames, epsilon)

    def counted(agent: DQN) -> None:
        copied.append(True)
        update_target(agent)

    monkeypatch.setattr(Episodes, "receive", received)
    monkeypatch.setattr(FrameReplay, "add", added)
    monkeypatch.setattr(DQN, "act", acted)
    monkeypatch.setattr(DQN, "update_target", counted)
    monkeypatch.setattr("envs.atari.MAX_FRAMES_PER_EPISODE", 400)
    options = ["--game", "breakout", "--protocol", protocol, "--checkpoint-every-steps", "0", "--out", str(tmp_path)]
    assert train_dqn.main(["pong", *TINY[1:], *options, "--final-evaluation-episodes", "1"]) == 0
    assert len(copied) == 600 // 40 and len(lost) == 600 // 2
    assert np.any(lost) and np.any(truncated)  # or nothing was tried
    told = {int(row["steps"]): float(row["epsilon"]) for row in metrics(tmp_path) if row["epsilon"]}
    assert all(epsilons[steps // 2] == epsilon for steps, epsilon in told.items() if steps < 600) and len(told) == 12


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("No space left on device\nfor colours")]
)
def test_a_video_that_fails_costs_no_training(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("runs.dqn_run.record_video", fails)
    out = tmp_path / "run"
    options = ("--total-steps", "120", "--evaluation-video-steps", "5", "--out", str(out))
    assert train_dqn.main([*TINY, *options]) == 0
    told = " ".join("".join(capsys.readouterr()).split())
    assert "warning: no video" in told and "No space left on device" in told and "for colours" not in told
    assert (out / "checkpoints" / "120").exists() and (out / "evaluation.json").exists()


def test_evaluate(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    arguments = ("--episodes", "5", "--epsilon", "0.05", "--seed", "3", "--json", str(file))
    run("runs.evaluate", str(trained), *arguments)
    result = json.loads(file.read_text())
    assert len(result["scores"]) == 5 and result["mean"] == pytest.approx(np.mean(result["scores"]))
    assert (result["protocol"], result["epsilon"], result["seed"]) == ("classic", 0.05, 3)
    assert "of Atari games" in refused("runs.evaluate", str(trained), "--protocol", "v5")
    run("runs.evaluate", str(trained / "checkpoints" / "540"), *arguments)
    run("runs.evaluate", str(trained / "best"), *arguments)


def test_watch_writes_a_video_of_the_right_size(trained: Path, tmp_path: Path) -> None:
    import imageio_ffmpeg

    video = tmp_path / "deep" / "game.mp4"
    printed = run("runs.watch", str(trained), "--video", str(video))
    assert "catch (classic): score " in printed
    reader = imageio_ffmpeg.read_frames(str(video))
    about = next(reader)
    assert about["size"] == (640, 608) and about["fps"] == 15
    frames = [np.frombuffer(frame, np.uint8).reshape(608, 640, 3) for frame in reader]
    assert len(frames) == 30  # five balls of six steps
    assert all(frame.std() > 5 for frame in frames) and not np.array_equal(frames[0], frames[5])


def test_a_window_opens_where_there_is_a_display(trained: Path) -> None:
    dummy = environment() | {"SDL_VIDEODRIVER": "dummy", "DISPLAY": ":dummy"}
    command = [sys.executable, "-m", "runs.watch", str(trained)]
    done = subprocess.run(command, cwd=ROOT, env=dummy, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "catch (classic): score " in done.stdout, done.stderr


def test_export_is_small_and_plays(trained: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    run("runs.export", str(trained), str(small))
    assert sorted(p.name for p in small.iterdir()) == ["config.json", "weights.safetensors"]
    assert all(w.dtype == torch.bfloat16 for w in load_tensors(small / "weights.safetensors").values())
    run("runs.evaluate", str(small), "--episodes", "2")
    assert "weights alone" in refused("runs.train_dqn", "--resume", str(small))
    assert "not empty" in refused("runs.export", str(trained), str(small))


def test_unknown_names_and_contradictions(tmp_path: Path) -> None:
    out = str(tmp_path / "never")
    train = ("runs.train_dqn", "catch", "--out", out, "--tracking", "none")
    assert "nearest: pong" in refused("runs.train_dqn", "classic", "--game", "pongg", "--out", out)
    assert "did you mean catch?" in refused("runs.train_dqn", "catsh")
    assert "error: need 0 <= --epsilon-end <= --epsilon-start" in refused(*train, "--epsilon-end", "3")
    assert "error: --total-steps -5 must be" in refused(*train, "--total-steps", "-5")
    assert "would never be held" in refused(*train, "--learning-starts-steps", "1000000")
    assert "--stop-at-score needs evaluations" in refused(*train, "--evaluate-every-steps", "0")
    assert "options of Atari games" in refused(*train, "--mode", "2")
    assert "at least" in refused(*train, "--replay-capacity-steps", "40", "--learning-starts-steps", "0")
    assert "--replay-capacity-steps" in refused(*train, "--replay-capacity-steps", "1000000000")
    if not torch.cuda.is_available():
        assert "no cuda device" in refused(*train, "--device", "cuda")
    assert not Path(out).exists()
    run("runs.train_dqn", "catch", "--no-such-option", expect=2)


def test_folders_in_the_way(trained: Path, tmp_path: Path) -> None:
    before = sorted(trained.rglob("*"))
    assert "--resume" in refused("runs.train_dqn", *TINY, "--out", str(trained))
    (tmp_path / "a file").write_text("mine")
    refused("runs.train_dqn", *TINY, "--out", str(tmp_path / "a file"))
    assert "cannot write" in refused("runs.train_dqn", *TINY, "--out", "/proc/no/such")
    assert sorted(trained.rglob("*")) == before and (tmp_path / "a file").read_text() == "mine"


def test_resume_of_what_cannot_be_resumed(trained: Path, tmp_path: Path) -> None:
    assert "larger --total-steps" in refused("runs.train_dqn", "--resume", str(trained))
    assert "nothing at" in refused("runs.train_dqn", "--resume", str(tmp_path / "none"))
    assert "no checkpoint yet" in refused("runs.train_dqn", "--resume", str(tmp_path))
    run("runs.train_dqn", "--resume", str(trained), "--learning-rate", "1", expect=2)


def test_a_live_run_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "live"
    process = start("runs.train_dqn", *TINY, "--total-steps", "1000000", "--out", str(out))
    while not (out / "checkpoints" / "latest").exists():
        time.sleep(0.05)
        assert process.poll() is None
    assert f"in use by a live run (process {process.pid})" in refused("runs.train_dqn", "--resume", str(out))
    process.send_signal(signal.SIGKILL)
    process.communicate()


def damaged(trained: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(trained / "checkpoints" / "600", copy)
    return copy


def test_damaged_checkpoints(trained: Path, tmp_path: Path) -> None:
    copy = damaged(trained, tmp_path)
    whole = (copy / "weights.safetensors").read_bytes()
    (copy / "weights.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cut short" in refused("runs.evaluate", str(copy))
    (copy / "weights.safetensors").write_bytes(whole)
    about = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text("{")
    assert "config.json" in refused("runs.evaluate", str(copy))
    (copy / "config.json").write_text(json.dumps(about | {"format": "saccade-dqn-99"}))
    assert "saccade-dqn-99" in refused("runs.watch", str(copy), "--video", str(tmp_path / "v.mp4"))
    about["config"]["agent"]["dueling"] = True
    (copy / "config.json").write_text(json.dumps(about))
    assert "does not fit" in refused("runs.evaluate", str(copy))
    about["config"]["agent"] |= {"dueling": False, "backbone": "impala"}
    (copy / "config.json").write_text(json.dumps(about))
    assert "backbone" in refused("runs.evaluate", str(copy))
    about["config"]["agent"] |= {"backbone": "nature"}
    about["shapes"]["num_actions"] = 18
    (copy / "config.json").write_text(json.dumps(about))
    assert "18 actions" in refused("runs.evaluate", str(copy))


def test_an_agent_meets_a_game_with_other_actions(trained: Path, tmp_path: Path) -> None:
    copy = damaged(trained, tmp_path)
    about = json.loads((copy / "config.json").read_text())
    about["config"]["env"]["game"] = "pong"
    (copy / "config.json").write_text(json.dumps(about))
    assert "6 actions" in refused("runs.evaluate", str(copy))


class Bomb:
    def __reduce__(self):
        return (os.system, (f"touch '{os.environ['BOMB']}'",))


def test_pickles_are_refused_and_never_opened(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    copy = damaged(trained, tmp_path)
    (copy / "weights.safetensors").write_bytes(pickle.dumps(Bomb()))
    assert "pickle" in refused("runs.evaluate", str(copy))
    torch.save({"weights": torch.zeros(2)}, tmp_path / "model.pt")
    assert "pickles" in refused("runs.evaluate", str(tmp_path / "model.pt"))
    assert not (tmp_path / "exploded").exists()


def test_wrong_values_elsewhere(trained: Path, tmp_path: Path) -> None:
    assert "--episodes" in refused("runs.evaluate", str(trained), "--episodes", "0")
    assert "--epsilon" in refused("runs.watch", str(trained), "--epsilon", "2", "--video", str(tmp_path / "v.mp4"))
    assert "no folder" in refused("runs.evaluate", str(trained), "--json", str(tmp_path / "no" / "f.json"))
    assert "only .mp4" in refused("runs.watch", str(trained), "--video", str(tmp_path / "v.gif"))
    if not os.environ.get("DISPLAY"):
        assert "no display" in refused("runs.watch", str(trained))


def test_a_checkpoint_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    """The folder of checkpoints turns into a file: what permission and space would do, even to root."""
    out = tmp_path / "run"
    process = start("runs.train_dqn", *TINY, "--total-steps", "1200", "--out", str(out))
    while not (out / "checkpoints" / "latest").exists():
        time.sleep(0.01)
        assert process.poll() is None
    (out / "checkpoints").rename(out / "moved away")
    (out / "checkpoints").write_text("no folder")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0 and "Traceback" not in output, output
    assert "warning: no checkpoint" in output and "training goes on" in output
    load_agent(out / "moved away" / (out / "moved away" / "latest").read_text())


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run("runs.train_dqn", *TINY, "--total-steps", "300", "--out", str(out))
    checkpoint = out / "checkpoints" / "300"
    weights = load_tensors(checkpoint / "weights.safetensors")
    weights["head.advantage.bias"][0] = float("nan")
    save_tensors(checkpoint / "weights.safetensors", weights)
    output = run("runs.train_dqn", "--resume", str(out), "--total-steps", "600", expect=3)
    assert "not a finite number since update" in output and "largest gradient: " in output
    assert (out / "diverged" / "weights.safetensors").exists()
    assert (out / "checkpoints" / "latest").read_text() == "300"


def test_catch_is_learnt_within_90_seconds(tmp_path: Path) -> None:
    began = time.monotonic()
    run("runs.train_dqn", "catch", "--tracking", "none", "--out", str(tmp_path / "catch"))
    assert time.monotonic() - began < 90
    result = json.loads((tmp_path / "catch" / "evaluation.json").read_text())
    assert result["episodes"] == 30 and result["mean"] >= 0.9 * 5
