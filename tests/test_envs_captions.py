import numpy as np
import pytest

from envs.config import EnvConfig
from envs.labels.captions import Count, Motion, Phrase, Where, captions, facts, share_true
from envs.labels.games import LABELS
from envs.labels.reading import screen_mask, variables
from envs.screens import EmulatedGame

PHRASES = (
    Phrase(
        "the ball is {height} and goes {way}",
        {"height": Where("y", ("high", "midway", "low"), (10, 20)), "way": Motion("x", ("left", "nowhere", "right"))},
        gone=("y", 0),
        otherwise="no ball is in play",
    ),
    Phrase("{score} points, {side}", {"score": Count(("hi", "lo")), "side": Where("s", ("west", "east"), (0,), True)}),
)


def test_captions_by_hand() -> None:
    columns = {
        "y": np.array([9, 10, 19, 20, 0, 255], np.uint8),
        "x": np.array([50, 49, 49, 90, 50, 51], np.uint8),
        "hi": np.array([0, 0, 0, 0, 0, 0x12], np.uint8),
        "lo": np.array([0, 0x9, 0x10, 0x47, 0x99, 0x05], np.uint8),
        "s": np.array([0, 1, 127, 128, 255, 254], np.uint8),
    }
    first = np.array([True, False, False, False, False, True])
    expected = [
        "the ball is high and goes nowhere; 0 points, east",
        "the ball is midway and goes left; 9 points, east",
        "the ball is midway and goes nowhere; 10 points, east",
        "the ball is low and goes nowhere; 47 points, west",  # 41 columns in a step is no motion
        "no ball is in play; 99 points, west",
        "the ball is low and goes nowhere; 1205 points, west",  # the first of its episode
    ]
    assert captions(PHRASES, columns, first) == expected
    assert facts(PHRASES, expected[1]) == {"height": "midway", "way": "left", "score": "9", "side": "east"}
    assert facts(PHRASES, expected[4]) == {"no ball is in play": "yes", "score": "99", "side": "west"}
    assert facts(PHRASES, "the ball is gone; 99 points, west; 3") == {"score": "99", "side": "west"}


def test_what_is_missing_counts_as_what_is_wrong() -> None:
    assert share_true({"a": "1", "b": "2"}, {"a": "1", "b": "2"}) == 1
    assert share_true({"a": "1", "b": "3"}, {"a": "1", "b": "2"}) == 0.5
    assert share_true({"a": "1"}, {"a": "1", "b": "2"}) == 0.5
    assert share_true({"a": "1", "c": "2"}, {"a": "1", "b": "2"}) == pytest.approx(1 / 3)
    assert share_true({}, {}) == 0


def play(game: str, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return memories, screens and which steps are the first of an episode."""
    player, rng = EmulatedGame(EnvConfig(game)), np.random.default_rng(0)
    player.reset(1)
    memories, screens, first = [], [], [True]
    for _ in range(steps):
        memories.append(player.memory.copy())
        screens.append(player.screen)
        first.append(player.step(int(rng.integers(len(player.actions))))[1])
        if first[-1]:
            player.reset()
    return np.stack(memories), np.stack(screens), np.array(first[:-1])


@pytest.mark.parametrize("game", sorted(LABELS))
def test_captions_parse_back_to_the_variables(game: str) -> None:
    labels = LABELS[game]
    memories, _, first = play(game, 300)
    columns = variables(labels, memories)
    slots = {name: slot for phrase in labels.phrases for name, slot in phrase.slots.items()}
    assert slots and len(slots) == sum(len(phrase.slots) for phrase in labels.phrases)  # no name twice
    told: dict[str, int] = dict.fromkeys(slots, 0)
    for step, caption in enumerate(captions(labels.phrases, columns, first)):
        claimed = facts(labels.phrases, caption)
        absent = {phrase.otherwise for phrase in labels.phrases if phrase.gone}
        assert claimed.keys() <= slots.keys() | absent
        for name, slot in slots.items():
            if name not in claimed:
                continue
            told[name] += 1
            if isinstance(slot, Count):
                digits = [
                    f"{int(columns[v][step]):02x}" if slot.decimal else str(columns[v][step]) for v in slot.variables
                ]
                assert int("".join(digits)) == int(claimed[name])
            elif isinstance(slot, Where):
                value, place = int(columns[slot.variable][step]), slot.words.index(claimed[name])
                value -= 256 if slot.signed and value > 127 else 0
                assert place == sum(value >= edge for edge in slot.edges)
            else:
                change = 0 if first[step] else int(columns[slot.variable][step]) - int(columns[slot.variable][step - 1])
                assert slot.words[1 + (np.sign(change) if abs(change) <= 40 else 0)] == claimed[name]
        for phrase in labels.phrases:
            assert phrase.gone is None or (phrase.otherwise in claimed) == (
                columns[phrase.gone[0]][step] == phrase.gone[1]
            )
    assert min(told.values()) > 100


@pytest.mark.parametrize("game", ["pong", "breakout"])
def test_captions_say_where_the_ball_is_seen(game: str) -> None:
    labels = LABELS[game]
    memories, screens, first = play(game, 300)
    said = captions(labels.phrases, variables(labels, memories), first)
    right, seen = 0, 0
    for screen, memory, caption in zip(screens, memories, said, strict=True):
        lines, columns = np.nonzero(screen_mask(labels, screen, memory) == labels.names.index("ball"))
        claimed = facts(labels.phrases, caption)
        if len(lines) == 0:
            continue
        seen += 1
        near = [(columns.mean() + by) // (160 / 3) for by in (-6, 6)]
        right += claimed.get("ball_column", "") in [
            ("left", "centre", "right")[int(third)] for third in np.clip(near, 0, 2)
        ]
    assert seen > 100 and right >= 0.97 * seen
