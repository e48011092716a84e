"""Watching an agent: what is kept for the Rerun viewer, which games are shown, and what is refused."""

import importlib.util
import itertools
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import tyro
from browser import chromium, need_chromium
from commands import TINY, refused, run, start
from rerun.chunk import RrdReader

from agents.dqn import DQN
from envs.config import EnvConfig
from perception.captioning import SPECIAL
from perception.config import ConfigError
from perception.saliency import integrated_gradients
from runs.agent_checkpoints import load_agent, write_weights
from runs.checkpoints import CheckpointError
from runs.config import TrainConfig
from runs.eyes import Eye, open_eyes
from runs.moments import Moment, best_episode, first_episodes, follow, one_episode, play
from runs.perception_checkpoints import make_backbone, make_network, make_task, write_network
from runs.perception_config import PerceptionConfig
from runs.pictures import ACCENT
from runs.viewer import MEDIAN_LEAST, Viewer, load_rerun, overlay, saliency, tiles
from runs.viewer_server import ViewerServer
from runs.watch import WatchArgs, check, main

STEPS = 30  # of a game of catch: five balls of six
STEERED = ("--epsilon", "0.3", "--seed", "7")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh agent's checkpoint, for catch."""
    folder = tmp_path_factory.mktemp("agent")
    config = TrainConfig(env=EnvConfig("catch"))
    write_weights(folder, config, DQN(config.agent, num_actions=3, seed=4), {"steps": 0})
    return folder


def fresh_eye(folder: Path, task: str, names: dict[str, list[str]], channels: int = 4) -> Path:
    """Write the checkpoint of an eye that has learnt nothing."""
    config = PerceptionConfig(task=task, data="none", precision="float32")  # type: ignore[arg-type]
    pixels = [9] * len(names["classes"]) if "classes" in names else None
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = make_network(make_task(config, names, pixels), make_backbone("nature", channels)[1], (84, 84), config)
    about = {"backbone": "nature", "channels": channels, "size": [84, 84], "names": names, "pixels": pixels}
    folder.mkdir()
    write_network(folder, network, config, about)
    return folder


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("eyes")
    masks = fresh_eye(folder / "masks", "segmentation", {"classes": ["background", "ball", "paddle"]})
    return [masks, fresh_eye(folder / "words", "captioning", {"words": [*SPECIAL, "a", "ball"]})]


