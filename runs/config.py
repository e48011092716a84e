"""What can be chosen about a run. Imports neither torch nor SB3, so that `--help` is quick."""

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agents.config import DQNConfig
from envs.config import EnvConfig

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "bf16", "float32"]
Tracking = Literal["wandb", "tensorboard", "none"]


@dataclass(frozen=True)
class TrackingConfig:
    """Where a run's numbers go, besides `metrics.csv`, which is always written."""

    tracking: Tracking = "wandb"
    """Weights & Biases (offline when there is no login), TensorBoard, or neither."""
    wandb_project: str = "saccade"
    """W&B project."""
    wandb_entity: str | None = None
    """W&B user or team; the default one when not given."""
    wandb_group: str | None = None
    """W&B group; preset and game when not given."""
    wandb_tags: tuple[str, ...] = ()
    """W&B tags."""


@dataclass(frozen=True)
class TrainConfig:
    """A run of DQN. Counts are in steps: agent decisions (4 frames each), summed over all environments."""

    preset: str = ""
    """Which preset this started from."""
    env: EnvConfig = field(default_factory=EnvConfig)
    agent: DQNConfig = field(default_factory=DQNConfig)
    tracked: TrackingConfig = field(default_factory=TrackingConfig)
    total_steps: int = 10_000_000
    """Where the run ends."""
    num_envs: int = 8
    """Environments stepped side by side."""
    seed: int = 0
    """Of weights, exploration, sampling and every episode."""
    device: Device = "auto"
    """Where the network lives: `auto` takes a GPU when there is one."""
    precision: Precision = "auto"
    """Of forward and backward passes; weights are kept in float32. `auto` takes bf16 where the hardware has it."""
    num_threads: int = 0
    """CPU threads for each of the two that compute, learning and acting; 0 shares out the cores there are."""
    checkpoint_every_steps: int = 50_000
    """Steps between checkpoints; 0 leaves only those at a stop and at the end."""
    checkpoints_kept: int = 2
    """Newest checkpoints that stay; older ones are deleted. The best one's weights stay in `best`."""
    evaluate_every_steps: int = 50_000
    """Steps between evaluations; 0 evaluates only at the end."""
    evaluation_episodes: int = 10
    """Whole games an evaluation plays."""
    final_evaluation_episodes: int = 30
    """Whole games that the evaluation at the end plays."""
    evaluation_epsilon: float = 0.01
    """Share of random actions while evaluating."""
    evaluation_video_steps: int = 300
    """Length of the video made at each evaluation; 0 makes none."""
    stop_at_score: float | None = None
    """End the run once an evaluation's mean score reaches this."""
    log_every_steps: int = 5_000
    """Steps between rows of `metrics.csv`."""
    run_name: str | None = None
    """Name of the run; game, preset, seed and time when not given."""
    out: Path | None = None
    """The run's folder; `runs/out/<run name>` when not given."""

    def __post_init__(self) -> None:
        """Raise ValueError, in words that say what to do, where a value cannot be meant."""
        checks = [
            (self.total_steps >= 1, f"total_steps {self.total_steps} must be at least 1"),
            (self.num_envs >= 1, f"num_envs {self.num_envs} must be at least 1"),
            (self.num_threads >= 0, f"num_threads {self.num_threads} must be 0 (chosen for you) or above"),
            (
                self.checkpoint_every_steps >= 0 and self.evaluate_every_steps >= 0,
                "checkpoint_every_steps and evaluate_every_steps must be 0 (off) or above",
            ),
            (self.checkpoints_kept >= 1, f"checkpoints_kept {self.checkpoints_kept} must be at least 1"),
            (
                self.evaluation_episodes >= 1 and self.final_evaluation_episodes >= 1,
                "evaluation_episodes and final_evaluation_episodes must be at least 1",
            ),
            (
                0 <= self.evaluation_epsilon <= 1,
                f"evaluation_epsilon {self.evaluation_epsilon} must lie between 0 and 1",
            ),
            (self.log_every_steps >= 1, f"log_every_steps {self.log_every_steps} must be at least 1"),
            (
                self.stop_at_score is None or self.evaluate_every_steps > 0,
                "stop_at_score needs evaluations: set evaluate_every_steps above 0",
            ),
            (
                self.agent.target_update_steps >= self.num_envs,
                f"target_update_steps {self.agent.target_update_steps} is less than one step of all "
                f"{self.num_envs} environments: raise it or lower num_envs",
            ),
        ]
        for holds, message in checks:
            if not holds:
                raise ValueError(message)


@dataclass(frozen=True)
class ResumeArgs:
    """Go on with a run where it stopped, under the same configuration and the same W&B run."""

    resume: Path
    """The run's folder."""
    total_steps: int | None = None
    """A new end."""
    device: Device | None = None
    """Another device."""
    tracking: Tracking | None = None
    """Another tracker."""


def to_json(config: Any) -> dict[str, Any]:
    """Return a config as JSON takes it, but for `out`: a run's folder may be moved, and says where it is by itself."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name != "out"}


def from_json(kind: type, plain: dict[str, Any]) -> Any:
    """Return the config of type `kind` that `to_json` gave; what was not yet an option then has its default.

    Raises:
        ValueError: a field is unknown, or its value cannot be meant.
    """
    hints = typing.get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(kind)}
    if unknown := sorted(plain.keys() - names):
        raise ValueError(f"the configuration is of another version of this program, which had {', '.join(unknown)}")
    values: dict[str, Any] = {}
    for name, value in plain.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            value = from_json(typing.cast(type, hint), value)
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    return kind(**values)
