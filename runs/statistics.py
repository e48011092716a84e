"""Statistics of few runs over several games, after Agarwal et al. 2021.

Scores come as strata: an array for each game, its runs along the last axis. Intervals are of the stratified bootstrap
(section 4.1): runs are drawn anew, with replacement, within each game, and the statistic's percentiles are taken.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, trim_mean

Values = NDArray[np.float64]
Statistic = Callable[..., Any]  # of the strata, over the axis `axis`
Interval = tuple[Any, Any] | None
Points = tuple[Sequence[float], Sequence[float]]  # places, and what was there

CONFIDENCE, RESAMPLES = 0.95, 5_000
DRAWN_TOGETHER = 2**24  # numbers, 128 MiB of them, that the bootstrap holds at a time
MOST_PLACES = 200  # of a curve: more than a picture shows


def mean(*strata: Values, axis: int = -1) -> Values:
    """Return the mean over games of the mean over runs."""
    return np.mean([scores.mean(axis=axis) for scores in strata], axis=0)


def median(*strata: Values, axis: int = -1) -> Values:
    """Return the median over games of the mean over runs."""
    return np.median([scores.mean(axis=axis) for scores in strata], axis=0)


def interquartile_mean(*strata: Values, axis: int = -1) -> Values:
    """Return the mean of the middle half of all runs of all games; a quarter is rounded down to whole runs."""
    return np.asarray(trim_mean(np.concatenate(strata, axis=axis), 0.25, axis=axis))


def optimality_gap(*strata: Values, axis: int = -1) -> Values:
    """Return by how much runs stay below 1, a mean over games; what lies above 1 makes up for nothing."""
    return 1 - mean(*(np.minimum(scores, 1) for scores in strata), axis=axis)


def interval(strata: Sequence[Values], statistic: Statistic = mean) -> Interval:
    """Return the 95 % interval of a statistic; None where a game has one run alone, which tells no spread."""
    if min(scores.shape[-1] for scores in strata) < 2:
        return None
    found = bootstrap(
        tuple(strata),
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, min(RESAMPLES, DRAWN_TOGETHER // sum(scores.size for scores in strata))),
        vectorized=True,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return found.low, found.high


def performance_profile(strata: Sequence[Values], thresholds: Values) -> tuple[Values, Interval]:
    """Return the share of runs above each threshold, a mean over games (equation 2), and its interval."""
    above = [(scores > thresholds[:, None]).astype(np.float64) for scores in strata]
    return mean(*above), interval(above)


class Curve(NamedTuple):
    """A statistic of several runs along their way, with its interval where there is one."""

    places: Values
    values: Values
    interval: Interval


def curve(games: Sequence[Sequence[Points]], statistic: Statistic = mean) -> Curve:
    """Return a statistic of the runs of each game at every place that one of them tells, as far as all of them go.

    Between two of its own places a run is taken for a straight line. Of more than `MOST_PLACES` places so many are
    taken instead, evenly spaced.
    """
    runs = [run for game in games for run in game]
    first, last = max(places[0] for places, _ in runs), min(places[-1] for places, _ in runs)
    places = np.unique(np.concatenate([np.asarray(places, np.float64) for places, _ in runs]))
    places = places[(places >= first) & (places <= last)]
    if not len(places):
        return Curve(places, places, None)
    if len(places) > MOST_PLACES:
        places = np.linspace(places[0], places[-1], MOST_PLACES)
    strata = [np.stack([np.interp(places, *run) for run in game], axis=-1) for game in games]
    return Curve(places, statistic(*strata, axis=-1), interval(strata, statistic))
