import pytest

from agents.schedules import linear, warm_cosine


@pytest.mark.parametrize(
    ("count", "value"), [(0, 1.0), (1, 0.991), (50, 0.55), (99, 0.109), (100, 0.1), (101, 0.1), (10**9, 0.1)]
)
def test_linear(count: int, value: float) -> None:
    assert linear(count, 1.0, 0.1, 100) == pytest.approx(value)


@pytest.mark.parametrize(
    ("count", "value"),
    [(0, 1 / 6), (4, 5 / 6), (5, 1.0), (52.5, 0.5), (100, 0.0), (101, 0.0), (29, 0.8503), (76, 0.1464)],
)
def test_warm_cosine(count: int, value: float) -> None:
    """Over 100: five steps up, then (1 + cos(π (count − 5) / 95)) / 2."""
    assert warm_cosine(count, 1.0, 100) == pytest.approx(value, abs=5e-3)
