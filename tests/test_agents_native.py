"""The compiled passes against torch's own in float32, whose bf16 passes say what rounding may cost."""

import copy
import dataclasses
import shutil

import pytest
import torch
from torch import Tensor

from agents import native
from agents.config import DQNConfig
from agents.dqn import DQN
from agents.native import NativeQNetwork, NativeUpdate
from agents.networks import QNetwork
from agents.replay import Batch
from agents.updates import EagerUpdate
from perception.backbones import ImpalaCNN, NatureCNN

needs_library = pytest.mark.skipif(
    native.library() is None, reason="the processor has no bfloat16 instructions, or there is no C++ compiler"
)


def stacks(count: int, seed: int = 0) -> Tensor:
    """Dark frames with a few bright bars, as games have them."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.zeros(count, 4, 84, 84, dtype=torch.uint8)
    for frame in frames.flatten(0, 1):
        for _ in range(5):
            y, x = torch.randint(0, 76, (2,), generator=generator).tolist()
            frame[y : y + 8, x : x + 3] = int(torch.randint(60, 256, (1,), generator=generator))
    return frames


def networks(dueling: bool) -> tuple[NativeQNetwork, QNetwork]:
    torch.manual_seed(0)
    fast = NativeQNetwork(NatureCNN(4), (84, 84), 6, dueling)
    plain = QNetwork(NatureCNN(4), (84, 84), 6, dueling)
    plain.load_state_dict(fast.state_dict())
    return fast, plain


@needs_library
def test_images_and_frames_are_each_others_inverse() -> None:
    fast, _ = networks(False)
    frames = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    images = fast.images(frames)
    assert torch.equal(fast.frames(images), frames)
    # patch (2, 5) of frame 1, line 3, column 0
    assert float(images[0, 2 * 21 + 5, 16 + 3 * 4]) == float(frames[0, 1, 2 * 4 + 3, 5 * 4])


@needs_library
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("count", [1, 8, 32, 45])
def test_values_are_those_of_the_plain_network(count: int, dueling: bool) -> None:
    fast, plain = networks(dueling)
    frames = stacks(count)
    with torch.no_grad():
        expected = plain(frames)
    torch.testing.assert_close(fast(frames), expected, atol=1e-3, rtol=0)
    assert expected.std() > 0.01  # so that the tolerance says something


def gradients(
    update: NativeUpdate | EagerUpdate, frames: Tensor, optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """Each weight's gradient in the first update: a tenth of it is Adam's first moment after that."""
    generator = torch.Generator().manual_seed(1)
    values = update.values(update.network.images(frames))
    update.step((values * torch.randn(values.shape, generator=generator)).mean())
    masters = optimizer.param_groups[0]["params"]
    return {str(i): optimizer.state[weight]["exp_avg"] * 10 for i, weight in enumerate(masters)}


@needs_library
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("count", [8, 32, 45])
@pytest.mark.parametrize("clip_norm", [0.0, 0.01])
def test_gradients_are_as_near_as_torchs_own_in_bf16(count: int, dueling: bool, clip_norm: float) -> None:
    found, norms = {}, {}
    for name in ("native", "bf16", "float32"):
        fast, plain = networks(dueling)
        network = fast if name == "native" else plain
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
        if isinstance(network, NativeQNetwork):
            update: NativeUpdate | EagerUpdate = NativeUpdate(network, optimizer, clip_norm)
        else:
            update = EagerUpdate(plain, torch.bfloat16 if name == "bf16" else torch.float32, optimizer, clip_norm)
        found[name] = gradients(update, stacks(count), optimizer)
        norms[name] = list(update.gradient_norms().values())
    for weight, exact in found["float32"].items():
        rounding = (found["bf16"][weight] - exact).norm()
        assert (found["native"][weight] - exact).norm() <= 3 * rounding + 1e-3 * exact.norm(), weight
    if clip_norm == 0:
        torch.testing.assert_close(torch.tensor(norms["native"]), torch.tensor(norms["float32"]), rtol=0.05, atol=1e-6)


@needs_library
def test_the_step_is_adams() -> None:
    fast, _ = networks(True)
    before = copy.deepcopy(list(fast.parameters()))
    ours = torch.optim.Adam(fast.parameters(), lr=1e-3, eps=1e-6)
    theirs = torch.optim.Adam(before, lr=1e-3, eps=1e-6)
    update = NativeUpdate(fast, ours, 0.0)
    moments = [torch.zeros_like(weight) for weight in before]
    for seed in range(3):
        gradients(update, stacks(32, seed), ours)
        for weight, twin, moment in zip(fast.parameters(), before, moments, strict=True):
            state = ours.state[weight]["exp_avg"]
            twin.grad = (state - 0.9 * moment) * 10
            moment.copy_(state)
        theirs.step()
    for weight, twin in zip(fast.parameters(), before, strict=True):
        torch.testing.assert_close(weight, twin, rtol=1e-4, atol=2e-5)
    packed = fast.packed.clone()
    fast.take(fast)
    assert torch.equal(packed, fast.packed)  # the step left the copies as they should be


@needs_library
@pytest.mark.parametrize("double", [False, True])
def test_hundred_updates_learn_what_float32_does(double: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 2 % for the first 20 updates, and within 0.02 in the mean of every 20."""
    config = DQNConfig(learning_rate=1e-4, double=double, replay_capacity_steps=1000, learning_starts_steps=10)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for seed in range(5):
        chance = torch.rand(32, generator=generator)
        batches.append(
            Batch(
                frames_tm1=stacks(32, seed),
                a_tm1=(chance * 6).long(),
                r_t=(chance * 3).floor() - 1,
                discount_t=(chance < 0.9).float() * 0.5,
                frames_t=stacks(32, seed + 5),
            )
        )
    fast = DQN(config, 6, precision="bf16")
    monkeypatch.setattr(native, "fits", lambda *_: False)
    plain = DQN(config, 6, precision="float32")
    assert isinstance(fast.online, NativeQNetwork) and not isinstance(plain.online, NativeQNetwork)
    losses = torch.zeros(2, 100)
    for i in range(100):
        for j, agent in enumerate((fast, plain)):
            losses[j, i] = agent.learn(agent.prepare(batches[i % 5]))["loss"]
            if i % 50 == 49:
                agent.update_target()
    torch.testing.assert_close(losses[0, :20], losses[1, :20], rtol=0.02, atol=0)
    torch.testing.assert_close(losses[0].view(5, 20).mean(1), losses[1].view(5, 20).mean(1), rtol=0, atol=0.02)
    assert losses[1, -5:].mean() < 0.5 * losses[1, :5].mean()


