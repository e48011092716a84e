"""Recorded frames: a folder of memory-mapped arrays and a card that says what they are.

    DIR/card.json              games, protocol, seed, policy, versions, label names, colours, how far it got
        <game>-screens.npy     (N, 210, 160) uint8 palette indices
        <game>-frames.npy      (N, 84, 84) uint8, the network's newest frame
        <game>-memory.npy      (N, 128) uint8
        <game>-actions.npy     (N,) uint8, taken next; <game>-rewards.npy (N,) float32, raw, that came of it
        <game>-episodes.npy    (N,) int32, 0, 1, 2, … within the game

Stacks, masks, variables and captions are derived when they are read.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from envs.labels.games import LABELS
from envs.labels.reading import Labels, labels_by_colour

FORMAT = "saccade-frames-1"
STACK = 4
COLUMNS: dict[str, tuple[tuple[int, ...], str]] = {
    "screens": ((210, 160), "uint8"),
    "frames": ((84, 84), "uint8"),
    "memory": ((128,), "uint8"),
    "actions": ((), "uint8"),
    "rewards": ((), "float32"),
    "episodes": ((), "int32"),
}
SPLIT_OF_EPISODE = ("train", "train", "train", "validation", "test")  # over and over, by their number
EPISODES_NEEDED = len(SPLIT_OF_EPISODE)  # to learn from: until each split has one


class FramesError(ValueError):
    """A recording is missing, damaged or of another kind; the message says which and what to do."""


def read_card(folder: Path) -> dict[str, Any]:
    """Return a recording's card.

    Raises:
        FramesError: it is none, or of another version.
    """
    try:
        card: dict[str, Any] = json.loads((folder / "card.json").read_text())
        if card["format"] != FORMAT:
            raise FramesError(f"'{folder}' is a recording of format {card['format']}, this program reads {FORMAT}")
        return card
    except FileNotFoundError as error:
        raise FramesError(
            f"'{folder}' holds no recording: python -m runs.record_frames --out '{folder}' makes one"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, FramesError):
            raise
        raise FramesError(f"'{folder / 'card.json'}' is damaged ({error}): record again") from error


def open_columns(folder: Path, game: str, steps: int, mode: str = "r") -> dict[str, NDArray[Any]]:
    """Map one game's arrays; with mode `w+` make them, with `r+` to write on.

    Raises:
        FramesError: one is missing or is not what it should be.
    """
    columns = {}
    for name, (shape, dtype) in COLUMNS.items():
        path = folder / f"{game}-{name}.npy"
        try:
            if mode == "w+":
                columns[name] = open_memmap(path, mode="w+", dtype=dtype, shape=(steps, *shape))
                if hasattr(os, "posix_fallocate"):  # a disk that fills up later would end the process without a word
                    with path.open("r+b") as file:
                        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            else:
                columns[name] = np.load(path, mmap_mode=mode, allow_pickle=False)  # type: ignore[arg-type]
        except (OSError, ValueError) as error:
            done = "made" if mode == "w+" else "read"
            raise FramesError(f"'{path}' cannot be {done} ({error}): record again into an empty folder") from error
        if columns[name].shape != (steps, *shape) or columns[name].dtype != dtype:
            raise FramesError(f"'{path}' is not as its card says: record again into an empty folder")
    return columns


def colours_shown(screens: NDArray[np.uint8]) -> list[int]:
    """Return the palette indices on a tenth of the screens, the most frequent first."""
    counts = np.bincount(screens[::10].ravel(), minlength=256)
    return [int(colour) for colour in np.argsort(-counts, kind="stable") if counts[colour]]


def labels_of(card: dict[str, Any], game: str) -> Labels:
    """Return a recorded game's labels; of a game of which none are known, its colours but the commonest.

    Raises:
        FramesError: the recording is not whole.
    """
    if game in LABELS:
        return LABELS[game]
    if game not in card["colours"]:
        raise FramesError(f"the recording of {game} was stopped before its end: give its command again")
    return labels_by_colour(card["colours"][game][1:])


def split_of(episodes: NDArray[np.int32]) -> NDArray[np.str_]:
    """Return which split each step belongs to, by its episode's number: never two of one episode."""
    return np.array(SPLIT_OF_EPISODE)[episodes % len(SPLIT_OF_EPISODE)]


def stacks(frames: NDArray[np.uint8], episodes: NDArray[np.int32], at: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the network's input (len(at), 4, 84, 84) at steps `at`: black before an episode's first frame."""
    result = np.zeros((len(at), STACK, *frames.shape[1:]), np.uint8)
    for back in range(STACK):
        before = at - back
        same = (before >= 0) & (episodes[np.maximum(before, 0)] == episodes[at])
        result[same, STACK - 1 - back] = frames[before[same]]
    return result
