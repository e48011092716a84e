import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ale_py import ALEInterface, roms
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from envs.labels.games import LABELS
from envs.labels.reading import (
    INPUT_SHAPE,
    SCREEN_SHAPE,
    Anchor,
    Labels,
    Place,
    boxes,
    input_mask,
    screen_mask,
    variables,
)

# Where memory puts a thing: its address for x and what is added, likewise for y, width and height. Written down apart
# from the labels, which find most things by colour alone.
BOXES = {
    "pong": {
        "ball": (49, -49, 54, -14, 2, 4),
        "player": (None, 140, 51, -14, 4, 16),
        "enemy": (None, 16, 50, -15, 4, 16),
    },
    "breakout": {"ball": (99, -49, 101, 9, 2, 4), "player": (72, -47, None, 189, 16, 4)},
    "boxing": {"player": (32, -13, 34, 37, 50, 48), "enemy": (33, -14, 35, 37, 50, 48)},
    "ms_pacman": {"player": (10, -13, 16, 1, 9, 11), "sue": (6, -13, 12, 1, 9, 11), "blinky": (9, -13, 15, 1, 9, 11)},
    "seaquest": {"torpedo": (103, 0, 97, 40, 8, 1)},
}


def play(game: str, steps: int, seed: int = 0) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], float]]:
    """Yield screen, memory and the rewards' sum so far, of random play."""
    ale = ALEInterface()
    ale.setInt("random_seed", seed)
    ale.setFloat("repeat_action_probability", 0.0)
    path: Any = roms.get_rom_path(game)
    ale.loadROM(path)
    rng, total = random.Random(seed), 0.0
    for _ in range(steps):
        action = rng.choice(list(ale.getMinimalActionSet()))
        total += sum(ale.act(action) for _ in range(4))
        if ale.game_over():
            return
        yield ale.getScreen(), ale.getRAM(), total


def test_colour_area_and_anchor_decide_and_the_later_thing_wins() -> None:
    labels = Labels(
        variables={"x": 1},
        things={
            "wall": (Place((7,), (0, 2, 0, 160)), Place((8,))),
            "ball": (Place((7, 8), (0, 10, 0, 160), Anchor(width=2, height=2, x=1, dx=-5, dy=1)),),
        },
    )
    screen = np.zeros(SCREEN_SHAPE, np.uint8)
    screen[1, 20:26] = 7  # the box is columns 21 and 22 of lines 1 and 2
    screen[5, 21] = 7  # outside the wall's area and the box
    screen[100, 3] = 8
    memory = np.zeros(128, np.uint8)
    memory[1] = 26
    mask = screen_mask(labels, screen, memory, margin=0)
    assert mask[1, 19:27].tolist() == [0, 1, 2, 2, 1, 1, 1, 0]
    assert mask[5, 21] == 0 and mask[100, 3] == 1 and mask.sum() == 9
    assert screen_mask(labels, screen, memory, margin=1)[1, 19:27].tolist() == [0, 2, 2, 2, 2, 1, 1, 0]
    assert labels.names == ("background", "wall", "ball")
    assert variables(labels, np.stack([memory, memory]))["x"].tolist() == [26, 26]


def test_boxes_are_around_what_hangs_together() -> None:
    mask = np.zeros(SCREEN_SHAPE, np.uint8)
    mask[3:5, 10:14] = 1
    mask[5, 14] = 1  # by a corner
    mask[100, 20] = 1
    mask[4, 12] = 2
    assert sorted(boxes(mask)) == [(1, 3, 6, 10, 15), (1, 100, 101, 20, 21), (2, 4, 5, 12, 13)]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 209), st.integers(0, 159), st.integers(1, 4), st.integers(1, 3)), max_size=12))
def test_shrunk_mask_against_its_slow_twin(spots: list[tuple[int, int, int, int]]) -> None:
    mask = np.zeros(SCREEN_SHAPE, np.uint8)
    for y, x, value, size in spots:
        mask[y : y + size, x : x + size] = value
    counts = {value: int((mask == value).sum()) for value in range(1, 5)}
    expected = np.zeros(INPUT_SHAPE, np.uint8)
    for i in range(84):
        for j in range(84):
            rows = slice(i * 210 // 84, -(-(i + 1) * 210 // 84))
            columns = slice(j * 160 // 84, -(-(j + 1) * 160 // 84))
            covered = sorted({int(v) for v in mask[rows, columns].flat if v}, key=lambda v: counts[v])
            ties = [v for v in covered if counts[v] == counts[covered[0]]]
            expected[i, j] = max(ties) if covered else 0
    np.testing.assert_array_equal(input_mask(mask), expected)
    for value in {int(v) for v in np.unique(mask)} - {0}:
        smallest = all(counts[value] < counts[other] for other in set(np.unique(mask).tolist()) - {0, value})
        assert not smallest or (input_mask(mask) == value).any()


@pytest.mark.parametrize("game", sorted(BOXES))
def test_what_a_mask_shows_lies_where_memory_says(game: str) -> None:
    labels, inside, seen = LABELS[game], dict.fromkeys(BOXES[game], 0), dict.fromkeys(BOXES[game], 0)
    for screen, memory, _ in play(game, 400):
        mask = screen_mask(labels, screen, memory)
        for name, (x, dx, y, dy, width, height) in BOXES[game].items():
            lines, columns = np.nonzero(mask == labels.names.index(name))
            if len(lines) == 0:
                continue
            left, top = (0 if x is None else int(memory[x])) + dx, (0 if y is None else int(memory[y])) + dy
            seen[name] += 1
            inside[name] += bool(
                lines.min() >= top - 2
                and lines.max() < top + height + 2
                and columns.min() >= left - 2
                and columns.max() < left + width + 2
            )
    for name in BOXES[game]:
        assert seen[name] > 20, name
        assert inside[name] >= 0.97 * seen[name], name


@pytest.mark.parametrize("game", sorted(LABELS))
def test_the_things_that_every_player_sees_are_there(game: str) -> None:
    labels = LABELS[game]
    shown = np.zeros(len(labels.names), np.int64)
    for screen, memory, _ in play(game, 400):
        shown += np.bincount(screen_mask(labels, screen, memory).ravel(), minlength=len(shown)) > 0
    rare = {"saucer", "edible ghost", "fruit", "collected diver", "submarine", "green enemy", "curse", "explosion"}
    rare |= {"bomb", "yellow ship", "purple diamond"}
    missing = {name for name, count in zip(labels.names, shown, strict=True) if count == 0}
    assert missing <= rare
    assert len(labels.names) <= 16 and all(0 <= address < 128 for address in labels.variables.values())


def test_scores_in_memory_are_the_rewards() -> None:
    for screen, memory, total in play("pong", 300):
        assert screen.shape == SCREEN_SHAPE
        known = variables(LABELS["pong"], memory)
        assert int(known["player_score"]) - int(known["enemy_score"]) == total
