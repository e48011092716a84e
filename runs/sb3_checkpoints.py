"""An SB3 agent's checkpoint: what acting needs in our own format, and SB3's own file beside it.

config.json            configuration, backbone, shapes, steps, versions
weights.safetensors    the network: all that acting needs
model.zip              SB3's own, which going on needs; it holds pickles, and nothing but --resume opens it
"""

from functools import partial
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from agents.sb3 import SB3Player, load_weights, untrained, weights_of
from runs import machine
from runs.checkpoints import (
    CheckpointError,
    find_checkpoint,
    load_tensors,
    read_config,
    save_tensors,
    sync,
    write_about,
)
from runs.commands import first_line
from runs.config import SB3Config, from_json
from runs.perception_checkpoints import make_backbone

FORMAT = "saccade-sb3-1"


def write_sb3(folder: Path, model: BaseAlgorithm, config: SB3Config, about: dict[str, Any]) -> None:
    """Write the network, and SB3's own file beside it."""
    save_tensors(folder / "weights.safetensors", weights_of(model))
    shapes = {"shape": list(model.observation_space.shape or ()), "num_actions": int(model.action_space.n)}  # type: ignore[attr-defined]
    write_about(folder, FORMAT, config, shapes | about)
    model.save(folder / "model.zip")
    sync(folder / "model.zip")


def load_config(checkpoint: Path) -> tuple[SB3Config, dict[str, Any]]:
    """Return the run's configuration and all that `config.json` says.

    Raises:
        CheckpointError: it is missing, damaged, or of another format.
    """
    return read_config(checkpoint, FORMAT, partial(from_json, SB3Config))


def load_sb3(path: Path, device: str = "auto") -> tuple[SB3Player, SB3Config]:
    """Return what SB3 trained, ready to play, and its configuration; no pickle is opened.

    Raises:
        ValueError: the checkpoint is missing, damaged or of another kind, or there is no such device.
    """
    checkpoint = find_checkpoint(path)
    config, about = load_config(checkpoint)
    try:
        channels, height, width = about["shape"]
        _, backbone = make_backbone(about["backbone"], channels)
        model = untrained(
            config.algorithm, about["num_actions"], backbone, (height, width), machine.choose_device(device)
        )
        load_weights(model, load_tensors(checkpoint / "weights.safetensors"))
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"'{checkpoint}' does not fit its configuration: {first_line(error)}") from error
    return SB3Player(model), config