def read(path: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Return what a recording says: by entity, step, and component; what is static at step -1."""
    said: dict[str, dict[int, dict[str, Any]]] = {}
    for chunk in RrdReader(path).stream().to_chunks():
        for row in chunk.to_record_batch().to_pylist():
            step = -1 if chunk.is_static else row["step"]
            said.setdefault(chunk.entity_path, {}).setdefault(step, {}).update(row)
            assert chunk.is_static or chunk.timeline_names == ["step"]
    return said


@pytest.fixture(scope="module")
def recorded(agent: Path, eyes: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("recorded") / "deep" / "catch.rrd"
    looking = [part for eye in eyes for part in ("--eye", str(eye))]
    printed = run("runs.watch", str(agent), "--record", str(path), *looking, *STEERED)
    return {"printed": printed, "said": read(path)}


def test_a_recording_holds_every_entity_at_every_step(recorded: dict[str, Any]) -> None:
    said = recorded["said"]
    every = "screen screen/segmentation input stack actions actions/names value reward score".split()
    every += [f"actions/{name}" for name in ("stay", "left", "right")] + [f"stages/{i}" for i in (1, 2, 3)]
    every += ["words/segmentation", "words/captioning"]
    for entity in every:
        assert set(said[f"/{entity}"]) - {-1} == set(range(STEPS)), entity
    assert set(said["/input/saliency"]) == set(range(0, STEPS, 4))
    assert set(said) - {f"/{entity}" for entity in every} <= {"/input/saliency", "/about", "/__properties"}


def test_a_recording_says_what_was_played(recorded: dict[str, Any], agent: Path, eyes: list[Path]) -> None:
    """Against the same game, played here."""
    said, (player, config) = recorded["said"], load_agent(agent)
    seer = Eye(eyes[0], device="cpu")
    moments = list(first_episodes(play(player, config.env, seed=7, epsilon=0.3), 1))
    assert len(moments) == STEPS and f"catch (classic): score {moments[-1].score:g}\n" in recorded["printed"]
    for step, moment in enumerate(moments):
        for name in ("value", "reward", "score"):
            assert said[f"/{name}"][step]["Scalars:scalars"] == [pytest.approx(getattr(moment, name), abs=1e-5)]
        for name, opinion in zip(moment.action_names, moment.opinion, strict=True):
            assert said[f"/actions/{name}"][step]["Scalars:scalars"] == [pytest.approx(opinion, abs=1e-5)]
        assert bytes(said["/screen"][step]["Image:buffer"][0]) == moment.screen.tobytes()
        assert bytes(said["/input"][step]["Image:buffer"][0]) == moment.frames[-1].tobytes()
        seen = seer.look(moment.frames)
        assert seen.mask is not None
        assert bytes(said["/screen/segmentation"][step]["SegmentationImage:buffer"][0]) == seen.mask.tobytes()
        assert said["/words/segmentation"][step]["TextDocument:text"] == [seen.words]
        names = said["/actions/names"][step]["Points2D:labels"]
        assert names == [f"{n}  {o:.3f}" for n, o in zip(moment.action_names, moment.opinion, strict=True)]
        colours = said["/actions"][step]["LineStrips2D:colors"]
        accent = int.from_bytes(bytes((*ACCENT, 255)))
        assert [colour == accent for colour in colours] == [i == moment.action for i in range(3)]
    assert len({moment.action for moment in moments}) == 3
    assert f"{agent}" in said["/about"][0]["TextDocument:text"][0]


def test_the_best_game_is_shown(agent: Path, tmp_path: Path) -> None:
    player, config = load_agent(agent)
    best, scores = best_episode(player, config.env, seed=7, epsilon=0.3, episodes=6)
    assert scores[best] == max(scores) and 0 < best == scores.index(max(scores)) and len(set(scores)) > 1
    printed = run(
        "runs.watch", str(agent), "--best", "--episodes", "6", "--record", str(tmp_path / "b.rrd"),
        "--saliency-every-steps", "0", *STEERED,
    )  # fmt: skip
    assert f"shown is game {best + 1}" in printed and printed.count("catch (classic)") == 1
    said = read(tmp_path / "b.rrd")
    assert "/input/saliency" not in said and set(said["/score"]) - {-1} == set(range(STEPS))
    assert said["/score"][STEPS - 1]["Scalars:scalars"] == [max(scores)]
    every = list(first_episodes(play(player, config.env, seed=7, epsilon=0.3), best + 1))[-STEPS:]
    again = list(one_episode(player, config.env, 7, 0.3, best))
    assert [moment.action for moment in again] == [moment.action for moment in every]
    assert all(np.array_equal(one.screen, other.screen) for one, other in zip(again, every, strict=True))


def test_a_run_is_followed_to_its_end(tmp_path: Path) -> None:
    """Its newest checkpoint plays, game after game, while it trains; then its last, and that is all."""
    out = tmp_path / "run"
    training = start("runs.train_dqn", *TINY, "--total-steps", "1000000", "--out", str(out))
    while not (out / ".lock").exists():
        assert training.poll() is None
        time.sleep(0.02)
    watching = start(
        "runs.watch", str(out), "--follow", "--record", str(tmp_path / "f.rrd"), "--saliency-every-steps", "0"
    )
    assert watching.stdout is not None
    told = list(itertools.islice(watching.stdout, 4))
    assert told[0].startswith("waiting for the first checkpoint") or "catch (classic)" in told[0]
    training.send_signal(signal.SIGINT)
    training.communicate(timeout=60)
    rest, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0 and "Traceback" not in rest
    played = [int(line.split(":")[0]) for line in told + rest.splitlines() if ": catch (classic)" in line]
    assert played == sorted(played) and len(set(played)) > 1
    assert played[-1] == int((out / "checkpoints" / "latest").read_text())
    steps = set(read(tmp_path / "f.rrd")["/screen"])
    assert steps == set(range(STEPS * len(played)))


def test_what_is_followed_must_be_a_run(agent: Path, tmp_path: Path) -> None:
    def load(path: Path) -> Any:
        return *load_agent(path)[:1], EnvConfig("catch")

    for folder, message in ((tmp_path, "no checkpoint yet"), (agent, "is a checkpoint")):
        with pytest.raises(CheckpointError, match=message):
            next(follow(folder, load, seed=0, epsilon=0.0))


def test_what_contradicts_itself_is_refused(agent: Path, eyes: list[Path], tmp_path: Path) -> None:
    video, record = ("--video", str(tmp_path / "a.mp4")), ("--record", str(tmp_path / "a.rrd"))
    for options, named in (
        ((*video, *record), "--video goes without"),
        (("--record", str(tmp_path / "a.txt")), "only .rrd"),
        ((*video, "--eye", str(eyes[0])), "--eye goes with"),
        ((*record, "--best"), "--episodes of at least 2"),
        ((*record, "--best", "--follow"), "--best goes without --follow"),
        ((*video, "--follow"), "--follow goes without --video"),
        ((*record, "--saliency-every-steps", "-1"), "at least 0"),
        ((*record, "--host", "0.0.0.0"), "--host goes with --viewer"),
        ((*record, "--web"), "--web goes with --viewer"),
        (("--viewer", "--port", "65535"), "--port 65535"),
        ((*record, "--port", "9090"), "--port goes with --viewer"),
        ((*video, "--saliency-every-steps", "4"), "--saliency-every-steps goes with"),
        ((*video, "--saliency", "gradients"), "--saliency goes with"),
        ((*record, "--episodes", "0"), "--episodes"),
    ):
        with pytest.raises((ConfigError, ValueError), match=named):
            check(tyro.cli(WatchArgs, args=[str(agent), *options]))
    assert "--best goes without --follow" in refused("runs.watch", str(agent), *record, "--best", "--follow")
    assert not list(tmp_path.iterdir())
    assert "nothing at" in refused("runs.watch", str(tmp_path / "none"), *record)
    assert not list(tmp_path.iterdir())
    assert "a perception task's" in refused("runs.watch", str(agent), *record, "--eye", str(agent))
    assert "--seed -1 must be 0 or above" in refused("runs.watch", str(agent), *record, "--seed", "-1")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"looks at images of 3×84×84; this agent sees 4×84×84"):
        open_eyes((fresh_eye(tmp_path / "rgb", "captioning", {"words": [*SPECIAL, "a"]}, 3),), (4, 84, 84), "cpu")
    with pytest.raises(ValueError, match="which says nothing of a frame"):
        Eye(fresh_eye(tmp_path / "contrast", "contrast", {}))
    assert [eye.name for eye in open_eyes((eyes[0], eyes[1], eyes[0]), (4, 84, 84), "cpu")] == [
        "segmentation", "captioning", "segmentation-2",
    ]  # fmt: skip


def test_maps_are_laid_out_in_order() -> None:
    maps = np.arange(1, 6, dtype=np.float32)[:, None, None] * np.ones((5, 2, 3), np.float32)
    drawn = tiles(maps)  # 3 beside each other, in 2 lines, each with a pixel of space after it
    assert drawn.shape == (2 * 3, 3 * 4)
    assert [drawn[3 * (i // 3), 4 * (i % 3)] for i in range(6)] == [51, 102, 153, 204, 255, 0]
    assert (drawn[2::3] == 0).all() and (drawn[:, 3::4] == 0).all()


def test_gradients_tell_where_value_and_action_come_from(agent: Path) -> None:
    player, config = load_agent(agent)
    moment = next(play(player, config.env, 0, 0.0))
    black = torch.zeros(4, 84, 84, dtype=torch.uint8)
    value, advantage = saliency(moment, black, "gradients")
    drawn = moment.frames.any(axis=0)
    assert drawn.any() and not drawn.all()
    for found in (value, advantage):  # what is as in the picture that shows nothing adds nothing
        assert found.shape == (84, 84) and (found[~drawn] == 0).all() and found[drawn].max() > 0


def test_what_does_not_move_adds_nothing() -> None:
    still = np.full((84, 84), 200, np.uint8)
    seen: Any = SimpleNamespace(_recent=[still] * MEDIAN_LEAST)
    without = Viewer._without(seen, np.stack([still] * 4))
    assert without is not None
    added = integrated_gradients(lambda x: x.sum(dim=(1, 2, 3)), torch.from_numpy(np.stack([still] * 4)), without)
    assert not added.any()


def test_saliency_is_red_for_the_value_and_blue_for_the_action() -> None:
    drawn = overlay(np.array([[[2.0, 0.0, 1.0]], [[0.0, 4.0, 2.0]]], np.float32))
    np.testing.assert_array_equal(drawn[0], [[255, 0, 0, 200], [0, 0, 255, 200], [255, 0, 255, 100]])
    assert (overlay(np.zeros((2, 1, 1), np.float32))[..., 3] == 0).all()


@pytest.fixture(scope="module")
def viewed(agent: Path, eyes: list[Path]) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A live web viewer, and its address."""
    options = ("--viewer", "--web", "--port", "0", "--eye", str(eyes[0]), *STEERED)
    process = start("runs.watch", str(agent), *options)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("viewer: http://127.0.0.1:"), line + process.stdout.read()
    yield process, line.split()[1]
    below = psutil.Process(process.pid).children(recursive=True)
    printed = line
    while "the viewer stays open: Ctrl-C ends it" not in printed:
        line = process.stdout.readline()
        assert line, printed
        printed += line
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0, printed
    assert below and not psutil.wait_procs(below, timeout=10)[1]


def test_the_viewer_listens_on_this_machine_alone(viewed: tuple["subprocess.Popen[str]", str]) -> None:
    watching = psutil.Process(viewed[0].pid)
    family = [watching, *watching.children(recursive=True)]
    listening = [c.laddr.ip for one in family for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) >= 3 and set(listening) == {"127.0.0.1"}
    for one in family[1:]:
        assert one.environ()["CI"], "Rerun's own switch for its analytics"


def test_the_viewer_is_seen_in_a_browser(viewed: tuple["subprocess.Popen[str]", str], tmp_path: Path) -> None:
    need_chromium()
    with chromium(tmp_path / "chromium") as page:
        page.open(viewed[1])
        # The bars are in this colour, and the trace of the value.
        deadline = time.monotonic() + 240
        while (page.picture() == ACCENT).all(axis=2).sum() < 300:
            assert time.monotonic() < deadline, "the agent's choice is not to be seen"
            time.sleep(1)
        seen = page.picture()
        assert seen.shape == (1000, 1600, 3) and len(np.unique(seen.reshape(-1, 3), axis=0)) > 50
        # Elsewhere it may not turn: Rerun's page would tell of its use. The data's own port is not elsewhere.
        for port, answer in ((1, "stopped"), (int(viewed[1].rpartition(":")[2]) + 1, "free to go")):
            assert page.may_reach(f"http://127.0.0.1:{port}/") == answer


def test_a_taken_port_is_told(agent: Path, viewed: tuple["subprocess.Popen[str]", str]) -> None:
    taken = viewed[1].rpartition(":")[2]
    told = refused("runs.watch", str(agent), "--viewer", "--web", "--port", taken)
    assert f"port {taken}" in told and "another --port" in told


@pytest.mark.parametrize("port", [0, 9090])
def test_an_address_of_another_machine_is_refused(port: int) -> None:
    for host in ("192.0.2.1", "nowhere.invalid"):
        with pytest.raises(ValueError, match=f"--host {host}: this machine has no such address"):
            ViewerServer(host, port, app=False)


def rerun_below(process: "subprocess.Popen[str]") -> psutil.Process:
    """Return Rerun's own process."""
    below = psutil.Process(process.pid).children(recursive=True)
    return next(one for one in below if one.name() == "rerun")


def test_a_viewer_that_does_not_keep_up_is_waited_for(agent: Path) -> None:
    """As when a browser sleeps: then the game goes on; and Ctrl-C is heard, before it is waited for and meanwhile."""
    process = start("runs.watch", str(agent), "--viewer", "--web", "--port", "0", "--episodes", "500")
    assert process.stdout is not None
    assert "viewer: " in process.stdout.readline() and "catch (classic)" in process.stdout.readline()
    rerun = rerun_below(process)
    rerun.suspend()
    while "waiting: the viewer" not in (line := process.stdout.readline()):
        assert "catch (classic)" in line, line
    rerun.resume()
    assert "catch (classic)" in process.stdout.readline()
    rerun.suspend()
    while "waiting: the viewer" not in (line := process.stdout.readline()):
        assert "catch (classic)" in line, line
    end_by_ctrl_c(process)
    process = start("runs.watch", str(agent), "--viewer", "--web", "--port", "0", "--episodes", "500")
    assert process.stdout is not None
    assert "viewer: " in process.stdout.readline() and "catch (classic)" in process.stdout.readline()
    rerun_below(process).suspend()
    end_by_ctrl_c(process)


def end_by_ctrl_c(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in told, told


def test_a_viewer_that_ends_amid_a_game_is_told_of_in_a_line(agent: Path) -> None:
    process = start("runs.watch", str(agent), "--viewer", "--web", "--port", "0", "--episodes", "50")
    assert process.stdout is not None
    told = process.stdout.readline() + process.stdout.readline()
    assert "catch (classic)" in told, told
    rerun_below(process).kill()
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "error: Rerun's viewer has ended" in told and "Traceback" not in told, told


def test_a_damaged_checkpoint_ends_what_follows_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a line, and with what was recorded so far whole."""
    out = tmp_path / "run"
    run("runs.train_dqn", *TINY, "--total-steps", "120", "--out", str(out))
    checkpoint, real = out / "checkpoints" / "120", follow

    def damaged(*args: Any) -> Iterator[Moment]:
        yield from itertools.islice(real(*args), STEPS)
        (checkpoint / "weights.safetensors").write_bytes(b"{")
        yield from real(*args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("runs.moments.follow", damaged)
        patch.setattr("runs.watch.StopSignal.listen", lambda _: None)
        main(WatchArgs(out, record=tmp_path / "f.rrd", saliency_every_steps=0, follow=True))
    told = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(told) == 1 and told[0].startswith("error: ") and "cannot be read" in told[0]
    assert set(read(tmp_path / "f.rrd")["/screen"]) == set(range(STEPS))


def test_a_video_that_is_not_whole_is_told_of(agent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, limits[1]))  # as a full disk
    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr("runs.watch.StopSignal.listen", lambda _: None)
            main(WatchArgs(agent, video=tmp_path / "a.mp4"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    told = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and told[-1].startswith("error: "), told


def test_without_rerun_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    monkeypatch.setitem(sys.modules, "rerun.blueprint", None)
    with pytest.raises(ValueError, match=r"pip install 'saccade\[viewer\]'"):
        load_rerun()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'saccade\[viewer\]'"):
        ViewerServer("127.0.0.1", 0, app=False)


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGKILL])
def test_an_open_host_is_warned_of_and_nothing_goes_on_listening(agent: Path, ended_by: signal.Signals) -> None:
    process = start("runs.watch", str(agent), "--viewer", "--web", "--port", "0", "--host", "0.0.0.0")
    assert process.stdout is not None
    told = "".join(process.stdout.readline() for _ in range(2))
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(ended_by)
    process.communicate(timeout=60)
    assert "warning: whoever reaches 0.0.0.0" in told and "viewer: http://127.0.0.1:" in told
    assert below and not psutil.wait_procs(below, timeout=10)[1]
