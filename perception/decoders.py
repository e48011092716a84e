"""From a feature map, or from a few numbers, back to the pixels."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from perception.backbones import draw_weights


def centred(maps: Tensor, height: int, width: int) -> Tensor:
    """Pad with its own border, or cut, (B, C, H, W) to (B, C, height, width), the same on both sides.

    An unpadded convolution loses as much at either border, so that what is centred lies over its own pixels.
    """
    for dim, size in ((2, height), (3, width)):
        missing = size - maps.shape[dim]
        before = missing // 2
        if missing > 0:
            sides = (0, 0, before, missing - before) if dim == 2 else (before, missing - before, 0, 0)
            maps = F.pad(maps, sides, mode="replicate")
        elif missing < 0:
            maps = maps.narrow(dim, -missing // 2, size)
    return maps


def map_for(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return (h, w) of the least map whose cells of stride × stride pixels cover (H, W)."""
    return -(-size[0] // stride), -(-size[1] // stride)


def enlarging(channels: int, stride: int, out_channels: int, width: int = 64) -> nn.Sequential:
    """Return layers from a map (B, channels, h, w) to (B, out_channels, stride × h, stride × w), a doubling at a time.

    Transposed convolutions whose kernels are twice their stride, so that none of their cells is hit more often than its
    neighbours; half as wide at every doubling, 16 at least; the last one draws the pixels (Radford et al. 2016,
    figure 1).
    """
    layers: list[nn.Module] = []
    while stride > 2:
        layers += [nn.ConvTranspose2d(channels, width, kernel_size=4, stride=2, padding=1), nn.ReLU()]
        channels, width, stride = width, max(width // 2, 16), stride // 2
    if stride == 2:
        layers.append(nn.ConvTranspose2d(channels, out_channels, kernel_size=4, stride=2, padding=1))
    else:
        layers.append(nn.Conv2d(channels, out_channels, kernel_size=1))
    result = nn.Sequential(*layers)
    draw_weights(result, linear_end=True)
    return result


class Generator(nn.Module):
    """From a few numbers to images: a linear layer makes a map of them, which is enlarged."""

    def __init__(self, latent_size: int, size: tuple[int, int], stride: int, channels: int, width: int = 64) -> None:
        """`stride` pixels of images of `size` (H, W) stand in a cell of the map."""
        super().__init__()
        self.size, self.map_shape = size, (width, *map_for(size, stride))
        self.decode = nn.Linear(latent_size, math.prod(self.map_shape))
        self.enlarge = enlarging(width, stride, channels)

    def forward(self, latents: Tensor) -> Tensor:
        """Map (B, latent_size) to (B, channels, H, W), unbounded."""
        return centred(self.enlarge(F.relu(self.decode(latents)).unflatten(1, self.map_shape)), *self.size)
