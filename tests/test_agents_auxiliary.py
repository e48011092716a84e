"""The gradient of a task beside play, against plain autograd on the sum of both losses."""

import copy
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.auxiliary import AUXILIARY_LEARNED, Auxiliary
from agents.config import DQNConfig
from agents.dqn import DQN
from agents.losses import huber, td_error
from agents.updates import LEARNED, PreparedBatch
from perception.backbones import NatureCNN
from perception.contrast import Contrast
from perception.networks import PerceptionNetwork

SHAPE = (36, 36)
CONFIG = DQNConfig(learning_rate=1e-3, replay_capacity_steps=1000, learning_starts_steps=10, gradient_clip_norm=0.0)


def agent_with(weight: float, precision: str = "float32", config: DQNConfig = CONFIG) -> tuple[DQN, Auxiliary]:
    torch.manual_seed(1)
    task = Contrast()
    auxiliary = Auxiliary(task, task.make_head(NatureCNN(4), SHAPE, "st-dim", 0.0), weight)
    return DQN(config, 3, frame_shape=SHAPE, precision=precision, auxiliary=auxiliary), auxiliary


def norm(gradients: Iterable[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients]).norm()


def batch(size: int = 8) -> tuple[PreparedBatch, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def frames() -> Tensor:
        return torch.randint(0, 256, (size, 4, *SHAPE), dtype=torch.uint8, generator=generator)

    actions = torch.randint(0, 3, (size,), generator=generator)
    rewards, discounts, q_t = torch.randn(size), torch.full((size,), 0.99), torch.randn(size, 3)
    return PreparedBatch(frames(), frames(), actions, rewards, discounts, q_t), frames(), frames()


def test_the_backbones_gradient_is_that_of_the_weighed_sum_and_the_heads_their_own() -> None:
    agent, auxiliary = agent_with(weight=0.3)
    prepared, images, later = batch()
    network, head = copy.deepcopy(agent.online), copy.deepcopy(auxiliary.head)
    q_tm1 = network(prepared.frames_tm1)
    td_loss = huber(td_error(q_tm1, prepared.a_tm1, prepared.r_t, prepared.discount_t, prepared.q_t)).mean()
    task_loss = auxiliary.task.loss(PerceptionNetwork(network.backbone, head), images, later)
    expected = torch.autograd.grad(td_loss + 0.3 * task_loss, list(network.parameters()), retain_graph=True)
    expected += torch.autograd.grad(task_loss, list(head.parameters()), retain_graph=True)
    shared = list(network.backbone.parameters())
    apart = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in (td_loss, task_loss)]

    learned = agent.learn(prepared, (images, later))

    found = [weight.grad for weight in [*agent.online.parameters(), *auxiliary.head.parameters()]]
    for gradient, true in zip(found, expected, strict=True):
        assert gradient is not None
        torch.testing.assert_close(gradient, true, atol=1e-6, rtol=1e-4)
    assert list(learned) == [*LEARNED, *AUXILIARY_LEARNED]
    torch.testing.assert_close(learned["auxiliary_loss"], task_loss.detach())
    torch.testing.assert_close(learned["gradient_norm"], norm(expected))
    torch.testing.assert_close(learned["backbone_gradient_norm"], norm(apart[0]))
    torch.testing.assert_close(learned["auxiliary_gradient_norm"], norm(apart[1]))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_both_are_learnt_from_one_batch(precision: str) -> None:
    agent, _ = agent_with(weight=1.0, precision=precision)
    prepared, images, later = batch()
    prepared = prepared._replace(discount_t=torch.zeros(8))
    told = [agent.learn(prepared, (images, later)) for _ in range(60)]
    assert told[-1]["loss"] < 0.2 * told[0]["loss"]
    assert told[-1]["auxiliary_loss"] < 0.5 * told[0]["auxiliary_loss"]


def test_its_state_comes_back(tmp_path: Path) -> None:
    (agent, auxiliary), (prepared, images, later) = agent_with(weight=1.0), batch()
    for _ in range(3):
        agent.learn(prepared, (images, later))
    save_file({name: tensor.contiguous() for name, tensor in agent.state_dict().items()}, tmp_path / "state")
    other, others = agent_with(weight=1.0)
    other.load_weights(agent.weights())
    other.load_state_dict(load_file(tmp_path / "state"))
    for one in (agent, other):
        one.learn(prepared, (images, later))
    for one, two in ((agent.online, other.online), (auxiliary.head, others.head)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
