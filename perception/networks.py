"""A backbone with a task's head on it, and what every task has."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.backbones import Backbone
from perception.pictures import Picture


class PerceptionNetwork(nn.Module):
    """Images uint8 or float (B, C, H, W) in; what the head makes of the backbone's maps out."""

    def __init__(self, backbone: Backbone, head: nn.Module, *, frozen: bool = False) -> None:
        """With `frozen` the backbone's weights stay as they are."""
        super().__init__()
        self.backbone, self.head, self.frozen = backbone, head, frozen
        if frozen:
            backbone.requires_grad_(False)

    def see(self, images: Tensor) -> list[Tensor]:
        """Return the backbone's maps; a frozen one passes gradients on to images that ask for them, and keeps none."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and (images.requires_grad or not self.frozen)):
            return self.backbone(images)

    def forward(self, images: Tensor) -> Any:
        """Return what the head makes of the maps: a tensor, or several."""
        return self.head(self.see(images))

    def trained(self) -> Iterator[nn.Parameter]:
        """Yield the weights that training moves."""
        return (weight for weight in self.parameters() if weight.requires_grad)


LOWER_IS_BETTER = ("loss", "frechet")
"""Metrics whose least value is the best; a blind guess has no such."""


class Task(Protocol):
    """What the loop in `runs/train_perception.py` knows of a task. B images are uint8 or float (B, C, H, W)."""

    metric: str
    """The metric that says which checkpoint is best; `loss` where nothing else tells."""

    def make_head(self, backbone: Backbone, size: tuple[int, int], kind: str, dropout: float) -> nn.Module:
        """Return a fresh head of this kind for images of `size` (H, W)."""
        ...

    def loss(self, network: PerceptionNetwork, images: Tensor, targets: Tensor) -> Tensor:
        """Return what training makes smaller, ()."""
        ...

    def guess_loss(self, batch_size: int) -> float | None:
        """Return the loss of one who knows nothing and says so; None where theory does not tell."""
        ...

    def answer(self, network: PerceptionNetwork, images: Tensor) -> Tensor:
        """Return what the network says of each image, (B, …)."""
        ...

    def measure(self, answers: Tensor, targets: Tensor) -> dict[str, float]:
        """Return the metrics of a split by name."""
        ...

    def majority(self, targets: Tensor) -> Tensor:
        """Return what a blind guess says of every image, given the training split's targets."""
        ...

    def words(self, answer: Any) -> str:
        """Say one image's answer, a flat list of numbers, in words."""
        ...

    def picture(
        self, network: PerceptionNetwork, images: NDArray[np.uint8], answers: Tensor, targets: Tensor | None = None
    ) -> Picture:
        """Draw images with what is said of them and, where it is known, what is true."""
        ...
