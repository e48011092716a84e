"""What can be chosen about a run. Imports neither torch nor SB3, so that `--help` is quick."""

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from agents.config import DQNConfig, require
from envs.config import EnvConfig, Protocol

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
    wandb_checkpoints: bool = False
    """Send W&B the weights of the newest checkpoint and the best one, when the run ends or is stopped."""

    def __post_init__(self) -> None:
        """Raise ValueError where what is to be sent has nowhere to go."""
        if self.wandb_checkpoints and self.tracking != "wandb":
            raise ValueError(f"wandb_checkpoints goes with tracking wandb, not {self.tracking}")

    def sent_to(self, tracking: Tracking | None) -> "TrackingConfig":
        """Return the same for another tracker; this one when there is none."""
        tracking = tracking or self.tracking
        checkpoints = self.wandb_checkpoints and tracking == "wandb"
        return dataclasses.replace(self, tracking=tracking, wandb_checkpoints=checkpoints)


FROM_REPLAY = ("autoencoding", "contrast")
"""Tasks that need no labels: beside play they learn from what the agent replays."""


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
    weight: Annotated[float, tyro.conf.arg(name="auxiliary-weight")] = 0.1
    """Of the task's loss beside the agent's."""
    batch_size: Annotated[int, tyro.conf.arg(name="auxiliary-batch-size")] = 8
    """Images of the task that an update learns from."""

    def __post_init__(self) -> None:
        """Raise ValueError, in words that say what to do, where a value cannot be meant."""
        labels = self.task is not None and self.task not in FROM_REPLAY
        unused = self.task is None and (self.weight, self.batch_size) != (0.1, 8)
        checks = [
            (not unused, "auxiliary_weight and auxiliary_batch_size go with --auxiliary TASK"),
            (
                not labels or self.data is not None,
                f"auxiliary {self.task} needs labels: give --auxiliary-data, a recording of this game "
                "(python -m runs.record_frames)",
            ),
            (
                labels or self.data is None,
                f"auxiliary_data goes with a task that needs labels, auxiliary {self.task} takes none",
            ),
            (self.weight > 0, f"auxiliary_weight {self.weight} must be above 0"),
            (self.batch_size >= 1, f"auxiliary_batch_size {self.batch_size} must be at least 1"),
            (
                self.task != "contrast" or self.batch_size > 1,
                "auxiliary contrast needs an auxiliary_batch_size above 1",
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
    diagnostics: bool = True
    """Whether each row comes with how the layers do (`layers.csv`) and what followed the values, and with warnings."""
    check: bool = False
    """Train nothing: check data, network and loss, and say what holds (exit code 0) or does not (1)."""
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
                self.auxiliary.task not in FROM_REPLAY or self.auxiliary.batch_size <= self.agent.batch_size,
                f"auxiliary_batch_size {self.auxiliary.batch_size} is more than the batch_size "
                f"{self.agent.batch_size} that is replayed",
            ),
            (
                self.agent.target_update_steps >= self.num_envs,
                f"target_update_steps {self.agent.target_update_steps} is less than one step of all "
                f"{self.num_envs} environments: raise it or lower num_envs",
            ),
        ]
        require(checks)

    @property
    def group(self) -> str:
        """What runs that differ in the seed alone have in common."""
        return f"{self.preset}-{self.env.game}"


HEADS = {
    "classification": ("mlp", "linear"),
    "segmentation": ("skips", "decoder"),
    "captioning": ("attention", "gru", "lstm"),
    "autoencoding": ("plain", "variational"),
    "contrast": ("st-dim",),
    "gan": ("dcgan", "vae-gan"),
}
"""Kinds of head of each task, the usual one first."""


OPTIONS_OF = {
    "label_spread": ("classification",),
    "beam_width": ("captioning",),
    "latent_size": ("autoencoding", "gan"),
    "motion_weight": ("autoencoding",),
    "judge": ("gan",),
    "warm_up_updates": ("gan",),
    "spectral_norm": ("gan",),
}
"""Options that only some tasks have."""

ADAM = {"gan": (5e-4, 0.5)}
ADAM_USUAL = (1e-3, 0.9)
"""AdamW's learning rate and first beta; of a gan the beta of Radford et al. 2016, section 3."""


