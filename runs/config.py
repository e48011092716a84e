"""What can be chosen about a run. Imports neither torch nor SB3, so that `--help` is quick."""

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from agents.config import DQNConfig
from envs.config import EnvConfig, Protocol
from perception.config import ConfigError, require

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
    """W&B group; what runs that differ in the seed alone have in common when not given."""
    wandb_tags: tuple[str, ...] = ()
    """W&B tags."""
    wandb_checkpoints: bool = False
    """Send W&B the weights of the newest checkpoint and the best one, when the run ends or is stopped."""

    def __post_init__(self) -> None:
        """Raise ConfigError where what is to be sent has nowhere to go."""
        if self.wandb_checkpoints and self.tracking != "wandb":
            raise ConfigError(f"--wandb-checkpoints goes with --tracking wandb, not {self.tracking}")

    def sent_to(self, tracking: Tracking | None) -> "TrackingConfig":
        """Return the same for another tracker; this one when there is none."""
        tracking = tracking or self.tracking
        checkpoints = self.wandb_checkpoints and tracking == "wandb"
        return dataclasses.replace(self, tracking=tracking, wandb_checkpoints=checkpoints)


FROM_REPLAY = ("autoencoding", "contrast")
"""Tasks that need no labels: beside play they learn from what the agent replays."""


AUXILIARY_WEIGHT = 0.01  # with ten times this, segmentation beside Pong moves the eye faster than the Q head can follow


@dataclass(frozen=True)
class AuxiliaryConfig:
    """A perception task learnt during play, whose gradient joins the agent's on the backbone."""

    task: Annotated[
        Literal["classification", "segmentation", "captioning", "autoencoding", "contrast"] | None,
        tyro.conf.arg(name="auxiliary"),
    ] = None
    """A perception task to learn during play: its gradient joins the agent's on the backbone. Autoencoding and contrast
    learn from the replay, the others from a recording."""
    data: Annotated[str | None, tyro.conf.arg(name="auxiliary-data")] = None
    """The recording of this game (python -m runs.record_frames)."""
    weight: Annotated[float, tyro.conf.arg(name="auxiliary-weight")] = AUXILIARY_WEIGHT
    """Of the task's loss beside the agent's, where both pull at the backbone; the task's head learns by its own."""
    batch_size: Annotated[int, tyro.conf.arg(name="auxiliary-batch-size")] = 8
    """Images of the task that an update learns from."""

    def __post_init__(self) -> None:
        """Raise ConfigError, in words that say what to do, where a value cannot be meant."""
        labels = self.task is not None and self.task not in FROM_REPLAY
        unused = self.task is None and (self.weight, self.batch_size) != (AUXILIARY_WEIGHT, 8)
        checks = [
            (not unused, "--auxiliary-weight and --auxiliary-batch-size go with --auxiliary TASK"),
            (
                not labels or self.data is not None,
                f"--auxiliary {self.task} needs labels: give --auxiliary-data, a recording of this game "
                "(python -m runs.record_frames)",
            ),
            (
                labels or self.data is None,
                f"--auxiliary-data goes with a task that needs labels, --auxiliary {self.task} takes none",
            ),
            (self.weight > 0, f"--auxiliary-weight {self.weight} must be above 0"),
            (self.batch_size >= 1, f"--auxiliary-batch-size {self.batch_size} must be at least 1"),
            (
                self.task != "contrast" or self.batch_size > 1,
                "--auxiliary contrast needs an --auxiliary-batch-size above 1",
            ),
        ]
        require(checks)


