"""Read labels off the emulator: variables from its memory, masks and boxes from its palette screen.

A screen is uint8 (210, 160) palette indices, as `ale.getScreen()` gives it; memory is uint8 (128,), `ale.getRAM()`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from envs.labels.captions import Phrase

SCREEN_SHAPE, INPUT_SHAPE = (210, 160), (84, 84)
BACKGROUND = 0  # of a mask; a game's things are 1, 2, … in their order


@dataclass(frozen=True)
class Anchor:
    """A box that memory places: its top left corner is at column dx + memory[x], line dy + memory[y].

    Without x or y, dx or dy alone.
    """

    width: int
    height: int
    x: int | None = None
    dx: int = 0
    y: int | None = None
    dy: int = 0
    upwards: bool = False
    """Whether memory counts lines from below."""
    halved: bool = False
    """Whether memory has x as a signed number, to the left, of half columns."""

    def corner(self, memory: NDArray[np.uint8]) -> tuple[int, int]:
        """Return the (top, left) line and column of the box."""
        x = 0 if self.x is None else int(memory[self.x])
        y = 0 if self.y is None else int(memory[self.y])
        if self.halved:
            x = -((x - 256 if x > 127 else x) // 2)
        return self.dy + (-y if self.upwards else y), self.dx + x


@dataclass(frozen=True)
class Place:
    """Where a thing can be, and the palette indices that it has there."""

    colours: tuple[int, ...]
    area: tuple[int, int, int, int] = (0, 210, 0, 160)
    """Top, bottom, left, right, ends excluded."""
    anchor: Anchor | None = None
    """Where another thing has these colours in this area too: the box that is this one's."""


@dataclass(frozen=True)
class Labels:
    """What is known of one game."""

    variables: dict[str, int]
    """Addresses in memory by name."""
    things: dict[str, tuple[Place, ...]]
    """What is on the screen; of two that lay claim to a pixel the later one has it."""
    phrases: tuple[Phrase, ...] = ()
    """What captions say."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of a mask's values, the background first."""
        return ("background", *self.things)


class Box(NamedTuple):
    """A rectangle of the screen, ends excluded, and the value that its pixels have in the mask."""

    value: int
    top: int
    bottom: int
    left: int
    right: int


def labels_by_colour(colours: Iterable[int]) -> Labels:
    """Return the labels of a game of which nothing is known: a thing per palette index, a variable per byte."""
    return Labels(
        variables={f"byte_{address}": address for address in range(128)},
        things={f"colour {colour}": (Place((colour,)),) for colour in colours},
    )


def variables(labels: Labels, memory: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    """Return each variable of memories (…, 128), by name."""
    return {name: memory[..., address] for name, address in labels.variables.items()}


def screen_mask(
    labels: Labels, screen: NDArray[np.uint8], memory: NDArray[np.uint8], margin: int = 2
) -> NDArray[np.uint8]:
    """Return which thing each pixel shows, uint8 (210, 160).

    An anchored box is taken `margin` pixels wider on each side: memory and picture may be a frame apart.
    """
    mask = np.full(screen.shape, BACKGROUND, np.uint8)
    for value, places in enumerate(labels.things.values(), start=1):
        for place in places:
            top, bottom, left, right = place.area
            if place.anchor is not None:
                y, x = place.anchor.corner(memory)
                top, bottom = max(top, y - margin), min(bottom, y + place.anchor.height + margin)
                left, right = max(left, x - margin), min(right, x + place.anchor.width + margin)
            if top < bottom and left < right:
                part = screen[top:bottom, left:right]
                shown = part == place.colours[0]
                for colour in place.colours[1:]:
                    shown |= part == colour
                mask[top:bottom, left:right][shown] = value
    return mask


def input_mask(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shrink a mask (210, 160) to the network's input, (84, 84): a pixel shows the smallest thing it covers any of.

    The smallest by its pixels in this mask, so that a ball of two pixels is never lost to the background.
    """
    counts = np.bincount(mask.ravel(), minlength=BACKGROUND + 1)
    counts[BACKGROUND] = mask.size + 1
    smallest_last = np.argsort(-counts, kind="stable").astype(np.uint8)
    ranks = np.empty_like(smallest_last)
    ranks[smallest_last] = np.arange(len(ranks), dtype=np.uint8)
    shrunk = ranks[mask]
    for axis, size in enumerate(INPUT_SHAPE):
        length = mask.shape[axis]
        first = np.arange(size) * length // size
        last = -(-np.arange(1, size + 1) * length // size) - 1  # of the lines that it covers any of, three at most
        lines = [np.take(shrunk, at, axis) for at in (first, np.minimum(first + 1, last), last)]
        shrunk = np.maximum(np.maximum(lines[0], lines[1]), lines[2])
    return smallest_last[shrunk]


def boxes(mask: NDArray[np.uint8]) -> list[Box]:
    """Return the box around each patch of pixels of one thing that hang together, corners included."""
    found = []
    for value in np.unique(mask):
        if value != BACKGROUND:
            stats = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8), connectivity=8)[2]
            found += [Box(int(value), y, y + h, x, x + w) for x, y, w, h, _ in stats[1:].tolist()]
    return found
