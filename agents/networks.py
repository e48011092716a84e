"""The Q-network: a backbone and the head that turns its coarsest map into action values."""

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
        advantage = self.advantage(F.relu(self.advantage_hidden(features)).float())
        if not self.dueling:
            return advantage
        value = self.value(F.relu(self.value_hidden(features)).float())
        return value + advantage - advantage.mean(dim=1, keepdim=True)


class QNetwork(nn.Module):
    """Frames uint8 (B, C, H, W) in, action values (B, A) out."""

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
        self.head.advantage_hidden.to(dtype)
        if self.head.dueling:
            self.head.value_hidden.to(dtype)
        return self