@dataclass(frozen=True)
class TrainConfig:
    """A run of DQN; `--resume FOLDER` goes on with one.

    Counts are in steps: agent decisions (4 frames each), summed over all environments.
    """

    preset: str = ""
    """Which preset this started from."""
    env: EnvConfig = field(default_factory=EnvConfig)
    agent: DQNConfig = field(default_factory=DQNConfig)
    tracked: TrackingConfig = field(default_factory=TrackingConfig)
    auxiliary: AuxiliaryConfig = field(default_factory=AuxiliaryConfig)
    backbone_source: tyro.conf.Suppress[str | None] = None
    """The checkpoint that the backbone started from."""
    total_steps: int = 10_000_000
    """Where the run ends."""
    num_envs: int = 8
    """Environments stepped side by side."""
    seed: int = 0
    """Of weights, exploration, sampling and every episode."""
    device: Device = "auto"
    """Where the network lives: `auto` takes CUDA where there is one, else the CPU."""
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
    diagnostics: bool = True
    """Whether each row comes with how the layers do (`layers.csv`) and what followed the values, and with warnings."""
    check: bool = False
    """Train nothing: check data, network and loss, and say what holds (exit code 0) or does not (1)."""
    run_name: str | None = None
    """Name of the run; game, preset, seed and time when not given."""
    out: Path | None = None
    """The run's folder; `runs/out/<run name>` when not given."""

    def __post_init__(self) -> None:
        """Raise ConfigError, in words that say what to do, where a value cannot be meant."""
        checks = [
            (self.total_steps >= 1, f"--total-steps {self.total_steps} must be at least 1"),
            (
                self.agent.learning_starts_steps < self.total_steps,
                f"--learning-starts-steps {self.agent.learning_starts_steps} leaves none of --total-steps "
                f"{self.total_steps} to learn in: lower it, or raise --total-steps",
            ),
            (self.num_envs >= 1, f"--num-envs {self.num_envs} must be at least 1"),
            (self.num_threads >= 0, f"--num-threads {self.num_threads} must be 0 (chosen for you) or above"),
            (
                self.checkpoint_every_steps >= 0 and self.evaluate_every_steps >= 0,
                "--checkpoint-every-steps and --evaluate-every-steps must be 0 (off) or above",
            ),
            (self.checkpoints_kept >= 1, f"--checkpoints-kept {self.checkpoints_kept} must be at least 1"),
            (
                self.evaluation_episodes >= 1 and self.final_evaluation_episodes >= 1,
                "--evaluation-episodes and --final-evaluation-episodes must be at least 1",
            ),
            (
                0 <= self.evaluation_epsilon <= 1,
                f"--evaluation-epsilon {self.evaluation_epsilon} must lie between 0 and 1",
            ),
            (
                min(self.evaluation_video_steps, self.seed) >= 0,
                f"--evaluation-video-steps {self.evaluation_video_steps} (0 makes none) and --seed {self.seed} must be "
                "0 or above",
            ),
            (self.log_every_steps >= 1, f"--log-every-steps {self.log_every_steps} must be at least 1"),
            (
                self.stop_at_score is None or self.evaluate_every_steps > 0,
                "--stop-at-score needs evaluations: set --evaluate-every-steps above 0",
            ),
            (
                self.auxiliary.task not in FROM_REPLAY or self.auxiliary.batch_size <= self.agent.batch_size,
                f"--auxiliary-batch-size {self.auxiliary.batch_size} is more than the --batch-size "
                f"{self.agent.batch_size} that is replayed",
            ),
            (
                self.agent.target_update_steps >= self.num_envs,
                f"--target-update-steps {self.agent.target_update_steps} is less than one step of all "
                f"{self.num_envs} environments: raise it or lower --num-envs",
            ),
        ]
        require(checks)

    @property
    def group(self) -> str:
        """What runs that differ in the seed alone have in common."""
        return f"{self.preset}-{self.env.game}"


