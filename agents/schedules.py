"""Schedules: pure functions of a count."""

import math


def linear(count: int, start: float, end: float, duration: int) -> float:
    """Go from `start` at count 0 to `end` at count `duration` in a straight line, and stay at `end`."""
    if count >= duration:
        return end
    return start + (end - start) * count / duration


def warm_cosine(count: int, peak: float, duration: int) -> float:
    """Rise to `peak` in a straight line over the first twentieth, then fall to 0 at `duration` as half a cosine.

    Loshchilov & Hutter 2017, equation 5, with a warm-up before it.
    """
    warm = duration / 20
    if count < warm:
        return peak * (count + 1) / (warm + 1)
    return peak * (1 + math.cos(math.pi * min(1.0, (count - warm) / (duration - warm)))) / 2
