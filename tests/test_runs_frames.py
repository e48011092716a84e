import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from commands import refused, run, start
from PIL import Image

from envs.config import EnvConfig
from envs.labels.reading import screen_mask, variables
from envs.screens import EmulatedGame
from runs.agent_checkpoints import load_agent
from runs.frames import COLUMNS, FramesError, labels_of, open_columns, read_card, split_of, stacks

RECORD = ("runs.record_frames", "--games", "breakout,pong", "--steps", "1500", "--seed", "3")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames") / "recorded"
    run(*RECORD, "--out", str(folder))
    return folder


def test_a_recording_can_be_played_again(recorded: Path) -> None:
    """By the recorded actions: screens, frames, memory, rewards and stacks are the emulator's."""
    card = read_card(recorded)
    assert card["names"]["pong"][-1] == "ball" and card["done"]["breakout"][0] == 1500
    columns = open_columns(recorded, "breakout", 1500)
    at = np.flatnonzero(columns["episodes"] <= 1)
    seen = stacks(columns["frames"], columns["episodes"], at)
    game, rng = EmulatedGame(EnvConfig("breakout")), np.random.default_rng([3, 0, 0])
    game.reset(int(rng.integers(2**31)))
    ended = 0
    for i, step in enumerate(at):
        np.testing.assert_array_equal(columns["screens"][step], game.screen)
        np.testing.assert_array_equal(columns["memory"][step], game.memory)
        np.testing.assert_array_equal(seen[i], game.frames)
        reward, over = game.step(int(columns["actions"][step]))
        assert reward == columns["rewards"][step]
        if over:
            game.reset()
            ended += 1
    assert ended == 2


def test_splits_share_no_episode(recorded: Path) -> None:
    episodes = open_columns(recorded, "breakout", 1500)["episodes"]
    assert (np.diff(episodes) >= 0).all() and episodes[-1] >= 5
    splits = split_of(episodes)
    assert set(splits.tolist()) == {"train", "validation", "test"}
    for episode in range(episodes[-1] + 1):
        assert len(set(splits[episodes == episode].tolist())) == 1


def test_a_recording_that_was_stopped_goes_on_to_the_same_end(recorded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    process = start(*RECORD, "--out", str(folder))
    while not (folder / "card.json").exists() or read_card(folder)["done"]["breakout"][0] == 0:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on" in output, output
    run(*RECORD, "--out", str(folder))
    for game in ("breakout", "pong"):
        ours, theirs = (open_columns(path, game, 1500) for path in (folder, recorded))
        for name in COLUMNS:
            assert np.array_equal(ours[name], theirs[name]), (game, name)


def test_an_agent_can_be_recorded(tmp_path: Path) -> None:
    """Its actions are those that it chooses by the recorded stacks, but for the share that is drawn."""
    agent, _ = load_agent("runs/pretrained/pong")
    for epsilon, least, most in (("0", 0.98, 1.0), ("0.5", 0.4, 0.8)):
        folder = tmp_path / epsilon
        options = ("--policy", "runs/pretrained/pong", "--epsilon", epsilon, "--steps", "150", "--out", str(folder))
        run("runs.record_frames", *options)
        columns = open_columns(folder, "pong", 150)
        chosen = agent.act(stacks(columns["frames"], columns["episodes"], np.arange(150))).numpy()
        assert least <= (chosen == columns["actions"]).mean() <= most  # rounding may tip one
    assert "6 actions, breakout has 4" in refused(
        "runs.record_frames", *options[:2], "--games", "breakout", "--out", str(tmp_path / "other")
    )


def test_what_cannot_be_recorded_or_read_is_refused(recorded: Path, tmp_path: Path) -> None:
    assert "another recording (seed 3, not 4): choose" in refused(*RECORD[:-1], "4", "--out", str(recorded))
    assert "pong" in refused("runs.record_frames", "--games", "pongg", "--out", str(tmp_path / "a"))
    assert "--epsilon" in refused("runs.record_frames", "--epsilon", "2", "--out", str(tmp_path / "b"))
    assert "nothing at" in refused("runs.record_frames", "--policy", "nowhere", "--out", str(tmp_path / "c"))
    with pytest.raises(FramesError, match="no recording"):
        read_card(tmp_path)
    card = json.loads((recorded / "card.json").read_text())
    for text, message in (("{", "damaged"), (json.dumps(card | {"format": "saccade-frames-0"}), "format")):
        (tmp_path / "card.json").write_text(text)
        with pytest.raises(FramesError, match=message):
            read_card(tmp_path)
    (tmp_path / "pong-screens.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(FramesError, match="record again"):
        open_columns(tmp_path, "pong", 10)


def test_a_game_without_labels_has_its_colours(tmp_path: Path) -> None:
    said = run("runs.record_frames", "--games", "tennis", "--steps", "200", "--out", str(tmp_path / "tennis"))
    assert "of tennis there are no labels" in said and "tennis: 1 of the 5 episodes" in said
    learning = ("runs.train_perception", "segmentation", "--data", str(tmp_path / "tennis"))
    assert "has 1 of the 5 episodes of tennis that training" in refused(*learning)
    card, columns = read_card(tmp_path / "tennis"), open_columns(tmp_path / "tennis", "tennis", 200)
    labels, screen, memory = labels_of(card, "tennis"), columns["screens"][50], columns["memory"][50]
    mask = screen_mask(labels, screen, memory)
    assert labels.names[0] == "background" and len(labels.names) == len(card["colours"]["tennis"])
    for value, name in enumerate(labels.names[1:], start=1):
        assert np.array_equal(mask == value, screen == int(name.split()[1]))
    assert (mask == 0).mean() > 0.3
    assert int(variables(labels, memory)["byte_77"]) == memory[77]


def test_label_sheet(tmp_path: Path) -> None:
    run("runs.label_sheet", "pong", "--rows", "2", "--every-steps", "40", "--out", str(tmp_path / "sheet.png"))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 320 + 210, 20 + 2 * 420)
        colours = {colour for _, colour in sheet.crop((320, 20, 640, 440)).getcolors() or []}  # type: ignore[misc]
    assert len(colours) == 7  # the background and six things, each in its own
    assert "no labels of tennis" in refused("runs.label_sheet", "tennis", "--out", str(tmp_path / "none.png"))
