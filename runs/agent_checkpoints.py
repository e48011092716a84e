"""An agent's checkpoint: weights and configuration, and what learning on needs, the replay included.

config.json            configuration, shapes, versions, steps
weights.safetensors    the network: all that acting needs
learner.safetensors    target network, optimizer, generators, prepared batches
state.json             counters, environments, and the replay's segments in order
replay/*.safetensors   rows of the replay, in files that the next checkpoint links
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.auxiliary import Auxiliary
from agents.dqn import DQN
from agents.replay import FrameReplay
from perception.backbones import with_prefix
from runs import machine
from runs.checkpoints import (
    CheckpointError,
    find_checkpoint,
    link,
    load_json,
    load_tensors,
    read_config,
    save_json,
    save_tensors,
    sync,
    write_about,
)
from runs.config import TrainConfig, train_config

FORMAT = "saccade-dqn-1"
SEGMENT_ROWS = 16_384  # of the replay, to a file: 116 MB, so that writing one takes little memory


class Segment(NamedTuple):
    """A file with rows of the replay, and up to where it goes in each ring."""

    file: str
    stop: list[int]


def write_learner(
    folder: Path,
    agent: DQN,
    replay: FrameReplay,
    learner: dict[str, Tensor],
    state: Any,
    previous: Path | None,
    segments: list[Segment],
) -> list[Segment]:
    """Write into a checkpoint what learning on needs; return the segments that the replay now lies in.

    Args:
        folder: the checkpoint, whose name says how many steps were made.
        agent: whose optimizer, target network and generator are kept.
        replay: rows that no earlier checkpoint has are written, the others linked.
        learner: further tensors to keep.
        state: further JSON to keep.
        previous: the checkpoint before.
        segments: those that the replay lay in there.
    """
    (folder / "replay").mkdir()
    if previous is None or not all((previous / "replay" / segment.file).exists() for segment in segments):
        segments = []  # somebody has made room: what they held is written again
    written = replay.rows_written()
    oldest = written - replay.rows
    kept = [segment for segment in segments if (np.array(segment.stop) > oldest).any()]
    for segment in kept:
        assert previous is not None  # or there are none
        link(previous / "replay" / segment.file, folder / "replay" / segment.file)
    done = np.array(segments[-1].stop) if segments else np.zeros_like(written)
    while (done < written).any():
        rows = replay.segment(done, SEGMENT_ROWS // replay.num_envs + 1)
        done = rows["stop"].numpy()
        segment = Segment(f"{written.sum()}-{len(kept)}.safetensors", done.tolist())
        save_tensors(folder / "replay" / segment.file, rows)
        kept.append(segment)
    tensors = {f"agent.{name}": value for name, value in agent.state_dict().items()}
    tensors |= {f"replay.{name}": value for name, value in replay.state_dict().items()}
    save_tensors(folder / "learner.safetensors", tensors | learner)
    save_json(folder / "state.json", {"segments": kept, "loop": state})
    sync(folder / "replay")
    return kept


def write_weights(folder: Path, config: TrainConfig, agent: DQN, about: dict[str, Any], bf16: bool = False) -> None:
    """Write what acting needs: the weights, the configuration, and the shapes to build the network with."""
    weights = {name: w.to(torch.bfloat16 if bf16 else w.dtype) for name, w in agent.weights().items()}
    save_tensors(folder / "weights.safetensors", weights)
    shapes = {"num_actions": agent.num_actions, "frame_shape": agent.frame_shape, "stack": agent.stack}
    write_about(folder, FORMAT, config, {"shapes": shapes} | about)


def load_config(checkpoint: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """Return the run's configuration and all that `config.json` says.

    Raises:
        CheckpointError: it is missing, damaged, or of another format.
    """
    return read_config(checkpoint, FORMAT, train_config)


def load_agent(path: Path | str, device: str = "auto") -> tuple[DQN, TrainConfig]:
    """Return the agent of a checkpoint or run folder, ready to `act`, and the configuration it was trained with.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or does not fit.
        ValueError: there is no such device.
    """
    checkpoint = find_checkpoint(Path(path))
    config, about = load_config(checkpoint)
    device = machine.choose_device(device)
    try:
        agent = make_agent(config, about["shapes"], device)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"'{checkpoint}/config.json' is damaged, or of another version: {error}") from error
    load_weights(checkpoint, agent)
    return agent, config


def make_agent(config: TrainConfig, shapes: dict[str, Any], device: str, auxiliary: Auxiliary | None = None) -> DQN:
    """Return a fresh agent for frames and actions of these shapes, with a task beside play if it is to learn one."""
    return DQN(
        config.agent,
        shapes["num_actions"],
        frame_shape=tuple(shapes["frame_shape"]),
        stack=shapes["stack"],
        device=device,
        precision=machine.choose_precision(config.precision, device),
        seed=config.seed,
        auxiliary=auxiliary,
    )


def load_weights(checkpoint: Path, agent: DQN) -> None:
    """Load the network's weights.

    Raises:
        CheckpointError: they are missing, damaged, or of another backbone, head or number of actions.
    """
    weights = load_tensors(checkpoint / "weights.safetensors")
    expected = {name: tuple(weight.shape) for name, weight in agent.weights().items()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"'{checkpoint}' does not fit its configuration or this game: {name} is {found.get(name, 'absent')}, "
                f"a network with backbone {agent.config.backbone}, dueling {agent.config.dueling} and "
                f"{agent.num_actions} actions has {expected.get(name, 'none')}"
            )
    agent.load_weights(weights)


def load_learner(checkpoint: Path, agent: DQN, replay: FrameReplay) -> tuple[dict[str, Tensor], Any, list[Segment]]:
    """Restore the agent's learning state and the replay; return the further tensors, the JSON and the segments.

    Raises:
        CheckpointError: the checkpoint holds weights alone, or is damaged.
    """
    if not (checkpoint / "learner.safetensors").exists():
        raise CheckpointError(f"'{checkpoint}' holds weights alone and cannot be resumed; resume the run's own folder")
    load_weights(checkpoint, agent)
    saved, tensors = load_json(checkpoint / "state.json"), load_tensors(checkpoint / "learner.safetensors")
    agent.load_state_dict(with_prefix(tensors, "agent."))
    replay.load_state_dict(with_prefix(tensors, "replay."))
    segments = [Segment(*segment) for segment in saved["segments"]]
    for segment in segments:
        replay.load_segment(load_tensors(checkpoint / "replay" / segment.file))
    rest = {name: value for name, value in tensors.items() if not name.startswith(("agent.", "replay."))}
    return rest, saved["loop"], segments
