"""What can be looked into of any checkpoint: its backbone, the numbers that its head gives, and pictures it knows."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.dqn import DQN
from agents.sb3 import SB3Player
from perception.backbones import Backbone
from perception.classification import Classification
from perception.datasets import DatasetError
from perception.gan import GAN
from perception.networks import PerceptionNetwork, Task
from perception.segmentation import Segmentation
from runs import machine
from runs.checkpoints import format_of
from runs.datasets import open_dataset
from runs.evaluate import load_player
from runs.frames import FramesError
from runs.perception_checkpoints import load_perception, make_backbone
from runs.playing import play_episode, play_randomly

PICTURES, EPSILON = 400, 0.05  # looked at, of a data set; share of random actions, so that no game is like the last


class Subject(NamedTuple):
    """A network to be looked into."""

    backbone: Backbone
    shape: tuple[int, int, int]  # (C, H, W) of its images
    answers: list[str]  # names of the numbers that the head gives
    ask: Callable[[Tensor], Tensor]  # images in [0, 1] (B, C, H, W) to those numbers (B, answers), with a gradient
    images: Tensor  # (N, C, H, W) uint8, that it knows; N is 0 where there are none
    plays: bool  # whether those are of one game


def load_subject(checkpoint: Path, game: str | None, steps: int, seed: int, device: str) -> Subject:
    """Return what can be looked into; an agent plays `steps` of its own game for the images.

    Raises:
        ValueError: the checkpoint cannot be read, or `game` is named for an agent, which has its own.
    """
    if format_of(checkpoint) == "saccade-perception-1":
        return _perception(checkpoint, game, steps, seed, device)
    if game is not None:
        raise ValueError("--game goes with a perception task's checkpoint; an agent has its game with it")
    agent, env = load_player(checkpoint, None, device)
    assert isinstance(agent, DQN | SB3Player)
    played = play_episode(agent, env, seed, EPSILON, steps)
    network, device = agent.differentiable(), machine.choose_device(device)
    _, backbone = make_backbone(str(checkpoint), played.frames.shape[1])
    values = [] if agent.draws else ["value"]

    def ask(images: Tensor) -> Tensor:
        preferred = network(images)
        advantage = preferred - preferred.mean(dim=1, keepdim=True)
        return torch.cat([preferred.amax(dim=1, keepdim=True), advantage], dim=1) if values else advantage

    images = torch.from_numpy(_begun(played.frames)).to(device)
    backbone = backbone.to(device).requires_grad_(False)
    _, channels, height, width = images.shape
    return Subject(backbone, (channels, height, width), values + played.action_names, ask, images, True)


def _perception(checkpoint: Path, game: str | None, steps: int, seed: int, device: str) -> Subject:
    """Return a task's network, with images of its data where they are still there, or of a game."""
    network, task, config, about = load_perception(checkpoint, device)
    network.requires_grad_(False)
    shape = (about["channels"], *about["size"])
    images = np.zeros((0, *shape), np.uint8)
    if game is not None:
        images = _begun(np.stack([frames for _, frames in play_randomly(game, "classic", seed, steps, 1)]))
        if images.shape[1:] != shape:
            raise ValueError(f"'{checkpoint}' looks at images of {shape}, --game {game} shows {images.shape[1:]}")
    elif config.data == "digits" or Path(config.data).exists():
        try:
            data = open_dataset(config.task, config.data, config.game, about["size"][0], config.split_seed)
            images = data.images(np.sort(data.splits["test"])[:: -(-len(data.splits["test"]) // PICTURES)])
        except (DatasetError, FramesError) as error:  # it has changed since: what is drawn needs none of it
            print(f"warning: no pictures that it knows are shown beside: {error}", file=sys.stderr)
    names, ask = answers_of(task, network)
    seen = torch.from_numpy(images).to(machine.choose_device(device))
    # Of several games no screen stands still.
    plays = game is not None or (config.game != "all" and (Path(config.data) / "card.json").exists())
    return Subject(network.backbone, shape, names, ask, seen, plays and len(images) > 0)


def _begun(stacks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the stacks (N, C, H, W) without a black frame from before the episode, which excites like nothing else."""
    begun = np.all(stacks.any(axis=(2, 3)), axis=1)
    return stacks[begun] if begun.any() else stacks


def answers_of(task: Task, network: PerceptionNetwork) -> tuple[list[str], Callable[[Tensor], Tensor]]:
    """Return the names of the numbers that a task's head gives, and what gives them: (B, C, H, W) to (B, names).

    Of a classification the logit of each class, of a segmentation its mean over the pixels, of both less the mean of
    the others; of a gan the logit of being real; nothing of other tasks, whose answers are not numbers with a name.
    """
    if isinstance(task, Classification):
        outputs = task.outputs.items()
        names = [value if name == "class" else f"{name}={value}" for name, values in outputs for value in values]

        def ask(images: Tensor) -> Tensor:
            logits = network(images).float().split(task.class_counts, dim=1)
            return torch.cat([part - part.mean(dim=1, keepdim=True) for part in logits], dim=1)

    elif isinstance(task, Segmentation):
        names = task.names

        def ask(images: Tensor) -> Tensor:
            logits = network(images).float().mean(dim=(2, 3))
            return logits - logits.mean(dim=1, keepdim=True)

    elif isinstance(task, GAN):
        names = ["real"]

        def ask(images: Tensor) -> Tensor:
            return network(images)[:, None]

    else:
        names = []

        def ask(images: Tensor) -> Tensor:
            return images.new_zeros(len(images), 0)

    return names, ask
