"""The update captured as a CUDA graph against torch's own, launched kernel by kernel; needs an NVIDIA GPU."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from agents.captured import WARM_UP_UPDATES, CapturedUpdate
from agents.config import DQNConfig
from agents.dqn import DQN
from agents.replay import Batch, FrameReplay

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
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
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


def test_it_is_captured_while_another_thread_uses_the_gpu() -> None:
    """As in training: one thread learns, the other plays, stores and samples. Other moments are captured anew."""
    agent, replay = DQN(DQNConfig(), 6, device="cuda", precision="bf16"), FrameReplay(4_096, 8, device="cuda")
    rng, none = np.random.default_rng(0), np.zeros(8, np.bool_)

    def play() -> None:
        frames = rng.integers(0, 256, (8, 84, 84), dtype=np.uint8)
        replay.add(frames, rng.integers(6, size=8), np.ones(8, np.float32), none, none, frames)

    for _ in range(64):
        play()
    prepared = agent.prepare(replay.sample(32))
    with ThreadPoolExecutor(1) as learner:
        for update in range(4 * WARM_UP_UPDATES):
            if update == 2 * WARM_UP_UPDATES:
                agent.load_state_dict(agent.state_dict())
            learning = learner.submit(agent.learn, prepared)
            while not learning.done():
                play()
                agent.prepare(replay.sample(32))
            assert learning.result()["loss"].isfinite()
            prepared = agent.prepare(replay.sample(32))
    assert agent._update._graph is not None  # type: ignore[union-attr]
    assert all(np.isfinite(norm) for norm in agent.gradient_norms().values())


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
