"""What followed the values against a slow twin, faults by hand, and a target network that is never synced."""

from typing import Any

import numpy as np
import pytest
import torch
from commands import TINY
from test_agents_replay import SIZE, STACK, play

from agents.config import DQNConfig
from agents.diagnostics import Values, faults, horizon_steps, layers_of
from agents.dqn import DQN
from agents.replay import Batch, FrameReplay
from runs import train_dqn
from runs.commands import DIVERGED


@pytest.mark.parametrize("seed", range(6))
def test_what_followed_is_the_twins(seed: int) -> None:
    rng = np.random.default_rng(seed)
    replay = FrameReplay(120, 2, frame_shape=SIZE, stack=STACK, discount=0.9, clip_rewards=bool(seed % 2))
    endings = [list(rng.choice(["on"] * 10 + ["over", "life", "truncated"], 150)) for _ in range(2)]
    twins, rows = play(replay, endings, seed)
    horizon = 12
    outcomes = replay.outcomes(20, horizon)
    assert outcomes is not None
    frames, returns = outcomes
    assert 0 < len(frames) <= 20
    known = {stack.tobytes(): (env, i) for env, twin in enumerate(twins) for i, stack in enumerate(twin.stacks)}
    for stack, found in zip(frames, returns.tolist(), strict=True):
        env, at = known[stack.numpy().tobytes()]
        assert rows[env][at] + 2 * horizon >= replay.rows_written()[env] - 1  # recent
        total, factor, twin = 0.0, 1.0, twins[env]
        for row in range(rows[env][at], rows[env][at] + horizon):
            step = rows[env].index(row)  # a last frame's row is only met after a truncation, which is left out
            reward = twin.rewards[step]
            total += factor * (float(np.sign(reward)) if replay.clip_rewards else reward)
            factor *= 0.9
            assert not twin.truncated[step]
            if twin.cut[step]:
                break
        assert found == pytest.approx(total, abs=1e-5)


def test_too_little_held_tells_nothing() -> None:
    replay = FrameReplay(120, 2, frame_shape=SIZE, stack=STACK)
    play(replay, [["on"] * 12, ["on"] * 12], seed=0)
    assert replay.outcomes(20, 12) is None
    assert replay.outcomes(20, 6) is not None


def test_horizons_by_hand() -> None:
    assert horizon_steps(0.0) == 1
    assert horizon_steps(0.5) == 7  # 2^-7 is the first below a hundredth
    assert horizon_steps(0.99) == 459
    assert horizon_steps(1.0) == horizon_steps(0.9999) == 1000


def test_faults_by_hand() -> None:
    assert faults(Values(0.9, 0.5, 1.0), target_age_updates=250, target_period_updates=250) == {}
    assert Values(0.9, 0.5, 1.0).overestimation == pytest.approx(0.4)
    assert "diverge: -31 on average" in faults(Values(-31.0, 0.1, 3.0), 0, 250)["values"]
    assert "1,000 updates" in faults(None, 1_000, 250)["target"]
    assert "10,001 updates" in faults(None, 10_001, 1e9)["target"]


def run(capsys: pytest.CaptureFixture[str], out: Any, *options: str) -> str:
    assert train_dqn.main([*TINY, *options, "--out", str(out)]) in (0, DIVERGED)
    return " ".join(" ".join(capsys.readouterr()).split())


def test_a_target_network_that_is_never_synced_is_named(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "target network" not in run(capsys, tmp_path / "healthy")
    monkeypatch.setattr(DQN, "update_target", lambda _: None)
    assert "the target network has not changed for" in run(capsys, tmp_path / "faulty")


def test_a_learning_rate_times_1000_is_named(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert "too high" not in run(capsys, tmp_path / "healthy", "--learning-rate", "1e-4")
    printed = run(capsys, tmp_path / "faulty", "--learning-rate", "0.1")
    assert "too high a learning rate" in printed


def test_the_compiled_networks_layers_are_seen() -> None:
    config = DQNConfig(replay_capacity_steps=1000, learning_starts_steps=10, gradient_clip_norm=0.01)
    agent = DQN(config, 3, precision="bf16")
    plain = DQN(config, 3, precision="float32")
    plain.load_weights(agent.weights())
    learn = Batch(
        torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8),
        torch.randint(0, 3, (8,)),
        torch.full((8,), 20.0),
        torch.zeros(8),
        torch.zeros(8, 4, 84, 84, dtype=torch.uint8),
    )
    for each in (agent, plain):
        norm = float(each.learn(each.prepare(learn))["gradient_norm"])
        assert norm > 10 * config.gradient_clip_norm  # so that it is clipped
        assert norm == pytest.approx(sum(part**2 for part in each.gradient_norms().values()) ** 0.5, rel=1e-3)
    frames = torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8)
    layers = layers_of(agent, frames)
    assert {"backbone.conv1", "backbone.conv3", "head.advantage_hidden", "head.advantage"} <= layers.keys()
    assert layers["backbone.conv3"].activation_spread > 0
    for name, layer in layers_of(plain, frames).items():
        assert layers[name].gradient_norm == pytest.approx(layer.gradient_norm, rel=0.1), name
