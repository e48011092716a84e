"""Contrast over time: telling what comes a step later from what does not (ST-DIM: Anand et al. 2019)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from perception.backbones import Backbone
from perception.networks import PerceptionNetwork
from perception.pictures import Picture, beside, contact_sheet, shown


class ContrastHead(nn.Module):
    """Two guesses of what each place of the coarsest map holds a step later: from the whole map, and from the place."""

    def __init__(self, backbone: Backbone, size: tuple[int, int], width: int = 256) -> None:
        super().__init__()
        channels, (height, line) = backbone.stages[-1].channels, backbone.map_size(*size)
        self.whole = nn.Linear(channels * height * line, width)
        self.from_whole = nn.Linear(width, channels)
        self.from_place = nn.Linear(channels, channels)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the guesses (places, B, C) from the whole and from the place, and the whole in short (B, width)."""
        places = maps[-1].flatten(2).permute(2, 0, 1)
        whole = self.whole(maps[-1].flatten(1))
        return self.from_whole(whole).expand_as(places), self.from_place(places), whole


def info_nce(guesses: Tensor, true: Tensor) -> Tensor:
    """Return how surprising it is, in nats (), that each guess fits its own and none of the batch's others.

    The cross entropy of guesses (P, B, C) against what is true (P, B, C), by their inner products, place by place
    (van den Oord et al. 2018, equation 4).
    """
    with torch.autocast(guesses.device.type, enabled=False):
        scores = torch.einsum("pbc,pdc->pbd", guesses.float(), true.float())
    own = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape[:2])
    return F.cross_entropy(scores.flatten(0, 1), own.flatten())


class Contrast:
    """The task: no labels but the order of time."""

    metric = "loss"

    def make_head(self, backbone: Backbone, size: tuple[int, int], kind: str, dropout: float) -> nn.Module:  # noqa: ARG002
        """Return a fresh head."""
        return ContrastHead(backbone, size)

    def loss(self, network: PerceptionNetwork, images: Tensor, targets: Tensor) -> Tensor:
        """Return the mean `info_nce` of both guesses; `targets` are the images (B, C, H, W) a step later."""
        from_whole, from_place, _ = network(images)
        later = network.see(targets)[-1].flatten(2).permute(2, 0, 1)
        return 0.5 * (info_nce(from_whole, later) + info_nce(from_place, later))

    def guess_loss(self, batch_size: int) -> float:
        """Return log B: any of the batch may be it."""
        return math.log(batch_size)

    def answer(self, network: PerceptionNetwork, images: Tensor) -> Tensor:
        """Return each image in short, (B, width) float."""
        return network(images)[2].float()

    def measure(self, answers: Tensor, targets: Tensor) -> dict[str, float]:
        """Nothing but the loss tells."""
        raise NotImplementedError

    def majority(self, targets: Tensor) -> Tensor:
        """Nobody guesses blindly here."""
        raise NotImplementedError

    def words(self, answer: Sequence[float]) -> str:
        """Say how much there is of it: all that words can."""
        return f"{np.linalg.norm(answer):.1f} long"

    def picture(
        self,
        network: PerceptionNetwork,  # noqa: ARG002
        images: NDArray[np.uint8],
        answers: Tensor,
        targets: Tensor | None = None,  # noqa: ARG002
    ) -> Picture:
        """Draw images (B, C, H, W), below each the one of the others that is most like it."""
        alike = F.normalize(answers) @ F.normalize(answers).T - 2 * torch.eye(len(answers))
        nearest = alike.argmax(dim=1).tolist()
        given = [(shown(image), f"picture {i}") for i, image in enumerate(images, start=1)]
        return contact_sheet(beside(given, [(shown(images[i]), f"nearest: {i + 1}") for i in nearest]))
