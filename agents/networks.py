"""The Q-network: a backbone and the head that turns its coarsest map into action values."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.backbones import Backbone


class QHead(nn.Module):
    """A 512-unit layer and one value per action (Mnih et al. 2015).

    The last layer is float32 whatever the precision of the rest: bfloat16 has steps of 1/128 between 1 and 2, and the
    actions' values differ by less. Dueling (Wang et al. 2016, equation 9) has two such streams: state value plus
    advantage less the mean advantage.
    """

    def __init__(self, num_features: int, num_actions: int, dueling: bool, hidden_units: int = 512) -> None:
        super().__init__()
        self.advantage_hidden = nn.Linear(num_features, hidden_units)
        self.advantage = nn.Linear(hidden_units, num_actions)
        self.dueling = dueling
        if dueling:
            self.value_hidden = nn.Linear(num_features, hidden_units)
            self.value = nn.Linear(hidden_units, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, num_features) to action values (B, A), float32."""
        return self.values(self.hidden(features))

    def hidden(self, features: Tensor) -> Tensor:
        """Return the units of all hidden layers, side by side, cut at 0, (B, units), as the last layers take them."""
        dtype = self.advantage.weight.dtype
        return torch.cat([F.relu(layer(features)).to(dtype) for layer in self.hidden_layers()], dim=1)

    def hidden_layers(self) -> list[nn.Linear]:
        """Return the layers that look at the features: the advantages', and the value's when dueling."""
        return [self.advantage_hidden, self.value_hidden] if self.dueling else [self.advantage_hidden]

    def output_layers(self) -> list[nn.Linear]:
        """Return the layers after those."""
        return [self.advantage, self.value] if self.dueling else [self.advantage]

    def values(self, hidden: Tensor) -> Tensor:
        """Map the units of all hidden layers, side by side and cut at 0, to action values (B, A)."""
        if not self.dueling:
            return self.advantage(hidden)
        for_advantage, for_value = hidden.chunk(2, dim=1)
        advantage = self.advantage(for_advantage)
        return self.value(for_value) + advantage - advantage.mean(dim=1, keepdim=True)


class QNetwork(nn.Module):
    """Frames uint8 (B, C, H, W) in; action values (B, A) out."""

    def __init__(self, backbone: Backbone, frame_shape: tuple[int, int], num_actions: int, dueling: bool) -> None:
        super().__init__()
        height, width = backbone.map_size(*frame_shape)
        self.backbone = backbone
        self.head = QHead(backbone.stages[-1].channels * height * width, num_actions, dueling)

    def forward(self, frames: Tensor) -> Tensor:
        """Return action values (B, A), float32."""
        return self.head(self.backbone(frames)[-1].flatten(start_dim=1))

    def cast(self, dtype: torch.dtype) -> "QNetwork":
        """Take all weights to `dtype` but those of the head's last layers, which stay float32; return itself."""
        self.backbone.to(dtype)
        for layer in self.head.hidden_layers():
            layer.to(dtype)
        return self

    def initialize_orthogonally(self) -> None:
        """Draw all layers but the head's last anew: orthogonal times √2, which keeps the scale of what ReLUs pass on.

        Saxe et al. 2014. Under torch's own uniform draw it shrinks by a factor of about 2.4 a layer.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                if module not in self.head.output_layers():
                    nn.init.orthogonal_(module.weight, math.sqrt(2))
        self.take(self)

    @torch.no_grad()
    def take(self, other: "QNetwork") -> None:
        """Copy the other's weights, of whatever precision, into these."""
        if other is not self:
            torch._foreach_copy_(list(self.parameters()), list(other.parameters()))
