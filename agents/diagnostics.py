"""Told when Q-learning goes wrong: values above what follows them, a target network that stands still."""

import math
from dataclasses import dataclass

import torch

from agents.dqn import DQN
from agents.networks import QNetwork
from agents.replay import FrameReplay
from perception.diagnostics import Layer, health

LEFT_OUT = 0.01  # of a return's weight: what follows after the horizon
LONGEST_HORIZON_STEPS = 1_000
DIVERGED = 10.0  # times the greatest return that followed, and at least this much above it
OLDEST_TARGET_UPDATES = 10_000  # between two copies in Mnih et al. 2015


@dataclass(frozen=True)
class Values:
    """What the network says of states, beside what came after them; both discounted, of the rewards learnt from."""

    greedy: float
    """Mean greatest action value."""
    followed: float
    """Mean return that followed."""
    largest: float
    """The largest of those returns, in size."""

    @property
    def overestimation(self) -> float:
        """How far the values lie above (van Hasselt et al. 2016, figure 3)."""
        return self.greedy - self.followed


def layers_of(agent: DQN, frames: torch.Tensor) -> dict[str, Layer]:
    """Return how each layer of the online network does on stacks (B, C, H, W), in float32."""
    online = agent.online
    return health(online, agent.optimizer, agent.gradient_norms(), lambda: QNetwork.forward(online, frames))


def horizon_steps(discount: float) -> int:
    """Return after how many steps a return is all but known."""
    if discount == 0:
        return 1
    return (
        LONGEST_HORIZON_STEPS
        if discount == 1
        else min(LONGEST_HORIZON_STEPS, math.ceil(math.log(LEFT_OUT) / math.log(discount)))
    )


def values_of(agent: DQN, replay: FrameReplay, states: int = 64) -> Values | None:
    """Return what the network says of recent states, and what followed; None until enough is held.

    What followed was played by the agent as it was, random actions included.
    """
    outcomes = replay.outcomes(states, horizon_steps(replay.discount))
    if outcomes is None:
        return None
    frames, returns = outcomes
    greedy = agent.q_values(frames).amax(dim=1)
    return Values(float(greedy.mean()), float(returns.mean()), float(returns.abs().max()))


class TargetWatch:
    """Notes since when the target network has been the same."""

    def __init__(self) -> None:
        self.same_since_update = 0
        self._sum: float | None = None

    def look(self, agent: DQN, update: int) -> int:
        """Return for how many updates at least the target network has not changed."""
        found = float(sum(weight.double().sum() for weight in agent.target.parameters()))
        if found != self._sum:
            self._sum, self.same_since_update = found, update
        return update - self.same_since_update


def faults(values: Values | None, target_age_updates: int, target_period_updates: float) -> dict[str, str]:
    """Return warnings by name: what is out of bounds, and what usually causes it."""
    found = {}
    if values is not None and abs(values.greedy) > DIVERGED * max(1.0, values.largest):
        found["values"] = (
            f"Q-values diverge: {values.greedy:.3g} on average, where returns up to {values.largest:.3g} followed. "
            "The usual causes are too high a learning rate and too rare copies into the target network"
        )
    if target_age_updates > min(OLDEST_TARGET_UPDATES, 3 * target_period_updates):
        found["target"] = (
            f"the target network has not changed for {target_age_updates:,} updates, so that values do not spread: it "
            f"is never synced, or too rarely (--target-update-steps)"
        )
    return found