@needs_library
def test_without_tiles_the_sums_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, found = stacks(40), []
    both = [native.library(), native.library("-mno-amx-bf16")]
    for passes in both:
        monkeypatch.setattr(native, "library", lambda: passes)  # noqa: B023
        fast, _ = networks(False)
        optimizer = torch.optim.Adam(fast.parameters())
        update = NativeUpdate(fast, optimizer, 0.0)
        found.append([fast(frames), *gradients(update, frames, optimizer).values()])
    for tiles, dots in zip(*found, strict=True):
        assert (tiles - dots).norm() <= 0.02 * tiles.norm()


def test_where_it_does_not_fit_torch_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not native.fits(ImpalaCNN(4), (84, 84))
    assert not native.fits(NatureCNN(1), (84, 84))
    assert not native.fits(NatureCNN(4), (96, 96))
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    native.library.cache_clear()
    try:
        assert not isinstance(DQN(DQNConfig(), 6, precision="bf16").online, NativeQNetwork)
    finally:
        native.library.cache_clear()


@needs_library
def test_rmsprop_and_float32_take_torchs_path() -> None:
    assert isinstance(DQN(DQNConfig(), 6, precision="bf16").online, NativeQNetwork)
    assert not isinstance(DQN(DQNConfig(), 6, precision="float32").online, NativeQNetwork)
    config = dataclasses.replace(DQNConfig(), optimizer="rmsprop")
    assert not isinstance(DQN(config, 6, precision="bf16").online, NativeQNetwork)
