"""From a feature map back to the pixels."""

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
    neighbours, each followed by a plain one; half as wide at every doubling, 16 at least.
    """
    layers: list[nn.Module] = []
    while stride > 1:
        layers += [nn.ConvTranspose2d(channels, width, kernel_size=4, stride=2, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(width, width, kernel_size=3, padding=1), nn.ReLU()]
        channels, width, stride = width, max(width // 2, 16), stride // 2
    result = nn.Sequential(*layers, nn.Conv2d(channels, out_channels, kernel_size=1))
    draw_weights(result, linear_end=True)
    return result
