"""A backbone with a task's head on it."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from perception.backbones import Backbone


class PerceptionNetwork(nn.Module):
    """Images uint8 or float (B, C, H, W) in; what the head makes of the backbone's maps out."""

    def __init__(self, backbone: Backbone, head: nn.Module, *, frozen: bool = False) -> None:
        """With `frozen` the backbone's weights stay as they are."""
        super().__init__()
        self.backbone, self.head, self.frozen = backbone, head, frozen
        if frozen:
            backbone.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the head's answer."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.backbone(images)
        return self.head(maps)

    def trained(self) -> Iterator[nn.Parameter]:
        """Yield the weights that training moves."""
        return (weight for weight in self.parameters() if weight.requires_grad)
