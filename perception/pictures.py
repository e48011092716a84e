"""Contact sheets: pictures beside each other, with words below."""

import colorsys
import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]  # (H, W, 3)

INK, GROUND, GLOW = (235, 235, 235), (18, 18, 24), (255, 176, 60)
_FONT = ImageFont.load_default(11)
_LINE, _LETTER, _GAP, _TILE = 13, 6, 6, 168


def shown(image: NDArray[np.uint8]) -> Picture:
    """Return what a person looks at of (C, H, W): RGB of three channels, else the last one in grey."""
    if len(image) == 3:
        return np.ascontiguousarray(image.transpose(1, 2, 0))
    return np.repeat(image[-1][:, :, None], 3, axis=2)


def in_motion(image: NDArray[np.uint8]) -> Picture:
    """Return (C, H, W) with time as colour where it is a stack of frames: what stays as it was is grey.

    Red is the oldest frame, blue the newest, and what lies between goes through green. RGB and single frames are shown
    as they are.
    """
    if len(image) in (1, 3):
        return shown(image)
    when = np.linspace(0, 1, len(image))
    weights = np.stack([1 - 2 * when, 1 - abs(2 * when - 1), 2 * when - 1]).clip(0)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("rc,chw->hwr", weights, image).round().astype(np.uint8)


def lit(picture: Picture, where: NDArray[np.floating]) -> Picture:
    """Dim a picture and let it glow where a map (h, w) of whatever size, 0 or above, is large."""
    share = Image.fromarray((where / max(float(where.max()), 1e-12)).astype(np.float32))
    light = np.asarray(share.resize(picture.shape[1::-1], Image.Resampling.BILINEAR))[:, :, None]
    return (0.7 * picture + 0.5 * light * np.array(GLOW)).clip(0, 255).astype(np.uint8)


def hues(count: int) -> NDArray[np.uint8]:
    """Return a colour for each of `count` classes, (count, 3); the first, the background, is dark grey."""
    steps = max(count - 1, 1)
    colours = [colorsys.hsv_to_rgb(i / steps, 0.55 + 0.4 * (i % 2), 1) for i in range(count - 1)]
    return np.array([(40, 40, 40)] + [tuple(round(255 * c) for c in colour) for colour in colours], np.uint8)


def contact_sheet(rows: Sequence[Sequence[tuple[Picture, str]]], tile: int = _TILE) -> Picture:
    """Draw rows of pictures, each enlarged to `tile` pixels and with words below it.

    Returns:
        uint8 (H, W, 3).
    """
    wrapped = [[textwrap.wrap(words, tile // _LETTER) for _, words in row] for row in rows]
    heights = [tile + _GAP + _LINE * max((len(lines) for lines in row), default=0) for row in wrapped]
    width = max(len(row) for row in rows) * (tile + _GAP) + _GAP
    canvas = Image.new("RGB", (width, sum(heights) + _GAP), GROUND)
    pen = ImageDraw.Draw(canvas)
    top = _GAP
    for row, lines_of_row, height in zip(rows, wrapped, heights, strict=True):
        for place, ((picture, _), lines) in enumerate(zip(row, lines_of_row, strict=True)):
            left = _GAP + place * (tile + _GAP)
            canvas.paste(Image.fromarray(picture).resize((tile, tile), Image.Resampling.NEAREST), (left, top))
            for number, line in enumerate(lines):
                pen.text((left, top + tile + 1 + number * _LINE), line, INK, _FONT)
        top += height
    return np.asarray(canvas)


def with_legend(sheet: Picture, entries: Sequence[tuple[str, tuple[int, ...]]]) -> Picture:
    """Return a sheet with a strip below it of names, each after a square of its colour.

    A name that is wider than the sheet is cut at its edge.
    """
    places, left, top = [], _GAP, 0
    for name, _ in entries:
        width = _LINE + round(_FONT.getlength(name)) + 2 * _GAP
        if left + width > sheet.shape[1] and left > _GAP:
            left, top = _GAP, top + _LINE + _GAP
        places.append((left, top))
        left += width
    strip = Image.new("RGB", (sheet.shape[1], top + _LINE + 2 * _GAP), GROUND)
    pen = ImageDraw.Draw(strip)
    for (x, y), (name, colour) in zip(places, entries, strict=True):
        pen.rectangle((x, y + 1, x + _LINE - 4, y + _LINE - 3), fill=tuple(colour))
        pen.text((x + _LINE, y - 1), name, INK, _FONT)
    return np.concatenate([sheet, np.asarray(strip)])


def beside(*kinds: Sequence[tuple[Picture, str]], columns: int = 6) -> list[Sequence[tuple[Picture, str]]]:
    """Return rows of at most `columns` tiles for a contact sheet: kinds lie below each other."""
    starts = range(0, len(kinds[0]), columns)
    return [kind[start : start + columns] for start in starts for kind in kinds]


def first_row(sheet: Picture) -> list[Picture]:
    """Return the pictures of a contact sheet's first row, enlarged as they are."""
    lefts = range(_GAP, sheet.shape[1] - _TILE, _TILE + _GAP)
    return [np.ascontiguousarray(sheet[_GAP : _GAP + _TILE, left : left + _TILE]) for left in lefts]
