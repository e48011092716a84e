"""The compiled passes against torch's own in float32, whose bf16 passes say what rounding may cost."""

import copy
import dataclasses
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from agents import native
from agents.config import DQNConfig
from agents.dqn import DQN
from agents.native import NativeQNetwork
from agents.networks import QNetwork
from agents.replay import Batch
from agents.updates import LEARNED
from perception.backbones import ImpalaCNN, NatureCNN

CPUINFO = Path("/proc/cpuinfo")
needs_library = pytest.mark.skipif(
    not (CPUINFO.exists() and "avx512_bf16" in CPUINFO.read_text() and shutil.which("c++")),
    reason="the processor has no bf16 instructions, or there is no C++ compiler",
)


@needs_library
def test_it_compiles() -> None:
    assert native.library() is not None


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
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("count", [1, 8, 32, 45])
def test_values_are_those_of_the_plain_network(count: int, dueling: bool) -> None:
    fast, plain = networks(dueling)
    frames = stacks(count)
    with torch.no_grad():
        expected = plain(frames)
    torch.testing.assert_close(fast(frames), expected, atol=1e-3, rtol=0)
    assert expected.std() > 0.01  # so that the tolerance says something


def batch(count: int, seed: int = 0) -> Batch:
    chance = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    return Batch(
        frames_tm1=stacks(count, seed),
        a_tm1=(chance * 6).long(),
        r_t=(chance * 3).floor() - 1,
        discount_t=(chance < 0.9).float() * 0.5,
        frames_t=stacks(count, seed + 5),
    )


def make(precision: str, config: DQNConfig, monkeypatch: pytest.MonkeyPatch | None = None) -> DQN:
    """An agent; with `monkeypatch`, by torch's own passes."""
    if monkeypatch is not None:
        monkeypatch.setattr(native, "fits", lambda *_: False)
    agent = DQN(config, 6, precision=precision)
    assert isinstance(agent.online, NativeQNetwork) == (monkeypatch is None)
    return agent