@dataclass(frozen=True)
class PerceptionConfig:
    """A run of one perception task on one data set; `--resume FOLDER` goes on with one.

    Counts are in updates: gradient steps.
    """

    task: tyro.conf.Positional[
        Literal["classification", "segmentation", "captioning", "autoencoding", "contrast", "gan"]
    ]
    """What is learnt: which class or which values of a game's variables; what each pixel shows; a sentence; the picture
    itself; what it looks like a step later; to draw others like it."""
    data: str
    """A recording (python -m runs.record_frames), a folder of pictures, `digits`, or a Hugging Face data set's name."""
    game: str | None = None
    """Of a recording of several games, the one to learn from; the first when not given. `all`: to tell them apart, or
    to draw any of them."""
    backbone: str = "nature"
    """A fresh backbone by name, or a checkpoint whose backbone to start from: any task's, or an agent's."""
    freeze: bool = False
    """Leave the backbone as it is and train the head alone."""
    finetune: bool = False
    """Train the backbone too. This is what happens anyway, unless it is frozen."""
    head: Literal[
        "auto",
        "mlp",
        "linear",
        "skips",
        "decoder",
        "attention",
        "gru",
        "lstm",
        "plain",
        "variational",
        "st-dim",
        "dcgan",
        "vae-gan",
    ] = "auto"
    """Classification: `mlp`, or `linear`, a probe, which a frozen backbone gets. Segmentation: `skips` or `decoder`.
    Captioning: `attention`, `gru` or `lstm`. Autoencoding: `plain` or `variational`. Gan: `dcgan`, or `vae-gan`, for
    pictures of several kinds."""
    tracked: TrackingConfig = field(default_factory=TrackingConfig)
    total_updates: int = 5_000
    """Where the run ends."""
    batch_size: int = 64
    """Images of an update."""
    learning_rate: float | None = None
    """Of AdamW, at its greatest: it rises over the run's first twentieth, then falls to 0 as a cosine. 1e-3 when not
    given, of a gan 5e-4."""
    adam_beta1: float | None = None
    """Of AdamW, how slowly it forgets past gradients: 0.9 when not given, of a gan 0.5."""
    weight_decay: float = 1e-2
    """Of AdamW (Loshchilov & Hutter 2019)."""
    dropout: float = 0.25
    """Share of the units dropped before and after an mlp head's hidden layer."""
    label_spread: float = 0.5
    """Of a game's variables, which are numbers: spread of the bell that is learnt around the true value, whose
    neighbours are nearly as good as it; 0 learns the value alone."""
    beam_width: int = 1
    """Of captions: sentences that are kept at each word; 1 takes the likeliest word (greedy)."""
    latent_size: int = 128
    """Of autoencoding and gan: numbers that a picture goes through, or is drawn from."""
    motion_weight: float = 0.0
    """Of autoencoding: by how much more an error counts where something moves; small things vanish otherwise."""
    judge: str | None = None
    """Of gan: the checkpoint of a classification, in whose features distances are taken and whose classes are counted
    in what is drawn; features of random weights, and no classes, when not given."""
    warm_up_updates: int = 1_000
    """Of a vae-gan: updates at the start in which it learns, as a variational autoencoder, to draw all kinds there
    are."""
    spectral_norm: bool = True
    """Of gan: keep each layer of the discriminator, unless it is frozen, from stretching (Miyato et al. 2018)."""
    augmentation: Literal["auto", "none", "affine"] = "auto"
    """`affine`: each picture turned, moved, scaled and sheared a little. `auto` does so to pictures, not to games."""
    image_size: int = 0
    """Height and width that pictures are brought to; 0 takes 32, or what the backbone needs at least."""
    baselines: bool = True
    """Whether the end tells beside the test figures what a blind guess has and, of a classification of a game's
    variables, a linear probe on a backbone that learnt nothing."""
    seed: int = 0
    """Of weights, order, augmentation, and of a split that nobody made."""
    device: Device = "auto"
    """`auto` takes a GPU when there is one."""
    precision: Precision = "auto"
    """Of forward and backward passes; weights are kept in float32. `auto` takes bf16 where the hardware has it."""
    num_threads: int = 0
    """CPU threads; 0 takes the cores there are."""
    evaluate_every_updates: int = 500
    """Updates between evaluations on the validation split."""
    checkpoint_every_updates: int = 500
    """Updates between checkpoints; 0 leaves only those at a stop and at the end."""
    checkpoints_kept: int = 2
    """Newest checkpoints that stay. The best one's weights stay in `best`."""
    log_every_updates: int = 100
    """Updates between rows of `metrics.csv`."""
    diagnostics: bool = True
    """Whether each row comes with how the layers do (`layers.csv`), and with warnings."""
    check: bool = False
    """Train nothing: check data, network and loss, and say what holds (exit code 0) or does not (1)."""
    run_name: str | None = None
    """Name of the run; task, data, seed and time when not given."""
    out: Path | None = None
    """The run's folder; `runs/out/<run name>` when not given."""

    def __post_init__(self) -> None:
        """Raise ValueError, in words that say what to do, where a value cannot be meant."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        checks = [
            (not (self.freeze and self.finetune), "freeze and finetune exclude each other"),
            (
                self.head in ("auto", *HEADS[self.task]),
                f"head {self.head} is none of {self.task}'s: auto, {', '.join(HEADS[self.task])}",
            ),
            *(
                (
                    self.task in tasks or getattr(self, name) == defaults[name],
                    f"{name} is an option of {' and '.join(tasks)} only",
                )
                for name, tasks in OPTIONS_OF.items()
            ),
            (min(self.total_updates, self.batch_size) >= 1, "total_updates and batch_size must be at least 1"),
            (
                self.task == "classification" or self.augmentation != "affine",
                "augmentation affine moves the picture and not what is true of it: use none",
            ),
            (
                self.latent_size >= 1 and self.motion_weight >= 0,
                "latent_size must be at least 1, motion_weight 0 (off) or above",
            ),
            (
                self.head != "vae-gan" or 0 <= self.warm_up_updates < self.total_updates,
                f"warm_up_updates {self.warm_up_updates} must be at least 0, and fewer than total_updates",
            ),
            (self.beam_width >= 1, f"beam_width {self.beam_width} must be at least 1"),
            (
                self.learning_rate is None or self.learning_rate > 0,
                f"learning_rate {self.learning_rate} must be above 0",
            ),
            (
                self.adam_beta1 is None or 0 <= self.adam_beta1 < 1,
                f"adam_beta1 {self.adam_beta1} must be 0 or above, and below 1",
            ),
            (
                self.game != "all" or self.task in ("classification", "gan"),
                "game all goes with classification and gan: the other tasks learn from one",
            ),
            (self.label_spread >= 0, f"label_spread {self.label_spread} must be 0 (off) or above"),
            (self.weight_decay >= 0, f"weight_decay {self.weight_decay} must be 0 or above"),
            (0 <= self.dropout < 1, f"dropout {self.dropout} must lie between 0 and 1"),
            (self.image_size >= 0 and self.num_threads >= 0, "image_size and num_threads must be 0 (chosen) or above"),
            (
                min(self.evaluate_every_updates, self.checkpoints_kept, self.log_every_updates) >= 1,
                "evaluate_every_updates, checkpoints_kept and log_every_updates must be at least 1",
            ),
            (self.checkpoint_every_updates >= 0, "checkpoint_every_updates must be 0 (off) or above"),
            (self.seed >= 0, f"seed {self.seed} must be 0 or above"),
        ]
        require(checks)

    @property
    def group(self) -> str:
        """What runs that differ in the seed alone have in common."""
        return f"{self.task}-{self.game or Path(self.data).name}"


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
    tracked: TrackingConfig = field(default_factory=TrackingConfig)
    total_steps: int = 1_000_000
    """Where the run ends."""
    num_envs: int = 8
    """Environments stepped side by side."""
    seed: int = 0
    """Of weights, exploration and games."""
    device: Device = "auto"
    """`auto` takes a GPU when there is one."""
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
        """Raise ValueError, in words that say what to do, where a value cannot be meant."""
        checks = [
            (
                min(self.total_steps, self.num_envs, self.checkpoints_kept, self.evaluation_episodes) >= 1,
                "total_steps, num_envs, checkpoints_kept and evaluation_episodes must be at least 1",
            ),
            (
                self.algorithm != "dqn" or self.num_envs % 4 == 0 or 4 % self.num_envs == 0,
                f"num_envs {self.num_envs} of a dqn must be 1, 2 or a multiple of 4: it makes one update for 4 steps",
            ),
            (
                min(self.checkpoint_every_steps, self.evaluate_every_steps, self.num_threads, self.seed) >= 0,
                "checkpoint_every_steps, evaluate_every_steps, num_threads and seed must be 0 or above",
            ),
            (
                0 <= self.evaluation_epsilon <= 1,
                f"evaluation_epsilon {self.evaluation_epsilon} must lie between 0 and 1",
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


@dataclass(frozen=True)
class PerceptionResumeArgs:
    """Go on with a perception run where it stopped, under the same configuration and the same W&B run."""

    resume: Path
    """The run's folder."""
    total_updates: int | None = None
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


def perception_config(plain: dict[str, Any]) -> PerceptionConfig:
    """Return the config that `to_json` gave, without options of other tasks, whose defaults may have changed since.

    Raises:
        ValueError: a field is unknown, or its value cannot be meant.
    """
    config: PerceptionConfig = from_json(
        PerceptionConfig,
        {name: value for name, value in plain.items() if plain["task"] in OPTIONS_OF.get(name, (plain["task"],))},
    )
    return config