@dataclass(frozen=True)
class SB3Config:
    """A run of one of Stable-Baselines3's algorithms on one of our games, with the settings of its zoo for Atari.

    `--resume FOLDER` goes on with one.
    """

    algorithm: tyro.conf.Positional[Literal["ppo", "a2c", "dqn"]]
    """What learns."""
    game: tyro.conf.Positional[str]
    """An Atari game, `catch`, or the id of a Gymnasium environment with pixels."""
    protocol: Protocol = "classic"
    """`classic` or `v5`."""
    backbone: str = "nature"
    """A fresh backbone by name, or a checkpoint whose backbone to start from: any task's, or an agent's."""
    freeze: bool = False
    """Leave the backbone as it is."""
    learning_rate: float | None = None
    """SB3's zoo's when not given: 7e-4 for a2c, 1e-4 for dqn; for ppo 2.5e-4 that falls to 0, as its clipping does,
    which is made for 10 million steps. Given, both stay: a ppo of 100,000 steps learns more at 5e-4."""
    tracked: TrackingConfig = field(default_factory=TrackingConfig)
    total_steps: int = 1_000_000
    """Where the run ends."""
    num_envs: int = 8
    """Environments stepped side by side."""
    seed: int = 0
    """Of weights, exploration and games."""
    device: Device = "auto"
    """`auto` takes CUDA where there is one, else the CPU."""
    num_threads: int = 0
    """CPU threads; 0 takes the cores there are."""
    checkpoint_every_steps: int = 50_000
    """Steps between checkpoints; 0 leaves only those at a stop and at the end."""
    checkpoints_kept: int = 2
    """Newest checkpoints that stay."""
    evaluate_every_steps: int = 50_000
    """Steps between evaluations; 0 evaluates only at the end."""
    evaluation_episodes: int = 10
    """Whole games an evaluation plays; the one at the end three times as many."""
    evaluation_epsilon: float = 0.01
    """Share of random actions while evaluating."""
    run_name: str | None = None
    """Name of the run; algorithm, game, seed and time when not given."""
    out: Path | None = None
    """The run's folder; `runs/out/<run name>` when not given."""

    def __post_init__(self) -> None:
        """Raise ConfigError, in words that say what to do, where a value cannot be meant."""
        checks = [
            (
                min(self.total_steps, self.num_envs, self.checkpoints_kept, self.evaluation_episodes) >= 1,
                "--total-steps, --num-envs, --checkpoints-kept and --evaluation-episodes must be at least 1",
            ),
            (
                self.algorithm != "dqn" or self.num_envs % 4 == 0 or 4 % self.num_envs == 0,
                f"--num-envs {self.num_envs} of a dqn must be 1, 2 or a multiple of 4: it makes one update for 4 steps",
            ),
            (
                min(self.checkpoint_every_steps, self.evaluate_every_steps, self.num_threads, self.seed) >= 0,
                "--checkpoint-every-steps, --evaluate-every-steps, --num-threads and --seed must be 0 or above",
            ),
            (
                self.learning_rate is None or 0 < self.learning_rate < math.inf,
                f"--learning-rate {self.learning_rate} must be above 0",
            ),
            (
                0 <= self.evaluation_epsilon <= 1,
                f"--evaluation-epsilon {self.evaluation_epsilon} must lie between 0 and 1",
            ),
        ]
        require(checks)

    @property
    def env(self) -> EnvConfig:
        """The game and its rules."""
        return EnvConfig(self.game, protocol=self.protocol)

    @property
    def group(self) -> str:
        """What runs that differ in the seed alone have in common."""
        return f"{self.algorithm}-{self.game}"


@dataclass(frozen=True)
class ResumeRun:
    """Go on with a run where it stopped, under the same configuration and the same W&B run."""

    resume: Path
    """The run's folder."""
    device: Device | None = None
    """Another device."""
    tracking: Tracking | None = None
    """Another tracker."""


@dataclass(frozen=True)
class ResumeArgs(ResumeRun):
    """Go on with a run where it stopped, under the same configuration and the same W&B run."""

    total_steps: int | None = None
    """A new end, whatever score was to stop it before. A learning rate that falls towards the end is higher when the
    run goes on than when it stopped."""


def to_json(config: Any) -> dict[str, Any]:
    """Return a config as JSON takes it, but for `out`: a run's folder may be moved, and says where it is by itself."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name != "out"}


def train_config(plain: dict[str, Any]) -> TrainConfig:
    """Return the config that `to_json` gave, without options of a task beside play where there is none.

    Their defaults may have changed since.

    Raises:
        ValueError: a field is unknown, or its value cannot be meant.
    """
    if not plain.get("auxiliary", {}).get("task"):
        plain = plain | {"auxiliary": {}}
    config: TrainConfig = from_json(TrainConfig, plain)
    return config


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
    try:
        return kind(**values)
    except ConfigError as error:
        raise ValueError(str(error)) from error
