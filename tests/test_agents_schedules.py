import pytest

from agents.schedules import linear


@pytest.mark.parametrize(
    ("count", "value"), [(0, 1.0), (1, 0.991), (50, 0.55), (99, 0.109), (100, 0.1), (101, 0.1), (10**9, 0.1)]
)
def test_linear(count: int, value: float) -> None:
    assert linear(count, 1.0, 0.1, 100) == pytest.approx(value)
