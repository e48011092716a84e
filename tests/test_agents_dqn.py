import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.config import DQNConfig
from agents.dqn import DQN
from agents.losses import huber, td_error
from agents.networks import QHead
from agents.replay import Batch
from perception.backbones import BACKBONES
from perception.config import ConfigError
from runs.presets import PRESETS

CONFIG = DQNConfig(replay_capacity_steps=1000, learning_starts_steps=10, learning_rate=1e-3)
FRAMES = ("frames_tm1", "frames_t")
SHAPE = (36, 36)  # the smallest that the Nature network takes: quick


def make(config: DQNConfig = CONFIG, precision: str = "float32", seed: int = 0) -> DQN:
    return DQN(config, num_actions=3, frame_shape=SHAPE, precision=precision, seed=seed)


def batch(size: int = 8, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def frames() -> Tensor:
        return torch.randint(0, 256, (size, 4, *SHAPE), dtype=torch.uint8, generator=generator)

    return Batch(
        frames_tm1=frames(),
        a_tm1=torch.randint(0, 3, (size,), generator=generator),
        r_t=torch.randn(size, generator=generator),
        discount_t=torch.rand(size, generator=generator).round(),
        frames_t=frames(),
    )


def frames(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 4, *SHAPE), dtype=np.uint8)


OPTIONS = [
    CONFIG,
    dataclasses.replace(CONFIG, double=True),
    dataclasses.replace(CONFIG, dueling=True),
    dataclasses.replace(CONFIG, double=True, dueling=True, backbone="impala"),
    dataclasses.replace(
        CONFIG, optimizer="rmsprop", learning_rate=2.5e-4, optimizer_epsilon=1e-5, gradient_clip_norm=0.0
    ),
]


@pytest.mark.parametrize("config", OPTIONS, ids=["plain", "double", "dueling", "all-impala", "rmsprop"])
def test_a_batch_is_overfitted(config: DQNConfig) -> None:
    agent = make(config)
    fixed = batch()._replace(discount_t=torch.zeros(8))
    losses = [float(agent.learn(agent.prepare(fixed))["loss"]) for _ in range(150)]
    assert losses[-1] < 0.02 * losses[0]


def test_one_update_is_what_plain_autograd_and_adam_do() -> None:
    config = dataclasses.replace(CONFIG, gradient_clip_norm=0.5, double=True)
    agent, given = make(config), batch()
    twin = make(config)
    optimizer = torch.optim.Adam(twin.online.parameters(), lr=config.learning_rate)
    for _ in range(3):
        agent.learn(agent.prepare(given))
        q_tm1, selector = twin.online(given.frames_tm1), twin.online(given.frames_t)
        with torch.no_grad():
            rows = torch.arange(8)
            value = twin.target(given.frames_t)[rows, selector.argmax(1)]
            goal = given.r_t + given.discount_t * value
        loss = torch.nn.functional.smooth_l1_loss(q_tm1[rows, given.a_tm1], goal)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.online.parameters(), 0.5)
        optimizer.step()
    for ours, theirs in zip(agent.online.parameters(), twin.online.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_a_gradient_is_clipped(optimizer: str) -> None:
    """An epsilon of 1 makes the step follow the gradient's size, which Adam and RMSprop otherwise divide out."""
    config = dataclasses.replace(
        CONFIG, optimizer=optimizer, optimizer_epsilon=1.0, learning_rate=0.5, gradient_clip_norm=0.01
    )
    agent, twin, given = make(config), make(config), batch()
    kind = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}[optimizer]
    more = {"alpha": 0.95, "centered": True} if optimizer == "rmsprop" else {}
    theirs = kind(twin.online.parameters(), lr=0.5, eps=1.0, **more)  # type: ignore[arg-type]
    for _ in range(3):
        before = [weight.detach().clone() for weight in twin.online.parameters()]
        learned = agent.learn(agent.prepare(given))
        q_tm1 = twin.online(given.frames_tm1)
        goal = given.r_t + given.discount_t * twin.target(given.frames_t).detach().amax(1)
        theirs.zero_grad()
        torch.nn.functional.smooth_l1_loss(q_tm1[torch.arange(8), given.a_tm1], goal).backward()
        norm = torch.nn.utils.clip_grad_norm_(twin.online.parameters(), 0.01)
        theirs.step()
        assert float(learned["gradient_norm"]) == pytest.approx(float(norm), rel=1e-3) and norm > 0.1
        for ours, its, was in zip(agent.online.parameters(), twin.online.parameters(), before, strict=True):
            torch.testing.assert_close(ours - was, its - was, rtol=1e-2, atol=1e-7)


