"""How a player's actions come of its opinion."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from envs.config import EnvConfig
from runs.evaluate import choose, evaluate

STATES = np.zeros((20_000, 4, 1, 1), np.uint8)
OPINION = torch.tensor([0.2, 0.0, 0.7, 0.1]).expand(len(STATES), 4)


@pytest.mark.parametrize(
    ("draws", "epsilon", "shares"),
    [
        (False, 0.0, [0, 0, 1, 0]),
        (False, 0.2, [0.05, 0.05, 0.85, 0.05]),
        (True, 0.0, [0.2, 0, 0.7, 0.1]),
        (True, 0.2, [0.21, 0.05, 0.61, 0.13]),
        (True, 1.0, [0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_actions_are_the_best_or_drawn(draws: bool, epsilon: float, shares: list[float]) -> None:
    player: Any = SimpleNamespace(draws=draws, num_actions=4, opinion=lambda frames: (OPINION, frames[:, 0, 0, 0]))
    actions, _, _ = choose(player, STATES, epsilon, np.random.default_rng(0))
    found = np.bincount(actions, minlength=4) / len(STATES)
    assert found == pytest.approx(shares, abs=0.012)
    assert not found[[not share for share in shares]].any()
    again = choose(player, STATES, epsilon, np.random.default_rng(0))[0]
    assert (actions == again).all()


def test_short_games_count_no_more_than_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of 32 environments have games of one step and a point, half of ten steps and none."""

    chosen = set[int]()

    class Games:
        frames, steps = STATES[:32], 0

        def step(self, actions: Any) -> Any:
            self.steps += 1
            chosen.update(actions.tolist())
            ended = [(env, 1.0, 1) for env in range(16)]
            ended += [(env, 0.0, 10) for env in range(16, 32) if self.steps % 10 == 0]
            return SimpleNamespace(episodes=[SimpleNamespace(env=e, score=s, length_steps=n) for e, s, n in ended])

        def close(self) -> None:
            pass

    monkeypatch.setattr("envs.games.make_games", lambda *_: Games())
    player: Any = SimpleNamespace(draws=False, num_actions=4, opinion=lambda frames: (OPINION[:32], frames[:, 0, 0, 0]))
    found = evaluate(player, EnvConfig("catch"), episodes=64, epsilon=0.0, seed=0)
    assert len(found["scores"]) == 64 and found["mean"] == 0.5 and found["mean_length_steps"] == 5.5
    assert chosen == {2}
    evaluate(player, EnvConfig("catch"), episodes=64, epsilon=1.0, seed=0)
    assert chosen == {0, 1, 2, 3}
