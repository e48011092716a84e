"""A perception task's checkpoint: the network and what its answers mean, and what learning on needs.

config.json            configuration, backbone, task, names of its classes, updates, versions
weights.safetensors    backbone and head
learner.safetensors    the optimizer's moments
state.json             counters and the best score so far
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from envs.labels.captions import facts, share_true
from envs.labels.games import LABELS
from perception.autoencoding import Autoencoding
from perception.backbones import BACKBONES, Backbone, draw_weights
from perception.captioning import Captioning
from perception.classification import Classification
from perception.contrast import Contrast
from perception.gan import GAN, Judge
from perception.networks import PerceptionNetwork, Task
from perception.segmentation import Segmentation
from runs import machine
from runs.checkpoints import (
    CheckpointError,
    find_checkpoint,
    load_backbone_weights,
    load_tensors,
    read_config,
    save_tensors,
    write_about,
)
from runs.commands import first_line
from runs.perception_config import HEADS, PerceptionConfig, perception_config

FORMAT = "saccade-perception-1"


def make_backbone(name_or_checkpoint: str, channels: int) -> tuple[str, Backbone]:
    """Return a backbone and its name: a fresh one by name, or a checkpoint's, for images of `channels` channels.

    Raises:
        ValueError: it is neither a name nor a checkpoint.
    """
    if name_or_checkpoint in BACKBONES:
        backbone = BACKBONES[name_or_checkpoint](channels)  # type: ignore[call-arg]
        draw_weights(backbone)
        return name_or_checkpoint, backbone
    name, weights = load_backbone_weights(name_or_checkpoint, channels)
    backbone = BACKBONES[name](channels)  # type: ignore[call-arg]
    backbone.load_state_dict(weights)
    return name, backbone


def smallest_image(name_or_checkpoint: str) -> int:
    """Return the least height and width that a backbone, named as for `make_backbone`, takes."""
    return make_backbone(name_or_checkpoint, 1)[1].minimum_size


def make_task(config: PerceptionConfig, names: dict[str, list[str]], pixels: list[int] | None) -> Task:
    """Return the task; `pixels` of each class is what segmentation balances its loss by."""
    if config.task == "classification":
        # What pictures show is one class, which has no neighbours; a game's variables are numbers.
        return Classification(names, 0.0 if "class" in names else config.label_spread)
    if config.task == "captioning":
        phrases = LABELS[names["game"][0]].phrases if "game" in names else None
        judge = None if phrases is None else lambda said, true: share_true(facts(phrases, said), facts(phrases, true))
        return Captioning(names["words"], config.beam_width, judge)
    if config.task == "autoencoding":
        return Autoencoding(names.get("classes", []), config.motion_weight, config.latent_size)
    if config.task == "contrast":
        return Contrast()
    if config.task == "gan":
        # A frozen discriminator stays as it is.
        normalized = config.spectral_norm and not config.freeze
        return GAN(config.latent_size, normalized, config.warm_up_updates, make_judge(config.judge))
    return Segmentation(names["classes"], torch.tensor(pixels))


def make_judge(checkpoint: str | None) -> Judge:
    """Return the judge of what is drawn: a classification's checkpoint, or random weights.

    Raises:
        ValueError: it is no classification of pictures into one class each.
    """
    if checkpoint is None:
        return Judge(None, [], None)
    if not Path(checkpoint).exists():
        raise CheckpointError(f"--judge '{checkpoint}' is not there: a gan is measured by it")
    network, task, _, about = load_perception(Path(checkpoint))
    if not isinstance(task, Classification) or list(task.outputs) != ["class"]:
        raise CheckpointError(f"--judge '{checkpoint}' does not tell of what class a picture is: train one that does")
    return Judge(network, task.outputs["class"], tuple(about["size"]))


def make_network(task: Task, backbone: Backbone, size: tuple[int, int], config: PerceptionConfig) -> PerceptionNetwork:
    """Return backbone and fresh head; a frozen backbone's classification is a linear probe unless a head is named."""
    kind = config.head
    if kind == "auto":
        kind = "linear" if config.freeze and config.task == "classification" else HEADS[config.task][0]
    head = task.make_head(backbone, size, kind, config.dropout)
    return PerceptionNetwork(backbone, head, frozen=config.freeze)


def write_network(folder: Path, network: PerceptionNetwork, config: PerceptionConfig, about: dict[str, Any]) -> None:
    """Write the network, and `about`: its backbone's name, channels, size, names, updates and W&B run."""
    save_tensors(folder / "weights.safetensors", network.state_dict())
    write_about(folder, FORMAT, config, about)


def load_config(checkpoint: Path) -> tuple[PerceptionConfig, dict[str, Any]]:
    """Return the run's configuration and all that `config.json` says.

    Raises:
        CheckpointError: it is missing, damaged, or of another format.
    """
    return read_config(checkpoint, FORMAT, perception_config)


def load_perception(
    path: Path, device: str = "auto", *, judged: bool = False
) -> tuple[PerceptionNetwork, Task, PerceptionConfig, Any]:
    """Return the network of a checkpoint or run folder, its task, its configuration and what else it says of itself.

    A gan whose judge is gone can still draw, unless it is to be `judged`.

    Raises:
        ValueError: the checkpoint is missing, damaged or of another kind, or there is no such device.
    """
    checkpoint = find_checkpoint(path)
    config, about = load_config(checkpoint)
    if config.judge and not judged and not Path(config.judge).exists():
        config = replace(config, judge=None)
    try:
        task = make_task(config, about["names"], about["pixels"])
        _, backbone = make_backbone(about["backbone"], about["channels"])
        network = make_network(task, backbone, tuple(about["size"]), config)
        network.load_state_dict(load_tensors(checkpoint / "weights.safetensors"))
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"'{checkpoint}' does not fit its configuration: {first_line(error)}") from error
    return network.to(machine.choose_device(device)).eval(), task, config, about