def test_rmsprop_steps_as_the_papers_does() -> None:
    """The paper's epsilon stands inside the root, torch's outside: that changes a step by a factor of at most √2."""
    config = dataclasses.replace(PRESETS["nature"][1].agent, replay_capacity_steps=100, learning_starts_steps=10)
    agent, twin, given = make(config), make(config), batch(32)
    means = [torch.zeros_like(weight) for weight in twin.online.parameters()]
    squares = [torch.zeros_like(weight) for weight in twin.online.parameters()]
    for _ in range(5):
        twin.load_weights(agent.weights())
        agent.learn(agent.prepare(given))
        q_tm1 = twin.online(given.frames_tm1)
        errors = td_error(q_tm1, given.a_tm1, given.r_t, given.discount_t, twin.target(given.frames_t).detach())
        gradients = torch.autograd.grad(huber(errors).sum(), list(twin.online.parameters()))
        for index, (gradient, before) in enumerate(zip(gradients, twin.online.parameters(), strict=True)):
            means[index] = 0.95 * means[index] + 0.05 * gradient
            squares[index] = 0.95 * squares[index] + 0.05 * gradient**2
            theirs = 2.5e-4 * gradient / (squares[index] - means[index] ** 2 + 0.01).sqrt()
            ours = before.detach() - list(agent.online.parameters())[index].detach()
            assert 2**-0.5 - 0.01 < float(ours.norm() / theirs.norm()) < 1.01, index


def test_bf16_learns_as_float32_does() -> None:
    """Over 100 updates: within 3 % for the first 15, and within 0.03 in the mean of every 20."""
    losses = []
    for agent in (make(), make(precision="bf16")):
        losses.append([float(agent.learn(agent.prepare(batch(seed=step % 5)))["loss"]) for step in range(100)])
    plain, fast = np.array(losses)
    np.testing.assert_allclose(fast[:15], plain[:15], rtol=0.03)
    np.testing.assert_allclose(fast.reshape(5, 20).mean(axis=1), plain.reshape(5, 20).mean(axis=1), atol=0.03)
    assert plain[-5:].max() < 0.05 and fast[-5:].max() < 0.05


def test_target_moves_only_on_sync() -> None:
    agent = make()
    before = {name: w.clone() for name, w in agent.target.state_dict().items()}
    agent.learn(agent.prepare(batch()))
    assert all(torch.equal(w, before[name]) for name, w in agent.target.state_dict().items())
    assert any(not torch.equal(w, before[name]) for name, w in agent.online.state_dict().items())
    agent.update_target()
    online = agent.online.state_dict()
    assert all(torch.equal(w, online[name]) for name, w in agent.target.state_dict().items())


def test_act_is_greedy_at_zero_and_uniform_at_one() -> None:
    agent, seen = make(), frames(300)
    assert torch.equal(agent.act(seen, 0.0), agent.q_values(seen).argmax(dim=1))
    counts = torch.bincount(agent.act(seen, 1.0), minlength=3)
    assert counts.min() > 60
    mixed = (agent.act(seen, 0.5) != agent.q_values(seen).argmax(dim=1)).float().mean()
    assert 0.2 < mixed < 0.47  # half are random, a third of those agree by chance


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_state_goes_on_bit_for_bit(precision: str) -> None:
    config = dataclasses.replace(CONFIG, double=True, dueling=True)
    one, two = make(config, precision), make(config, precision, seed=9)
    for step in range(3):
        one.learn(one.prepare(batch(seed=step)))
    two.load_weights({name: w.clone(memory_format=torch.contiguous_format) for name, w in one.weights().items()})
    two.load_state_dict({name: w.clone(memory_format=torch.contiguous_format) for name, w in one.state_dict().items()})
    for step in range(3):
        for agent in (one, two):
            agent.anneal(step, 10)
            agent.learn(agent.prepare(batch(seed=step)))
        one.update_target()
        two.update_target()
    assert torch.equal(one.act(frames(), 0.3), two.act(frames(), 0.3))
    for name, weight in one.weights().items():
        assert torch.equal(weight, two.weights()[name]), name


def test_a_learner_goes_on_from_a_state_with_less_in_it() -> None:
    """As one on another device, or without a compiler, leaves it: other generators, no moments before an update."""
    agent = DQN(CONFIG, 3, precision="bf16")
    state = agent.state_dict() | {"generator": torch.zeros(16, dtype=torch.uint8)}
    agent.load_state_dict({name: value for name, value in state.items() if not name.startswith("optimizer.")})
    given = torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8)
    agent.learn(agent.prepare(batch(5)._replace(frames_tm1=given, frames_t=given)))
    first = agent.act(given.numpy(), 1.0)
    agent.load_state_dict(state)
    assert torch.equal(agent.act(given.numpy(), 1.0), first)


def test_same_seed_same_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = make(), make(), make(seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.online.parameters(), two.online.parameters(), strict=True))
    assert not torch.equal(one.weights()["head.advantage.weight"], other.weights()["head.advantage.weight"])


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_orthogonal_weights_keep_the_scale(precision: str) -> None:
    scale = []
    for initialization in ("uniform", "orthogonal"):
        config = dataclasses.replace(CONFIG, initialization=initialization)
        agent = DQN(config, 3, precision=precision)  # at 84×84, where the compiled path may be taken
        seen = np.random.default_rng(0).integers(0, 256, (8, 4, 84, 84), dtype=np.uint8)
        scale.append(agent.q_values(seen).std(dim=0).mean())
        hidden = agent.weights()["head.advantage_hidden.weight"]
    torch.testing.assert_close(hidden @ hidden.T, 2 * torch.eye(512), atol=1e-4, rtol=0)
    assert scale[1] > 5 * scale[0]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_orthogonal_weights_go_with_every_backbone(backbone: str) -> None:
    DQN(dataclasses.replace(CONFIG, initialization="orthogonal", backbone=backbone), 3)


