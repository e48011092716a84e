"""What the auxiliary task of an agent's run is shown, and where it is kept: as any perception task's checkpoint."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agents.auxiliary import Auxiliary
from agents.updates import PreparedBatch
from perception.backbones import Backbone
from perception.networks import PerceptionNetwork
from runs.config import FROM_REPLAY, TrainConfig
from runs.datasets import open_dataset
from runs.frames import read_card
from runs.perception_checkpoints import make_backbone, make_network, make_task, write_network
from runs.perception_config import PerceptionConfig
from runs.perception_run import measure_split


class AuxiliaryTask:
    """A task with its head, and what it learns from: a recording, or what the agent replays."""

    def __init__(self, config: TrainConfig, stack: int, frame_shape: tuple[int, int]) -> None:
        """Make the head and open the recording that `config.auxiliary` names, if any.

        Raises:
            ValueError: there is no such recording, or it is not what this agent sees.
        """
        chosen = config.auxiliary
        assert chosen.task is not None
        self._settings, self._seed = chosen, config.seed
        self.config = PerceptionConfig(
            task=chosen.task,
            data=chosen.data or "replay",
            game=config.env.game,
            # It reads what the agent reads, the coarsest map. With skips the finer ones do the task's work, and on Pong
            # the coarsest dies within 300 updates.
            head="decoder" if chosen.task == "segmentation" else "auto",
            backbone=config.agent.backbone,
            seed=config.seed,
            device=config.device,
            precision=config.precision,
            tracked=config.tracked.sent_to("none"),
        )
        self.data = None
        names, pixels = {}, None
        if chosen.task not in FROM_REPLAY:
            assert chosen.data is not None
            read_card(Path(chosen.data))  # other kinds of data show no game
            self.data = open_dataset(chosen.task, chosen.data, config.env.game, frame_shape[0], self.config.split_seed)
            names = self.data.names
            pixels = self.data.pixels() if chosen.task == "segmentation" else None
        self._about = {"channels": stack, "size": frame_shape, "names": names, "pixels": pixels}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            task = make_task(self.config, names, pixels)
            _, backbone = make_backbone(config.agent.backbone, stack)
            head = make_network(task, backbone, frame_shape, self.config).head
        self.beside = Auxiliary(task, head, chosen.weight)

    def shown(self, update: int, prepared: PreparedBatch) -> tuple[Tensor, Tensor]:
        """Return the images and targets of an update: from all over the recording, or of the batch replayed.

        Without labels a state is learnt with the one that the return's window reached, which after an end is itself.
        """
        count = self._settings.batch_size
        if self.data is None:
            return prepared.frames_tm1[:count], prepared.frames_t[:count]
        return self.data.batch(update, count, self._seed, prepared.frames_tm1.device)

    def score(self, backbone: Backbone) -> float | None:
        """Return the task's metric on the validation split; None without a recording."""
        if self.data is None or self.beside.task.metric == "loss":
            return None
        network = PerceptionNetwork(backbone, self.beside.head)
        measured = measure_split(network, self.beside.task, self.data, "validation", self.config)[1]
        network.train()
        return measured[self.beside.task.metric]

    def write(self, folder: Path, backbone: Backbone, about: dict[str, Any]) -> None:
        """Write backbone and head as a perception task's checkpoint."""
        network: nn.Module = PerceptionNetwork(backbone, self.beside.head)
        write_network(folder, network, self.config, self._about | {"backbone": self.config.backbone} | about)
