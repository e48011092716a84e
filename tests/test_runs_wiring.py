"""What is chosen reaches what it is for, in each kind of run."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import dqn_run, perception_run, sb3_run
from runs.config import SB3Config, TrackingConfig, TrainConfig
from runs.perception_checkpoints import make_task
from runs.perception_config import PerceptionConfig
from runs.presets import PRESETS

SILENT = TrackingConfig(tracking="none")


def dqn(out: Path, seed: int = 0, **agent: Any) -> dqn_run.DQNRun:
    """Return a run of Breakout, as of Pong, that is about to begin."""
    config: TrainConfig = PRESETS["pong"][1]
    config = dataclasses.replace(config, env=dataclasses.replace(config.env, game="breakout"))
    small = dataclasses.replace(config.agent, replay_capacity_steps=256, learning_starts_steps=100, **agent)
    return dqn_run.new_run(
        dataclasses.replace(config, agent=small, num_envs=2, num_threads=1, tracked=SILENT, seed=seed, out=out)
    )


def differ(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(not torch.equal(weight, two[name]) for name, weight in one.items() if weight.dim() > 1)


def test_each_kind_of_run_follows_its_seed(tmp_path: Path) -> None:
    players = [dqn(tmp_path / f"dqn-{seed}", seed) for seed in (0, 1)]
    assert differ(players[0].agent.weights(), players[1].agent.weights())
    assert (players[0].games.frames != players[1].games.frames).any()  # for they waited for another time
    for part in ("agent", "replay"):
        one, two = (torch.rand(8, generator=getattr(run, part)._generator) for run in players)
        assert not torch.equal(one, two)
    eyes = [
        perception_run.new_run(
            PerceptionConfig(
                "classification", "digits", backbone="lenet", tracked=SILENT, seed=seed, out=tmp_path / f"eye-{seed}"
            )
        )
        for seed in (0, 1)
    ]
    assert differ(eyes[0].network.state_dict(), eyes[1].network.state_dict())
    assert not torch.equal(eyes[0].next_batch()[0], eyes[1].next_batch()[0])
    assert eyes[0].data.digest() == eyes[1].data.digest()
    theirs = [
        sb3_run.new_run(SB3Config("ppo", "breakout", tracked=SILENT, seed=seed, out=tmp_path / f"ppo-{seed}"))
        for seed in (0, 1)
    ]
    assert differ(*(run.model.policy.state_dict() for run in theirs))
    assert (theirs[0].envs.reset() != theirs[1].envs.reset()).any()


def test_options_of_learning_reach_the_replay_and_the_task(tmp_path: Path) -> None:
    replay = dqn(tmp_path / "run", discount=0.5, n_steps=2, clip_rewards=False).replay
    assert (replay.discount, replay.n_steps, replay.clip_rewards) == (0.5, 2, False)
    usual = dqn(tmp_path / "usual").replay
    assert (usual.discount, usual.n_steps, usual.clip_rewards) == (0.99, PRESETS["pong"][1].agent.n_steps, True)
    config = PerceptionConfig("autoencoding", "digits", motion_weight=3.0, latent_size=5)
    task: Any = make_task(config, {}, None)
    assert (task.motion_weight, task.latent_size) == (3.0, 5)


@pytest.mark.parametrize("protocol", ["classic", "v5"])
def test_sb3_learns_ataris_games_as_its_zoo_does(protocol: Any, tmp_path: Path) -> None:
    run = sb3_run.new_run(SB3Config("ppo", "breakout", protocol=protocol, tracked=SILENT, out=tmp_path / "run"))
    assert run.envs.clip_rewards and run.envs.cut_at_lost_life == (protocol == "classic")


def test_of_a_distance_the_least_is_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"backbone": "lenet", "num_threads": 1, "tracked": SILENT, "diagnostics": False}
    run = perception_run.new_run(PerceptionConfig("gan", "digits", out=tmp_path / "run", **options))  # type: ignore[arg-type]
    run.begin()
    images = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    run.learn(images, torch.zeros(2, 1))
    monkeypatch.setattr(run, "_draw", lambda *_: None)
    best = tmp_path / "run" / "best" / "config.json"
    kept = []
    for distance in (2.0, 1.0, 3.0):
        told = {"loss": 1.0, "frechet": distance}
        monkeypatch.setattr(perception_run, "measure_split", lambda *_, told=told: (images, told))
        run.evaluate()
        kept.append(f'"frechet": {distance}' in best.read_text())
    assert kept == [True, True, False]
    run.close()