def test_learning_rate_follows_its_schedule() -> None:
    agent = make(dataclasses.replace(CONFIG, learning_rate=1.0, learning_rate_end=0.5))
    for step, rate in ((0, 1.0), (50, 0.75), (100, 0.5), (200, 0.5)):
        assert agent.anneal(step, 100) == rate
        assert [group["lr"] for group in agent.optimizer.param_groups] == [rate, rate]
    assert make().anneal(70, 100) == CONFIG.learning_rate


def test_prepared_batches_are_cut_in_order() -> None:
    agent = make(dataclasses.replace(CONFIG, double=True))
    whole = agent.prepare(batch(8))
    parts = whole.split(4)
    assert len(parts) == 2
    for tensor, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(tensor, torch.cat([first, second]))


@pytest.mark.parametrize(("precision", "shape"), [("float32", SHAPE), ("bf16", (84, 84))])
def test_the_backbone_has_a_rate_of_its_own(precision: str, shape: tuple[int, int]) -> None:
    """At 84×84 in bf16 the compiled path may be taken. Adam's first step is the rate itself, but for its epsilon."""
    config = dataclasses.replace(
        CONFIG, learning_rate=1e-3, backbone_learning_rate=1e-4, freeze_backbone_steps=50, optimizer_epsilon=1e-12
    )
    agent = DQN(config, 3, frame_shape=shape, precision=precision)
    frames = torch.randint(0, 256, (5, 4, *shape), dtype=torch.uint8)
    prepared = agent.prepare(batch(5)._replace(frames_tm1=frames, frames_t=frames.flip(0)))

    def steps(at_step: int) -> list[float]:
        parts = (agent.online.backbone, agent.online.head)
        before = [[weight.detach().clone() for weight in part.parameters()] for part in parts]
        assert agent.anneal(at_step, 1000) == 1e-3
        agent.learn(prepared)
        pairs = [zip(old, part.parameters(), strict=True) for old, part in zip(before, parts, strict=True)]
        return [max(float((new.detach() - old).abs().max()) for old, new in pair) for pair in pairs]

    assert steps(49) == [0.0, pytest.approx(1e-3, rel=1e-2)]
    moved = steps(50)
    assert 0.5e-4 < moved[0] < 2e-4 and moved[1] > 5e-4


def test_a_backbone_from_elsewhere_is_in_both_networks() -> None:
    agent, other = make(CONFIG), make(CONFIG, seed=1)
    agent.load_backbone(other.online.backbone.state_dict())
    for network in (agent.online, agent.target):
        for ours, theirs in zip(network.backbone.parameters(), other.online.backbone.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_dueling_head_against_a_hand_worked_sum() -> None:
    head = QHead(num_features=1, num_actions=2, dueling=True, hidden_units=1)
    with torch.no_grad():
        for layer, weight, bias in (
            (head.advantage_hidden, [[1.0]], [0.0]),
            (head.advantage, [[2.0], [4.0]], [0.0, 0.0]),
            (head.value_hidden, [[1.0]], [1.0]),
            (head.value, [[10.0]], [0.0]),
        ):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))
    # feature 3: advantages 6 and 12, mean 9; value 10·(3 + 1) = 40
    torch.testing.assert_close(head(torch.tensor([[3.0]])), torch.tensor([[37.0, 43.0]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, "--learning-rate 0.0"),
        ({"learning_rate_end": 1.0}, "--learning-rate-end 1.0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"discount": 1.5}, "--discount 1.5"),
        ({"n_steps": 0}, "--n-steps 0"),
        ({"epsilon_end": 2.0}, "--epsilon-end <= "),
        ({"learning_starts_steps": 10**7}, "never be held"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DQNConfig(**changes)  # type: ignore[arg-type]


def test_weights_loaded_before_any_update_act_alike() -> None:
    one, two = make(precision="bf16"), make(precision="bf16", seed=1)
    two.load_weights(one.weights())
    assert torch.equal(one.q_values(frames()), two.q_values(frames()))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_gradients_reach_the_frames_of_the_differentiable_network(precision: str) -> None:
    """Bf16 at this size may run compiled; the values then differ by that much, and the gradients are torch's."""
    agent = DQN(CONFIG, num_actions=3, precision=precision)
    network = agent.differentiable()
    seen = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84), dtype=np.uint8))
    torch.testing.assert_close(network(seen), agent.q_values(seen).clone(), rtol=0.02, atol=0.02)
    scaled = (seen / 255).requires_grad_()
    network(scaled).amax(dim=1).sum().backward()
    assert scaled.grad is not None and (scaled.grad != 0).any()
    assert all(torch.equal(agent.weights()[name], weight) for name, weight in network.state_dict().items())
