"""Statistics over few runs: tables worked by hand, and a slow twin of the bootstrap."""

import itertools
import math

import numpy as np
import pytest

from runs import statistics
from runs.statistics import (
    CONFIDENCE,
    MOST_PLACES,
    RESAMPLES,
    curve,
    interquartile_mean,
    interval,
    mean,
    median,
    optimality_gap,
    performance_profile,
)

TWO_GAMES = [np.array([0.0, 0.5, 1.0, 1.5]), np.array([2.0, 0.2])]


def test_statistics_by_hand() -> None:
    assert mean(*TWO_GAMES) == pytest.approx((0.75 + 1.1) / 2)
    assert median(*TWO_GAMES, np.array([9.0])) == pytest.approx(1.1)
    # Sorted 0, .2, .5, 1, 1.5, 2: a quarter of six is one whole run at each end.
    assert interquartile_mean(*TWO_GAMES) == pytest.approx((0.2 + 0.5 + 1.0 + 1.5) / 4)
    assert interquartile_mean(np.array([8.0, 1, 2, 3, 4, 5, 6, 100])) == pytest.approx((3 + 4 + 5 + 6) / 4)
    # Cut at 1: 0, .5, 1, 1 and 1, .2.
    assert optimality_gap(*TWO_GAMES) == pytest.approx(1 - (2.5 / 4 + 1.2 / 2) / 2)


def test_statistics_keep_the_other_axes() -> None:
    strata = [np.stack([scores, scores + 1, scores * 3]) for scores in TWO_GAMES]
    for statistic in (mean, median, interquartile_mean, optimality_gap):
        alone = [statistic(*(scores[row] for scores in strata)) for row in range(3)]
        assert statistic(*strata) == pytest.approx(np.array(alone))


def test_a_profile_by_hand() -> None:
    shares, _ = performance_profile(TWO_GAMES, np.array([-1.0, 0.0, 0.5, 1.9, 2.0]))
    assert shares == pytest.approx(np.array([1.0, (3 / 4 + 1) / 2, (2 / 4 + 1 / 2) / 2, (0 + 1 / 2) / 2, 0.0]))


def percentile(values: list[float], share: float) -> float:
    """The `share` of the way through the sorted values, on a straight line between two."""
    values, place = sorted(values), share * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])


def test_intervals_against_every_possible_draw() -> None:
    # Of three runs there are 27 draws: the least of means is one of them, and 1/27 > 2.5 %.
    assert interval([np.array([0.0, 3.0, 9.0])]) == pytest.approx((0.0, 9.0))
    one = [0.1, 0.4, 0.6, 1.0, 1.3]
    means = [sum(draw) / len(draw) for draw in itertools.product(one, repeat=len(one))]
    found = interval([np.array(one)])
    assert found is not None
    for bound, share in zip(found, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2), strict=True):
        assert bound == pytest.approx(percentile(means, share), abs=0.03)
    assert interval([np.array([2.0, 2.0])]) == (2.0, 2.0)


@pytest.mark.parametrize("statistic", [mean, median, interquartile_mean, optimality_gap])
def test_intervals_against_a_slow_twin(statistic: statistics.Statistic) -> None:
    rng = np.random.default_rng(0)
    strata = [[0.3, 0.5, 1.2, 0.1], [2.0, 0.2, 0.9], [0.0, 0.4, 0.8]]
    draws = [rng.integers(0, len(scores), (RESAMPLES, len(scores))) for scores in strata]
    found = []
    for number in range(RESAMPLES):
        drawn = [np.array([scores[i] for i in draw[number]]) for scores, draw in zip(strata, draws, strict=True)]
        found.append(float(statistic(*drawn)))
    expected = percentile(found, (1 - CONFIDENCE) / 2), percentile(found, (1 + CONFIDENCE) / 2)
    assert interval([np.array(scores) for scores in strata], statistic) == pytest.approx(expected)


def test_one_run_has_no_interval() -> None:
    assert interval([np.array([1.0, 2.0]), np.array([3.0])]) is None


def test_a_curve_goes_as_far_as_all_runs_and_straight_between() -> None:
    one, other = ([0.0, 10.0, 20.0], [0.0, 1.0, 2.0]), ([5.0, 15.0, 30.0], [4.0, 6.0, 9.0])
    places, values, found = curve([[one, other]])
    assert places.tolist() == [5, 10, 15, 20]
    assert values == pytest.approx(np.array([(0.5 + 4) / 2, (1 + 5) / 2, (1.5 + 6) / 2, (2 + 7) / 2]))
    assert found is not None and found[0] == pytest.approx(np.array([0.5, 1, 1.5, 2]))
    assert len(curve([[([1.0], [0.0]), ([2.0], [0.0])]]).places) == 0
    places, values, found = curve([[one]])
    assert found is None and values.tolist() == one[1]
    assert curve([[one], [other]]).values == pytest.approx(curve([[one, other]]).values)


def test_a_curve_of_many_places_takes_some_of_them() -> None:
    seconds = [np.cumsum(np.random.default_rng(seed).random(500)).tolist() for seed in range(3)]
    places, values, _ = curve([[(at, [2 * x for x in at]) for at in seconds]])
    assert len(places) == MOST_PLACES and np.diff(places) == pytest.approx(places[1] - places[0])
    assert values == pytest.approx(2 * places)


def test_an_interval_holds_few_draws_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    def watched(*strata: np.ndarray, axis: int = -1) -> np.ndarray:
        nonlocal largest
        largest = max(largest, sum(scores.size for scores in strata))
        return mean(*strata, axis=axis)

    monkeypatch.setattr(statistics, "DRAWN_TOGETHER", 40_000)
    strata = [np.random.default_rng(0).random((50, 4)), np.random.default_rng(1).random((50, 3))]
    found = interval(strata, watched)
    assert found is not None and 10_000 < largest <= 40_000
    monkeypatch.undo()
    expected = interval(strata, mean)
    assert expected is not None and np.abs(np.array(found) - expected).max() < 0.05
