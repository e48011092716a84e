"""Backbones: the eye that every agent and every task shares.

A backbone maps images, uint8 or float (B, C, H, W), to a list of feature maps from fine to coarse, and declares in
`stages` what each of them is. It ends at a spatial map: what follows (a 512-unit layer, a decoder) belongs to a head,
and a head is built from `stages` and a map's size without asking which backbone it has.
"""

import itertools
import math
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


def draw_weights(module: nn.Module, *, linear_end: bool = False) -> None:
    """Draw the weights of convolutions and linear layers as He et al. 2015 (equation 10), and set biases to 0.

    What passes through ReLUs keeps its scale. Under torch's own uniform draw it shrinks by a factor of about 2.4 a
    layer, and training may stand still for a thousand updates. `linear_end`: no ReLU follows the last layer.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    for layer in layers:
        fan_in = layer.weight[0].numel()
        if isinstance(layer, nn.ConvTranspose2d):  # each pixel is made of a part of the kernel, of every channel
            fan_in = layer.weight[:, 0].numel() // math.prod(layer.stride)
        nn.init.normal_(layer.weight, std=math.sqrt((1 if linear_end and layer is layers[-1] else 2) / fan_in))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class NatureCNN(Backbone):
    """The three convolutions of Mnih et al. 2015 (Methods, "Model architecture").

    Its weights are torch's default, uniform in ±1/√fan_in with the biases, which is what the paper's Torch7 code did.
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


class LeNet(Backbone):
    """LeNet-5 (LeCun et al. 1998, figure 2) up to its last map, with ReLUs and max pooling."""

    minimum_size = 32

    def __init__(self, in_channels: int = 4) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stages = (Stage(6, 2), Stage(16, 4), Stage(120, 4))
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.conv3 = nn.Conv2d(16, 120, kernel_size=5)

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.forward`."""
        x = unit_scale(images, self.conv1.weight.dtype)
        fine = F.max_pool2d(F.relu(self.conv1(x)), 2)
        middle = F.max_pool2d(F.relu(self.conv2(fine)), 2)
        return [fine, middle, F.relu(self.conv3(middle))]


class ConvBlocks(Backbone):
    """Blocks of 3×3 convolutions, each closed by a max pooling (VGG: Simonyan & Zisserman 2015, table 1)."""

    minimum_size = 8

    def __init__(self, in_channels: int, widths: tuple[int, ...], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stages = tuple(Stage(width, 2 ** (i + 1)) for i, width in enumerate(widths))
        self.blocks = nn.ModuleList()
        for before, width, depth in zip((in_channels, *widths), widths, depths, strict=False):
            channels = [before] + [width] * depth
            convolutions = [nn.Conv2d(a, b, kernel_size=3, padding=1) for a, b in itertools.pairwise(channels)]
            self.blocks.append(nn.Sequential(*(layer for conv in convolutions for layer in (conv, nn.ReLU()))))
        draw_weights(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.forward`."""
        x = unit_scale(images, next(self.parameters()).dtype)
        maps = []
        for block in self.blocks:
            x = F.max_pool2d(block(x), 2)
            maps.append(x)
        return maps


class ConvNet(ConvBlocks):
    """The deep 3×3 network for digits: two convolutions and a pooling, three times, 16, 32 and 64 wide."""

    def __init__(self, in_channels: int = 4) -> None:
        super().__init__(in_channels, widths=(16, 32, 64), depths=(2, 2, 2))


class VGG(ConvBlocks):
    """VGG-11's plan of depths (Simonyan & Zisserman 2015, table 1, column A), half as wide and four blocks deep."""

    minimum_size = 16

    def __init__(self, in_channels: int = 4) -> None:
        super().__init__(in_channels, widths=(32, 64, 128, 256), depths=(1, 1, 2, 2))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al. 2016, figure 2), normalised in groups (Wu & He 2018)."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(16, channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(16, channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != channels:
            convolution = nn.Conv2d(before, channels, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.GroupNorm(16, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, channels, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(y)))


class ResNet18(Backbone):
    """ResNet-18 (He et al. 2016, table 1) with GroupNorm; its first layer is 3×3 without stride."""

    minimum_size = 8

    def __init__(self, in_channels: int = 4) -> None:
        super().__init__()
        self.in_channels = in_channels
        widths = (64, 128, 256, 512)
        self.stages = tuple(Stage(width, 2**i) for i, width in enumerate(widths))
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(16, 64)
        self.sections = nn.ModuleList(
            nn.Sequential(BasicBlock(before, width, 1 if i == 0 else 2), BasicBlock(width, width, 1))
            for i, (before, width) in enumerate(itertools.pairwise((64, *widths)))
        )
        draw_weights(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """See `Backbone.forward`."""
        x = F.relu(self.norm1(self.conv1(unit_scale(images, self.conv1.weight.dtype))))
        maps = []
        for section in self.sections:
            x = section(x)
            maps.append(x)
        return maps


BACKBONES: dict[str, type[Backbone]] = {
    "nature": NatureCNN,
    "impala": ImpalaCNN,
    "lenet": LeNet,
    "convnet": ConvNet,
    "vgg": VGG,
    "resnet18": ResNet18,
}


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, named without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def adapt_channels(weights: dict[str, Tensor], in_channels: int) -> dict[str, Tensor]:
    """Return a backbone's weights for images of `in_channels` channels, whatever number they were trained on.

    The first layer's filters are repeated over more channels, and scaled down by as much; over fewer they are added up.
    So a picture whose channels are all the same looks the same as before, or nearly.
    """
    name = next(name for name, weight in weights.items() if weight.ndim == 4)
    first = weights[name]
    had = first.shape[1]
    if had == in_channels:
        return weights
    if had < in_channels:
        adapted = first.repeat(1, -(-in_channels // had), 1, 1)[:, :in_channels] * (had / in_channels)
    else:
        adapted = torch.stack([first[:, channel::in_channels].sum(dim=1) for channel in range(in_channels)], dim=1)
    return weights | {name: adapted}
