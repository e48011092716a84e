"""Looking into networks: what their heads are asked, the sheets, the map of states, and what is refused."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from commands import TINY, refused, run
from PIL import Image
from torch import Tensor

from agents.dqn import DQN
from agents.sb3 import ALGORITHMS, untrained
from envs.config import EnvConfig
from perception.backbones import BACKBONES
from perception.config import Ascent, ConfigError
from perception.dreams import first_filters
from runs import dream, state_map, train_dqn
from runs.agent_checkpoints import load_agent, write_weights
from runs.config import SB3Config, TrackingConfig, TrainConfig
from runs.dream import DreamArgs
from runs.dream_sheet import COLUMNS
from runs.evaluate import load_player
from runs.insight import load_subject
from runs.perception_checkpoints import load_perception
from runs.perception_config import PerceptionConfig
from runs.perception_run import new_run
from runs.playing import play_episode
from runs.sb3_checkpoints import write_sb3
from runs.state_map import StateMapArgs, border, lay_out, typical

TASKS = [*get_args(PerceptionConfig.__annotations__["task"].__origin__), "digits"]
QUICK = Ascent(updates=2)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "agent"
    assert train_dqn.main([*TINY, "--total-steps", "120", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames") / "recorded"
    run("runs.record_frames", "--games", "breakout", "--steps", "1200", "--seed", "1", "--out", str(folder))
    return folder


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory, recorded: Path) -> dict[str, Path]:
    """A fresh network of each task, and one for digits."""
    folder = tmp_path_factory.mktemp("eyes")
    for name in TASKS:
        config = PerceptionConfig(
            task="classification" if name == "digits" else name,  # type: ignore[arg-type]
            data="digits" if name == "digits" else str(recorded),
            backbone="convnet" if name == "digits" else "nature",
            num_threads=1,
            tracked=TrackingConfig(tracking="none"),
            out=folder / name,
        )
        learning = new_run(config)
        learning.begin()
        learning.save()
        learning.close()
    return {name: folder / name for name in TASKS}


def tiles(path: Path, tile: int = 168) -> int:
    """Return how many tiles the first row has room for."""
    with Image.open(path) as picture:
        assert np.asarray(picture).std() > 5
        return (picture.width - 6) // (tile + 6)


def test_the_sheet_of_an_agent(agent: Path, tmp_path: Path) -> None:
    """Filters, three stages and answers; the same seed draws it again bit for bit."""

    def drawn(seed: int) -> np.ndarray:
        args = DreamArgs(agent, out=out, steps=20, ascent=QUICK, seed=seed, device="cpu")
        assert dream.main(args) == 0
        return np.asarray(Image.open(out))

    out = tmp_path / "sheet.png"
    printed = run("runs.dream", str(agent), "--out", str(out), "--updates", "2", "--steps", "20", "--device", "cpu")
    assert printed.splitlines()[-1] == str(out) and tiles(out) == COLUMNS
    sheet = np.asarray(Image.open(out))
    assert np.array_equal(sheet, drawn(0)) and not np.array_equal(sheet, drawn(1))


def test_channels_that_one_image_does_not_tell_apart_are_left_out(agent: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.png"
    assert dream.main(DreamArgs(agent, out=out, steps=1, ascent=QUICK, device="cpu")) == 0
    assert tiles(out) == COLUMNS


def test_one_thing_at_a_time(agent: Path, tmp_path: Path) -> None:
    def drawn(**options: object) -> Path:
        out = tmp_path / "dream.png"
        assert dream.main(DreamArgs(agent, out=out, steps=10, ascent=QUICK, **options)) == 0  # type: ignore[arg-type]
        return out

    assert tiles(drawn(stage=2, channels="0-3,60")) == 6  # and the key to the colours
    assert tiles(drawn(answers="value,left")) == 3
    assert tiles(drawn(filters=True)) == COLUMNS
    with Image.open(drawn(filters=True)) as picture:  # 32 filters and the key: four rows
        assert 4 * 174 < picture.height < 5 * 174
    assert tiles(drawn(deep_dream="4"), tile=420) == 4  # the step, and each stage
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(photo)
    assert tiles(drawn(deep_dream=str(photo), stage=3, channels="1"), tile=420) == 2


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_drawn(eyes: dict[str, Path], task: str, tmp_path: Path) -> None:
    out = tmp_path / "dream.png"
    assert dream.main(DreamArgs(eyes[task], out=out, ascent=Ascent(updates=1))) == 0
    assert tiles(out) == COLUMNS


def test_an_eye_whose_data_are_gone_dreams_of_a_game_or_of_nothing(
    eyes: dict[str, Path], recorded: Path, tmp_path: Path
) -> None:
    moved = recorded.rename(recorded.with_name("elsewhere"))
    try:
        blind = load_subject(eyes["segmentation"], None, 5, 0, "cpu")
        seeing = load_subject(eyes["segmentation"], "pong", 5, 0, "cpu")
        assert dream.main(DreamArgs(eyes["segmentation"], out=tmp_path / "dream.png", ascent=QUICK)) == 0
    finally:
        moved.rename(recorded)
    assert len(blind.images) == 0 and not blind.plays
    assert seeing.images.shape[1:] == (4, 84, 84) and len(seeing.images) and seeing.plays


def test_what_an_agent_is_asked(agent: Path) -> None:
    subject = load_subject(agent, None, 8, 0, "cpu")
    player, _ = load_agent(agent, "cpu")
    q = player.differentiable()(subject.images)
    asked = subject.ask(subject.images / 255)
    assert subject.answers == ["value", "stay", "left", "right"] and subject.plays
    torch.testing.assert_close(asked[:, 0], q.amax(dim=1))
    torch.testing.assert_close(asked[:, 1:], q - q.mean(dim=1, keepdim=True))
    assert all(frame.any() for stack in subject.images for frame in stack)  # none from before the episode


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_an_agent_of_sb3_is_asked_and_how_it_sees(algorithm: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = untrained(algorithm, 3, BACKBONES["nature"](4), (84, 84), "cpu")  # type: ignore[call-arg]
    write_sb3(tmp_path, model, SB3Config(algorithm, "catch"), {"backbone": "nature"})  # type: ignore[arg-type]
    subject = load_subject(tmp_path, None, 8, 0, "cpu")
    player, _ = load_player(tmp_path, None, "cpu")
    opinion, _ = player.opinion(subject.images.numpy())
    if algorithm != "dqn":
        opinion = opinion.log()
    images = (subject.images / 255).requires_grad_()
    asked = subject.ask(images)
    advantages = asked[:, 1:] if algorithm == "dqn" else asked
    torch.testing.assert_close(advantages, opinion - opinion.mean(dim=1, keepdim=True), rtol=1e-4, atol=1e-4)
    asked[:, -1].sum().backward()
    assert images.grad is not None and images.grad.any()
    hidden = player.hidden(subject.images.numpy())
    assert hidden.shape == (len(subject.images), 512) and float(hidden.min()) >= 0


def test_what_tasks_are_asked(eyes: dict[str, Path]) -> None:
    def asked(task: str) -> tuple[list[str], Tensor, Tensor]:
        subject = load_subject(eyes[task], None, 5, 0, "cpu")
        network = load_perception(eyes[task], "cpu")[0]
        images = subject.images[:2]
        with torch.no_grad():
            return subject.answers, subject.ask(images / 255), network(images) if task != "contrast" else images

    names, found, logits = asked("digits")
    assert names == list("0123456789")
    torch.testing.assert_close(found, logits - logits.mean(dim=1, keepdim=True))
    names, found, logits = asked("classification")
    assert len(names) == logits.shape[1] and names[0].startswith("player_x=")
    size = sum(name.startswith("player_x=") for name in names)
    torch.testing.assert_close(found[:, :size].sum(dim=1), torch.zeros(2), atol=1e-3, rtol=0)
    names, found, logits = asked("segmentation")
    assert names[0] == "background"
    mean = logits.mean(dim=(2, 3))
    torch.testing.assert_close(found[:, 1] - found[:, 0], mean[:, 1] - mean[:, 0])
    names, found, logits = asked("gan")
    assert names == ["real"]
    torch.testing.assert_close(found[:, 0], logits)
    assert asked("contrast")[0] == [] and asked("contrast")[1].shape == (2, 0)


def test_filters_are_those_of_the_checkpoint(agent: Path) -> None:
    player, _ = load_agent(agent, "cpu")
    subject = load_subject(agent, None, 8, 0, "cpu")
    assert torch.equal(first_filters(subject.backbone), player.weights()["backbone.conv1.weight"])


def test_an_episode_is_played_the_same_again(agent: Path) -> None:
    player, config = load_agent(agent, "cpu")
    played, again = (play_episode(player, config.env, 3, 0.5, 100, colour=True) for _ in range(2))
    assert len(played.frames) == 30 and played.score == played.rewards.sum()
    assert np.array_equal(played.frames, again.frames) and np.array_equal(played.values, again.values)
    assert np.array_equal(played.screens[7][..., 0] > 0, played.frames[7, -1] > 0)  # of the same moment
    begun = play_episode(player, config.env, 3, 0.5, 10)
    assert begun.score is None and np.array_equal(begun.frames, played.frames[:10]) and not begun.screens


def test_the_last_hidden_layer_gives_the_values(agent: Path) -> None:
    player, config = load_agent(agent, "cpu")
    frames = play_episode(player, config.env, 0, 0.5, 20).frames
    values = player.online.head.values(player.hidden(frames))
    torch.testing.assert_close(values, player.q_values(frames), rtol=0.02, atol=0.02)  # bf16 where it plays


def test_the_state_map(agent: Path, tmp_path: Path) -> None:
    out = tmp_path / "states.png"
    assert run("runs.state_map", str(agent), "--out", str(out)).strip() == str(out)
    with Image.open(out) as picture:
        assert picture.width > 1000 and np.asarray(picture.convert("L")).std() > 5
    assert state_map.main(StateMapArgs(agent, out=tmp_path / "states.svg", method="pca")) == 0
    assert "value of the state" in (tmp_path / "states.svg").read_text()


def test_states_that_look_alike_to_the_agent_make_no_map(tmp_path: Path) -> None:
    """Of a hidden layer whose units are dead, t-SNE would end the process."""
    config = TrainConfig(env=EnvConfig("catch"))
    player = DQN(config.agent, num_actions=3, seed=0)
    with torch.no_grad():
        for name, parameter in player.online.named_parameters():
            if name.startswith("backbone"):
                parameter.zero_()
    (tmp_path / "dead").mkdir()
    write_weights(tmp_path / "dead", config, player, {"steps": 0})
    told = refused("runs.state_map", str(tmp_path / "dead"), "--out", str(tmp_path / "states.png"))
    assert "alike to every state" in told and not (tmp_path / "states.png").exists()


def test_two_kinds_of_states_lie_apart() -> None:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(60, 40)).astype(np.float32)
    hidden[30:] += 4
    for method in ("tsne", "pca"):
        places = lay_out(hidden, method, 10.0, seed=0)
        middles = places[:30].mean(axis=0), places[30:].mean(axis=0)
        nearer = np.linalg.norm(places - middles[0], axis=1) < np.linalg.norm(places - middles[1], axis=1)
        assert nearer[:30].all() and not nearer[30:].any()
        assert np.array_equal(places, lay_out(hidden, method, 10.0, seed=0))


def test_pca_against_the_singular_values() -> None:
    hidden = np.random.default_rng(1).normal(size=(20, 6)) * [5, 3, 1, 1, 1, 1]
    centred = hidden - hidden.mean(axis=0)
    twin = centred @ np.linalg.svd(centred)[2][:2].T
    places = lay_out(hidden, "pca", 10.0, seed=0)
    for found, true in zip(places.T, twin.T, strict=True):
        assert np.allclose(found, true) or np.allclose(found, -true)


def test_typical_states_are_one_of_each_group() -> None:
    places = np.array([[0.0, 0.0], [0.1, 0.0], [-0.1, 0.0], [9.0, 9.0], [9.0, 9.1], [9.0, 8.9], [0.0, 9.0]])
    assert typical(places, 3, seed=0) == [0, 3, 6]
    assert typical(places[:2], 5, seed=0) == [0, 1]
    assert len({tuple(place) for place in border(6, 3)}) == 18


def test_wrong_options(agent: Path, eyes: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, missing = tmp_path / "never.png", tmp_path / "missing.png"
    for options, named in (
        ({"stage": 4}, "stages 1 to 3"),
        ({"stage": 2, "channels": "0-64"}, "0 to 63"),
        ({"stage": 2, "channels": "some"}, "as 0-7,12"),
        ({"answers": "up"}, "value, stay, left, right"),
        ({"deep_dream": str(missing)}, "cannot be read"),
        ({"deep_dream": "99"}, "images are there"),
        ({"game": "pong"}, "an agent has its game"),
        ({"game": "pongg", "checkpoint": eyes["segmentation"]}, "no game named"),
        ({"game": "pong", "checkpoint": eyes["digits"]}, "looks at images"),
        ({"answers": "cat", "checkpoint": eyes["contrast"]}, "draw its --stage"),
        ({"answers": "all", "checkpoint": eyes["contrast"]}, "draw its --stage"),
        ({"stage": 1, "steps": 1}, "more --steps"),
        ({"out": tmp_path / "no" / "f.png"}, "there is no folder"),
        ({"out": tmp_path / "f.gif"}, "ends in .png"),
    ):
        args: Any = {"checkpoint": agent, "out": out, "steps": 5, "ascent": QUICK} | options
        with pytest.raises(SystemExit) as stopped:
            dream.main(DreamArgs(**args))
        lines = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 2 and len(lines) == 1 and named in lines[0], (options, lines)
    for wrong, named in (
        ({"channels": "1"}, "give --stage"),
        ({"filters": True, "answers": "all"}, "give one of them"),
        ({"steps": 0}, "--steps"),
    ):
        with pytest.raises(ConfigError, match=named):
            DreamArgs(**({"checkpoint": agent, "out": out} | wrong))  # type: ignore[arg-type]
    assert not out.exists()


def test_wrong_input_of_the_commands(agent: Path, eyes: dict[str, Path], tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "never.png"))
    assert "nothing at" in refused("runs.dream", str(tmp_path / "none"), *out)
    assert "jitter -1 must be at least 0" in refused("runs.dream", str(agent), *out, "--jitter", "-1")
    taken = tmp_path / "taken.png"
    taken.mkdir()
    for command in ("dream", "state_map"):
        assert f"cannot write '{taken}'" in refused(f"runs.{command}", str(agent), "--out", str(taken))
    assert "agent's" in refused("runs.state_map", str(eyes["segmentation"]), *out)
    assert "at least 30" in refused("runs.state_map", str(agent), *out, "--most-steps", "3")
    assert "--perplexity" in refused("runs.state_map", str(agent), *out, "--perplexity", "0")
    assert not (tmp_path / "never.png").exists()
