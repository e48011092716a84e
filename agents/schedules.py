"""Schedules: pure functions of a count."""


def linear(count: int, start: float, end: float, duration: int) -> float:
    """Go from `start` at count 0 to `end` at count `duration` in a straight line, and stay at `end`."""
    if count >= duration:
        return end
    return start + (end - start) * count / duration
