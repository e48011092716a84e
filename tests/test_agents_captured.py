"""The update captured as a CUDA graph against torch's own, launched kernel by kernel; needs an NVIDIA GPU."""

import pytest
import torch

from agents.captured import WARM_UP_UPDATES, CapturedUpdate
from agents.config import DQNConfig
from agents.dqn import DQN
from agents.replay import Batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (2, 32, 4, 84, 84), generator=generator, dtype=torch.uint8).cuda()
    chance = torch.rand(32, generator=generator).cuda()
    return Batch(frames[0], (chance * 6).long(), (chance * 3).floor() - 1, (chance < 0.9).float() * 0.9, frames[1])


@pytest.mark.parametrize("options", [{}, {"double": True, "dueling": True}, {"optimizer": "rmsprop"}])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_hundred_updates_are_those_of_the_eager_path(
    precision: str, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = []
    for warm_up in (WARM_UP_UPDATES, float("inf")):
        monkeypatch.setattr(CapturedUpdate, "_eager_left", warm_up)
        agent = DQN(DQNConfig(**options), 6, device="cuda", precision=precision)  # type: ignore[arg-type]
        losses = []
        for update in range(100):
            agent.anneal(update, 200)
            losses.append(agent.learn(agent.prepare(batch(update)))["loss"])
        assert (agent._update._graph is not None) == (warm_up == WARM_UP_UPDATES)  # type: ignore[union-attr]
        numbers.append(torch.stack(losses))
    torch.testing.assert_close(*numbers, rtol=0.05, atol=1e-3)


def test_a_rate_of_zero_holds_for_what_is_captured_already() -> None:
    agent = DQN(DQNConfig(learning_rate_end=0.0), 6, device="cuda", precision="bf16")
    for update in range(WARM_UP_UPDATES + 2):
        agent.learn(agent.prepare(batch(update)))
    assert agent._update._graph is not None  # type: ignore[union-attr]
    moved = []
    for step in (0, 10):
        before = [weight.clone() for weight in agent.online.parameters()]
        agent.anneal(step, 10)
        agent.learn(agent.prepare(batch(9)))
        moved.append(not all(torch.equal(*weights) for weights in zip(before, agent.online.parameters(), strict=True)))
    assert moved == [True, False]
