import dataclasses
import json
from pathlib import Path

import pytest

from perception.config import ConfigError
from runs.config import TrackingConfig, TrainConfig, from_json, to_json, train_config
from runs.perception_config import PerceptionConfig, perception_config
from runs.presets import PRESETS


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_json(name: str) -> None:
    config = dataclasses.replace(PRESETS[name][1], stop_at_score=3.0)
    assert config.preset == name
    moved = dataclasses.replace(config, out=Path("somewhere"))
    assert from_json(TrainConfig, json.loads(json.dumps(to_json(moved)))) == config


def test_an_older_configuration_takes_defaults_and_a_stranger_is_refused() -> None:
    plain = to_json(TrainConfig())
    del plain["final_evaluation_episodes"]
    assert from_json(TrainConfig, plain) == TrainConfig()
    other_default = to_json(TrainConfig()) | {"auxiliary": {"task": None, "data": None, "weight": 0.5, "batch_size": 8}}
    assert train_config(other_default) == TrainConfig()
    plain["agent"]["wings"] = 2
    with pytest.raises(ValueError, match="which had wings"):
        from_json(TrainConfig, plain)


@pytest.mark.parametrize("changes", [{"total_steps": 0}, {"num_envs": 0}, {"checkpoints_kept": 0}, {"num_threads": -1}])
def test_what_cannot_be_meant_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes)).replace("_", "-")):
        TrainConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("segmentation", {"beam_width": 5}),
        ("captioning", {"motion_weight": 2.0}),
        ("classification", {"latent_size": 8}),
        ("contrast", {"label_spread": 1.0}),
        ("autoencoding", {"head": "mlp"}),
        ("contrast", {"batch_size": 1}),
        ("captioning", {"augmentation": "affine"}),
        ("classification", {"freeze": True, "finetune": True}),
    ],
)
def test_what_one_task_takes_another_refuses(task: str, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes)).replace("_", "-")):
        PerceptionConfig(task=task, data="digits", **changes)  # type: ignore[arg-type]


def test_a_task_does_not_stumble_over_what_others_had_by_default() -> None:
    stored = to_json(PerceptionConfig(task="segmentation", data="d")) | {"spectral_norm": False, "beam_width": 9}
    assert perception_config(stored) == PerceptionConfig(task="segmentation", data="d")
    stored = to_json(PerceptionConfig(task="gan", data="d", spectral_norm=False))
    assert perception_config(stored).spectral_norm is False


def test_presets_say_what_their_sources_say() -> None:
    classic, nature = PRESETS["classic"][1], PRESETS["nature"][1]
    for config in (classic, nature):
        assert (config.agent.batch_size, config.agent.steps_per_update) == (32, 4)
        assert config.agent.replay_capacity_steps == 1_000_000
    # SB3's zoo and CleanRL: 1e-4, target every 1,000 steps, 80,000 random steps, ε to 0.01 over a tenth of 10M.
    assert (classic.agent.learning_rate, classic.agent.target_update_steps) == (1e-4, 1_000)
    assert (classic.agent.learning_starts_steps, classic.agent.epsilon_steps) == (80_000, 1_000_000)
    # Mnih et al. 2015, extended data table 1: target every 10,000 updates, ε to 0.1 over a million frames seen.
    assert nature.agent.target_update_steps == 10_000 * nature.agent.steps_per_update
    assert (nature.agent.epsilon_end, nature.agent.learning_rate) == (0.1, 2.5e-4)


def test_checkpoints_are_sent_where_there_is_somewhere() -> None:
    with pytest.raises(ConfigError, match="goes with --tracking wandb"):
        TrackingConfig(tracking="none", wandb_checkpoints=True)
    sent = TrackingConfig(wandb_checkpoints=True, wandb_group="a")
    assert sent.sent_to(None) == sent
    assert sent.sent_to("none") == TrackingConfig(tracking="none", wandb_group="a")