@needs_library
@pytest.mark.parametrize("options", [{}, {"double": True}, {"dueling": True}, {"double": True, "dueling": True}])
@pytest.mark.parametrize("count", [8, 32, 45])
def test_an_update_is_as_near_as_torchs_own_in_bf16(
    count: int, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first update's gradients, a tenth of which is then Adam's first moment, and the numbers that it tells."""
    config = DQNConfig(gradient_clip_norm=0.0, **options)  # type: ignore[arg-type]
    fast, bf16, exact = make("bf16", config), make("bf16", config, monkeypatch), make("float32", config, monkeypatch)
    given = batch(count)
    numbers = [agent.learn(agent.prepare(given)) for agent in (fast, bf16, exact)]
    for weights in zip(*(agent.online.parameters() for agent in (fast, bf16, exact)), strict=True):
        moments = [agent.optimizer.state[w]["exp_avg"] for agent, w in zip((fast, bf16, exact), weights, strict=True)]
        rounding = (moments[1] - moments[2]).norm()
        assert (moments[0] - moments[2]).norm() <= 3 * rounding + 1e-3 * moments[2].norm()
    for name in LEARNED:
        torch.testing.assert_close(numbers[0][name], numbers[2][name], rtol=0.02, atol=5e-4)
    norms = [torch.tensor(list(agent.gradient_norms().values())) for agent in (fast, exact)]
    torch.testing.assert_close(*norms, rtol=0.05, atol=1e-6)


@needs_library
def test_clipping_scales_the_whole_gradient() -> None:
    moments = []
    for clip_norm in (0.0, 0.01):
        agent = make("bf16", DQNConfig(gradient_clip_norm=clip_norm))
        norm = agent.learn(agent.prepare(batch(32)))["gradient_norm"]
        moments.append([agent.optimizer.state[weight]["exp_avg"] for weight in agent.online.parameters()])
    assert norm > 0.02
    for whole, clipped in zip(*moments, strict=True):
        torch.testing.assert_close(clipped, whole * 0.01 / norm, rtol=1e-4, atol=1e-9)


@needs_library
def test_the_step_is_adams() -> None:
    agent = make("bf16", DQNConfig(dueling=True, learning_rate=1e-3, optimizer_epsilon=1e-6, gradient_clip_norm=0.0))
    before = copy.deepcopy(list(agent.online.parameters()))
    theirs = torch.optim.Adam(before, lr=1e-3, eps=1e-6)
    moments = [torch.zeros_like(weight) for weight in before]
    for seed in range(3):
        agent.learn(agent.prepare(batch(32, seed)))
        for weight, twin, moment in zip(agent.online.parameters(), before, moments, strict=True):
            state = agent.optimizer.state[weight]["exp_avg"]
            twin.grad = (state - 0.9 * moment) * 10
            moment.copy_(state)
        theirs.step()
    for weight, twin in zip(agent.online.parameters(), before, strict=True):
        torch.testing.assert_close(weight, twin, rtol=1e-4, atol=2e-5)
    assert isinstance(agent.online, NativeQNetwork)
    packed = agent.online.packed.clone()
    agent.online.take(agent.online)
    assert torch.equal(packed, agent.online.packed)  # the step left the copies as they should be


@needs_library
@pytest.mark.parametrize("options", [{}, {"double": True, "dueling": True}])
def test_helpers_change_nothing(options: dict[str, bool]) -> None:
    agents = [make("bf16", DQNConfig(**options)) for _ in range(2)]  # type: ignore[arg-type]
    batches = [batch(45, seed) for seed in range(20)]
    alone = [agents[0].learn(agents[0].prepare(given)) for given in batches]
    done = threading.Event()
    helper = threading.Thread(target=agents[1].help_until, args=(done.is_set,))
    helper.start()
    helped = [agents[1].learn(agents[1].prepare(given)) for given in batches]
    done.set()
    helper.join()
    assert alone == helped
    for weight, twin in zip(*(agent.online.parameters() for agent in agents), strict=True):
        assert torch.equal(weight, twin)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_round_of_updates_is_what_they_are_one_by_one(precision: str) -> None:
    one_by_one, at_once = (DQN(DQNConfig(), 6, precision=precision) for _ in range(2))
    prepared = [one_by_one.prepare(batch(32, seed)) for seed in range(4)]
    told = [list(one_by_one.learn(each).values()) for each in prepared]
    assert [list(numbers) for numbers in at_once.learn_each(prepared[:3]) + at_once.learn_each(prepared[3:])] == told
    assert at_once.learn_each([]) == []
    state, expected = at_once.weights() | at_once.state_dict(), one_by_one.weights() | one_by_one.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in state.items())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_an_update_waits_for_whoever_acts_before_it(precision: str) -> None:
    agent, twin = (DQN(DQNConfig(), 6, precision=precision) for _ in range(2))
    seen, given = stacks(20, seed=1), batch(32)
    before = agent.q_values(seen)
    with ThreadPoolExecutor(1) as thread:
        with agent.weights_held():
            learning = thread.submit(agent.learn, agent.prepare(given))
            time.sleep(0.3)  # enough for many updates
            assert torch.equal(agent.q_values(seen), before)
            assert not learning.done()
        assert learning.result() == twin.learn(twin.prepare(given))
    assert torch.equal(agent.q_values(seen), twin.q_values(seen))
    assert not torch.equal(agent.q_values(seen), before)


@needs_library
def test_hundred_updates_learn_what_float32_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 2 % for the first 20 updates, and within 0.02 in the mean of every 20."""
    config = DQNConfig(learning_rate=1e-4, double=True, replay_capacity_steps=1000, learning_starts_steps=10)
    batches = [batch(32, seed) for seed in range(5)]
    agents = make("bf16", config), make("float32", config, monkeypatch)
    losses = torch.zeros(2, 100)
    for i in range(100):
        for j, agent in enumerate(agents):
            losses[j, i] = agent.learn(agent.prepare(batches[i % 5]))["loss"]
            if i % 50 == 49:
                agent.update_target()
    torch.testing.assert_close(losses[0, :20], losses[1, :20], rtol=0.02, atol=0)
    torch.testing.assert_close(losses[0].view(5, 20).mean(1), losses[1].view(5, 20).mean(1), rtol=0, atol=0.02)
    assert losses[1, -5:].mean() < 0.5 * losses[1, :5].mean()


@needs_library
@pytest.mark.parametrize("options", [{}, {"double": True, "dueling": True}])
def test_a_frozen_backbone_stays_and_later_begins_as_if_new(
    options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DQNConfig(freeze_backbone_steps=3, learning_rate=1e-3, optimizer_epsilon=1e-12, **options)  # type: ignore[arg-type]
    agents = make("bf16", config), make("bf16", config, monkeypatch)
    before = [copy.deepcopy(agent.backbone.state_dict()) for agent in agents]
    for step in range(3):
        numbers = []
        for agent, backbone in zip(agents, before, strict=True):
            agent.anneal(step, 10)
            numbers.append(agent.learn(agent.prepare(batch(45, step))))
            assert all(torch.equal(backbone[name], weight) for name, weight in agent.backbone.state_dict().items())
            assert agent.gradient_norms().keys() == {n for n, _ in agent.online.named_parameters() if "head" in n}
        for name in LEARNED:
            torch.testing.assert_close(numbers[0][name], numbers[1][name], rtol=0.02, atol=5e-4)
    for weights in zip(*(agent.online.head.parameters() for agent in agents), strict=True):
        moments = [agent.optimizer.state[w]["exp_avg"] for agent, w in zip(agents, weights, strict=True)]
        assert (moments[0] - moments[1]).norm() < 0.1 * moments[1].norm()  # both are bf16
    for agent, backbone in zip(agents, before, strict=True):
        agent.anneal(3, 10)
        agent.learn(agent.prepare(batch(45, 3)))
        for name, weight in agent.backbone.named_parameters():  # Adam's first step is the rate, whatever the gradient
            moved = (weight - backbone[name]).abs()
            torch.testing.assert_close(moved[moved > 0].median(), torch.tensor(1e-3), rtol=0.01, atol=0)


@needs_library
def test_a_number_that_is_none_is_told() -> None:
    agent = make("bf16", DQNConfig())
    given = batch(8)
    given.r_t[3] = float("nan")
    numbers = agent.learn(agent.prepare(given))
    assert numbers["loss"].isnan() and numbers["gradient_norm"].isnan()


@needs_library
def test_what_the_compiled_code_would_misread_is_refused() -> None:
    agent, given = make("bf16", DQNConfig()), batch(8)
    for shape in ((4, 84, 84), (2, 84, 84, 4), (2, 4, 36, 36)):
        with pytest.raises(ValueError, match=r"need frames \(B, 4, 84, 84\)"):
            agent.q_values(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        agent.q_values(torch.zeros(2, 4, 84, 84))
    for wrong in ({"r_t": given.r_t.double()}, {"a_tm1": given.a_tm1.int()}):
        with pytest.raises(TypeError, match="contiguous tensor"):
            agent.learn(agent.prepare(given)._replace(**wrong))
    with pytest.raises(ValueError, match="need frames"):
        agent.learn(agent.prepare(given)._replace(frames_tm1=given.frames_tm1[:4]))


@needs_library
def test_a_spoilt_library_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = native.library()
    assert passes is not None
    built = tmp_path / "saccade" / Path(passes._name).name
    built.parent.mkdir()
    built.write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    try:
        assert native.library() is not None and built.stat().st_size > 10_000
        monkeypatch.setenv("XDG_CACHE_HOME", str(built))  # a file: nothing can be kept there
        native.library.cache_clear()
        assert native.library() is None
    finally:
        native.library.cache_clear()


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
