"""Backbones: the eye that every agent and every task shares.

A backbone maps images, uint8 or float (B, C, H, W), to a list of feature maps from fine to coarse, and declares in
`stages` what each of them is. It ends at a spatial map: what follows (a 512-unit layer, a decoder) belongs to a head,
and a head is built from `stages` and a map's size without asking which backbone it has.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Stage(NamedTuple):
    """What one feature map is."""

    channels: int
    stride: int


class Backbone(nn.Module):
    """What every backbone has: `stages`, `in_channels`, `minimum_size`, and a forward pass to a list of maps."""

    stages: tuple[Stage, ...]
    in_channels: int
    minimum_size: int

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return one map per stage, (B, stages[i].channels, H_i, W_i), fine to coarse.

        Images are uint8 (B, C, H, W), scaled here from 0..255 to [0, 1], or floats that are already in [0, 1].
        """
        raise NotImplementedError

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (H, W) of the coarsest map for images of this size.

        Raises:
            ValueError: the images are smaller than `minimum_size`.
        """
        if min(height, width) < self.minimum_size:
            raise ValueError(
                f"{type(self).__name__} needs images of at least {self.minimum_size}×{self.minimum_size} pixels, "
                f"got {height}×{width}"
            )
        weight = next(self.parameters())
        with torch.no_grad():
            images = torch.zeros(1, self.in_channels, height, width, dtype=weight.dtype, device=weight.device)
            maps = self(images)
        return maps[-1].shape[-2], maps[-1].shape[-1]


def unit_scale(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale uint8 images from 0..255 to [0, 1] in `dtype`; float images are taken as scaled and only cast.

    The result lies channels last, which is what convolutions are fastest on.
    """
    images = images.contiguous(memory_format=torch.channels_last)
    if images.dtype == torch.uint8:
        return images.to(dtype).mul_(1 / 255)
    return images.to(dtype)


class NatureCNN(Backbone):
    """The three convolutions of Mnih et al. 2015 (Methods, "Model architecture").

    Initialised as torch's default: uniform in ±1/√fan_in for weights and biases, which is what the paper's Torch7
    code did.
    """

    minimum_size = 36

    def __init__(self, in_channels: int = 4) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stages = (Stage(32, 4), Stage(64, 8), Stage(64, 8))
        self.conv1 = nn.Conv2d(in_channels, 32, kernel_size=8, stride=4)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=4, stride=2)
        self.conv3 = nn.Conv2d(64, 64, kernel_size=3, stride=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.forward`."""
        x = unit_scale(images, self.conv1.weight.dtype)
        fine = F.relu(self.conv1(x), inplace=True)
        middle = F.relu(self.conv2(fine), inplace=True)
        coarse = F.relu(self.conv3(middle), inplace=True)
        return [fine, middle, coarse]


class ResidualBlock(nn.Module):
    """ReLU, convolution, ReLU, convolution, plus the input (Espeholt et al. 2018, figure 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class ImpalaCNN(Backbone):
    """The large network of IMPALA (Espeholt et al. 2018, figure 3): 15 convolutions in three sections.

    `width` multiplies the 16, 32, 32 channels of the paper.
    """

    minimum_size = 8

    def __init__(self, in_channels: int = 4, width: int = 1) -> None:
        super().__init__()
        self.in_channels = in_channels
        channels = [in_channels, 16 * width, 32 * width, 32 * width]
        self.stages = tuple(Stage(c, 2 ** (i + 1)) for i, c in enumerate(channels[1:]))
        self.sections = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, kernel_size=3, padding=1),
                nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
                ResidualBlock(after),
                ResidualBlock(after),
            )
            for before, after in itertools.pairwise(channels)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.forward`; every map has passed a ReLU."""
        x = unit_scale(images, next(self.parameters()).dtype)
        maps = []
        for section in self.sections:
            x = section(x)
            maps.append(F.relu(x))
        return maps


BACKBONES: dict[str, type[Backbone]] = {"nature": NatureCNN, "impala": ImpalaCNN}
