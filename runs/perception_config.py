"""What can be chosen about a run of a perception task. Imports no torch, so that `--help` is quick."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from perception.config import require
from runs.config import Device, Precision, ResumeRun, TrackingConfig, from_json

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
    "dropout": ("classification", "captioning"),
    "label_spread": ("classification",),
    "beam_width": ("captioning",),
    "latent_size": ("autoencoding", "gan"),
    "motion_weight": ("autoencoding",),
    "judge": ("gan",),
    "warm_up_updates": ("gan",),
    "spectral_norm": ("gan",),
}
"""Options that only some tasks have."""

DEFAULT_SPREAD = 0.5
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
    """A recording (python -m runs.record_frames), `digits`, a Hugging Face data set's name, or a folder. In
    it are, for classification, a folder of pictures for each class; for segmentation images/ and masks/; for captioning
    pictures and captions.json or captions.jsonl; else pictures. What has no train/ and test/ is split 7 : 1 : 2."""
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
    """Share of the units dropped: of classification before and after an mlp head's hidden layer, of captioning of the
    words heard and of what the next is chosen by."""
    label_spread: float = DEFAULT_SPREAD
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
    """Of weights, order and augmentation."""
    split_seed: int = 0
    """Of which pictures are tested on, where nobody has chosen them: runs whose figures are to be compared, and an eye
    and what is built on it, need the same."""
    device: Device = "auto"
    """`auto` takes CUDA where there is one, else the CPU."""
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
        """Raise ConfigError, in words that say what to do, where a value cannot be meant."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        checks = [
            (not (self.freeze and self.finetune), "--freeze and --finetune exclude each other"),
            (
                self.head in ("auto", *HEADS[self.task]),
                f"--head {self.head} is none of {self.task}'s: auto, {', '.join(HEADS[self.task])}",
            ),
            *(
                (
                    self.task in tasks or getattr(self, name) == defaults[name],
                    f"--{name.replace('_', '-')} is an option of {' and '.join(tasks)} only",
                )
                for name, tasks in OPTIONS_OF.items()
            ),
            (min(self.total_updates, self.batch_size) >= 1, "--total-updates and --batch-size must be at least 1"),
            (self.task != "contrast" or self.batch_size > 1, "contrast needs a --batch-size above 1"),
            (
                self.task == "classification" or self.augmentation != "affine",
                "--augmentation affine moves the picture and not what is true of it: use none",
            ),
            (
                self.latent_size >= 1 and self.motion_weight >= 0,
                "--latent-size must be at least 1, --motion-weight 0 (off) or above",
            ),
            (
                self.head != "vae-gan" or 0 <= self.warm_up_updates < self.total_updates,
                f"--warm-up-updates {self.warm_up_updates} must be at least 0, and fewer than --total-updates",
            ),
            (
                self.head == "vae-gan" or self.warm_up_updates == defaults["warm_up_updates"],
                "--warm-up-updates are a vae-gan's: give --head vae-gan",
            ),
            (self.beam_width >= 1, f"--beam-width {self.beam_width} must be at least 1"),
            (
                self.learning_rate is None or self.learning_rate > 0,
                f"--learning-rate {self.learning_rate} must be above 0",
            ),
            (
                self.adam_beta1 is None or 0 <= self.adam_beta1 < 1,
                f"--adam-beta1 {self.adam_beta1} must be 0 or above, and below 1",
            ),
            (
                self.game != "all" or self.task in ("classification", "gan"),
                "--game all goes with classification and gan: the other tasks learn from one",
            ),
            (self.label_spread >= 0, f"--label-spread {self.label_spread} must be 0 (off) or above"),
            (self.weight_decay >= 0, f"--weight-decay {self.weight_decay} must be 0 or above"),
            (0 <= self.dropout < 1, f"--dropout {self.dropout} must lie between 0 and 1"),
            (
                self.image_size >= 0 and self.num_threads >= 0,
                "--image-size and --num-threads must be 0 (chosen) or above",
            ),
            (
                min(self.evaluate_every_updates, self.checkpoints_kept, self.log_every_updates) >= 1,
                "--evaluate-every-updates, --checkpoints-kept and --log-every-updates must be at least 1",
            ),
            (self.checkpoint_every_updates >= 0, "--checkpoint-every-updates must be 0 (off) or above"),
            (self.seed >= 0, f"--seed {self.seed} must be 0 or above"),
            (self.split_seed >= 0, f"--split-seed {self.split_seed} must be 0 or above"),
        ]
        require(checks)

    @property
    def group(self) -> str:
        """What runs that differ in the seed alone have in common."""
        return f"{self.task}-{self.game or Path(self.data).name}"


@dataclass(frozen=True)
class PerceptionResumeArgs(ResumeRun):
    """Go on with a perception run where it stopped, under the same configuration and the same W&B run."""

    total_updates: int | None = None
    """A new end. The learning rate, which falls towards it, is higher when the run goes on than when it stopped."""


def perception_config(plain: dict[str, Any]) -> PerceptionConfig:
    """Return the config that `to_json` gave, without options of other tasks, whose defaults may have changed since.

    Once a run's seed was that of its split too.

    Raises:
        ValueError: a field is unknown, or its value cannot be meant.
    """
    mine = {name: value for name, value in plain.items() if plain["task"] in OPTIONS_OF.get(name, (plain["task"],))}
    config: PerceptionConfig = from_json(PerceptionConfig, {"split_seed": plain["seed"]} | mine)
    return config
