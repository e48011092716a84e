"""Draws what an agent sees and thinks: one picture per step of a video."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from runs.evaluate import opinion_is
from runs.moments import Moment

WIDTH, HEIGHT = 640, 608
INK, FAINT, ACCENT, GROUND = (235, 235, 235), (120, 120, 130), (255, 176, 59), (18, 18, 24)
SCREEN = (12, 36, 332, 456)  # where the game's own picture may lie: left, top, right, bottom
TRACE_STEPS = 160  # what the value's trace shows, ten seconds at 15 steps a second
_SMALL, _LARGE = ImageFont.load_default(13), ImageFont.load_default(20)

Picture = NDArray[np.uint8]


def draw_step(moment: Moment, values: list[float]) -> Picture:
    """Draw a moment as (608, 640, 3) uint8, with the last `TRACE_STEPS` of the `values` of the states so far."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((12, 8), f"score {moment.score_before:g}", INK, _LARGE)
    shown = Image.fromarray(moment.screen)
    if shown.size == (160, 210):  # the Atari's pixels are wider than high
        shown = shown.resize((320, 420), Image.Resampling.NEAREST)
    canvas.paste(ImageOps.contain(shown, (320, 420), Image.Resampling.NEAREST), SCREEN[:2])
    draw.text((352, 14), "what the network sees", FAINT, _SMALL)
    canvas.paste(Image.fromarray(moment.frames[-1]).resize((168, 168), Image.Resampling.NEAREST), (352, 36))
    draw.text((352, 216), f"{opinion_is(moment.player)}; bars relative", FAINT, _SMALL)
    _draw_opinion(draw, moment.action_names, moment.opinion, moment.action)
    _draw_trace(draw, values)
    return np.asarray(canvas)


def _draw_opinion(draw: ImageDraw.ImageDraw, names: list[str], opinion: list[float], action: int) -> None:
    """Bars from the least to the greatest number, each with its name."""
    top, height = 236, min(34.0, 220 / len(opinion))
    low, spread = min(opinion), max(max(opinion) - min(opinion), 1e-6)
    for index, (name, value) in enumerate(zip(names, opinion, strict=True)):
        y = top + index * height
        colour = ACCENT if index == action else FAINT
        draw.rectangle((452, y + 2, 452 + 8 + 112 * (value - low) / spread, y + height - 4), colour)
        draw.text((352, y + height / 2 - 9), name, INK if index == action else FAINT, _SMALL)
        draw.text((580, y + height / 2 - 9), f"{value:.3f}", INK if index == action else FAINT, _SMALL)


def _draw_trace(draw: ImageDraw.ImageDraw, values: list[float]) -> None:
    """The value over the last steps, its range written beside it."""
    left, top, right, bottom = 12, 490, 572, 596
    shown = values[-TRACE_STEPS:]
    low, high = min(shown), max(max(shown), min(shown) + 0.1)
    draw.text((left, top - 22), "value of the state, over the last steps", FAINT, _SMALL)
    draw.rectangle((left, top, right, bottom), outline=FAINT)
    points = [
        (left + (right - left) * i / (TRACE_STEPS - 1), bottom - 4 - (bottom - top - 8) * (v - low) / (high - low))
        for i, v in enumerate(shown)
    ]
    if len(points) > 1:
        draw.line(points, ACCENT, 2)
    draw.text((right + 8, top), f"{high:.2f}", INK, _SMALL)
    draw.text((right + 8, bottom - 16), f"{low:.2f}", INK, _SMALL)
