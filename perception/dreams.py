"""What a network responds to: pictures that make one of its numbers as large as they can (Erhan et al. 2009)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.backbones import Backbone
from perception.config import Ascent

OCTAVE_SCALE = 1.4  # of one size of DeepDream's to the next
Score = Callable[[Tensor], Tensor]
"""Of float images in [0, 1], (B, C, H, W), a number each, (B,), with a gradient."""


def total_variation(images: Tensor) -> Tensor:
    """Return the sum of squared differences between neighbouring pixels of (B, C, H, W), (B,).

    Mahendran & Vedaldi 2015, equation 5, with β = 2.
    """
    down, across = images.diff(dim=2), images.diff(dim=3)
    return down.square().sum(dim=(1, 2, 3)) + across.square().sum(dim=(1, 2, 3))


def maximise(score: Score, start: Tensor, ascent: Ascent, seed: int) -> Tensor:
    """Return images in [0, 1] of high scores, each by itself, (B, C, H, W).

    Activation maximisation (Erhan et al. 2009, section 3.1; of classes Simonyan et al. 2014, equation 1). The change is
    a sum of layers from coarse to fine, as a pyramid's, so that large shapes come as quickly as small ones (Olah et al.
    2017, "Preconditioning and parameterization").

    Args:
        score: what is raised.
        start: images in [0, 1], (B, C, H, W), from which on change is penalised.
        ascent: how.
        seed: of the noise and the jitter.
    """
    generator = torch.Generator().manual_seed(seed)
    size = start.shape[2:]
    origin = start.clamp(0.01, 0.99).logit()  # a sigmoid has no gradient at 0 and 1
    layers = []
    for octave in range(ascent.octaves):
        shape = (*start.shape[:2], *(-(-length // 2**octave) for length in size))
        noise = ascent.noise * torch.randn(shape, generator=generator)
        layers.append(noise.to(start.device).requires_grad_())
    # Adam takes steps as large for a gradient of 1e-7, which is rounding, as for 1, unless its epsilon is well above.
    optimizer = torch.optim.Adam(layers, lr=ascent.learning_rate, eps=1e-4)

    def draw() -> Tensor:
        return torch.sigmoid(origin + sum(F.interpolate(layer, size=size, mode="bilinear") for layer in layers))

    for _ in range(ascent.updates):
        images = draw()
        uphill = _uphill(score, images.detach(), _shift(ascent.jitter, generator))
        change = (images.detach() - origin.sigmoid()).requires_grad_()
        penalty = ascent.smoothness * total_variation(change).sum() + (ascent.sparsity or 0.0) * change.abs().sum()
        (downhill,) = torch.autograd.grad(penalty, change)
        optimizer.zero_grad()
        images.backward(downhill - uphill)
        optimizer.step()
    return draw().detach()


def deep_dream(score: Score, picture: Tensor, ascent: Ascent, seed: int, least: int) -> Tensor:
    """Return a picture (C, H, W) in [0, 1] with more in it of what raises a score.

    DeepDream (Mordvintsev et al. 2015): from small to full size, what was added at one is enlarged and carried to the
    next, and each step along the gradient is as long as the one before.

    Args:
        score: of images of any size; the mean square of a map, say.
        picture: (C, H, W) in [0, 1].
        ascent: how.
        seed: of the jitter.
        least: pixels that no side may have fewer of.
    """
    generator = torch.Generator().manual_seed(seed)
    shrinkings = [OCTAVE_SCALE**-octave for octave in reversed(range(ascent.octaves))]
    sizes = [(round(picture.shape[1] * by), round(picture.shape[2] * by)) for by in shrinkings]
    sizes = [size for size in sizes if min(size) >= least]
    added = torch.zeros_like(picture[None])
    for size in sizes:
        base = _resized(picture[None], size)
        dreamt = (base + _resized(added, size)).clamp(0, 1)
        for _ in range(max(1, ascent.updates // len(sizes))):
            uphill = _uphill(score, dreamt, _shift(ascent.jitter, generator))
            step = uphill / uphill.abs().mean().clamp(min=1e-12)
            dreamt = (dreamt + ascent.dream_rate * step).clamp(0, 1)
        added = dreamt - base
    return (picture + added[0]).clamp(0, 1)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)


def _shift(jitter: int, generator: torch.Generator) -> tuple[int, int]:
    down, across = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
    return down, across


def _uphill(score: Score, images: Tensor, shift: tuple[int, int]) -> Tensor:
    """Return the gradient of the scores of moved images, moved back, with a root mean square of 1 each, or 0."""
    images = images.detach().requires_grad_()  # or a series of steps would be one graph
    moved = torch.roll(images, shift, dims=(2, 3))
    (gradient,) = torch.autograd.grad(score(moved).sum(), images)
    return gradient / gradient.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)


def channel_score(backbone: Backbone, stage: int, channels: Sequence[int]) -> Score:
    """Return the score of which the i-th image's is the mean of the i-th of `channels` in a stage's map."""

    def score(images: Tensor) -> Tensor:
        return backbone(images)[stage][range(len(channels)), list(channels)].float().mean(dim=(1, 2))

    return score


def first_filters(backbone: Backbone) -> Tensor:
    """Return the weights of a backbone's first convolution, (filters, C, H, W)."""
    return next(layer.weight for layer in backbone.modules() if isinstance(layer, nn.Conv2d)).detach().float()


@torch.no_grad()
def responses(backbone: Backbone, images: Tensor, batch_size: int = 32) -> list[Tensor]:
    """Return of each stage the mean response of each channel to each of N images (N, C, H, W): (N, channels)."""
    seen = [[maps.float().mean(dim=(2, 3)) for maps in backbone(batch)] for batch in images.split(batch_size)]
    return [torch.cat(stage) for stage in zip(*seen, strict=True)]


def most_telling(response: Tensor, count: int) -> list[int]:
    """Return the `count` channels whose response (N, channels) differs most between images, those that do at all."""
    spread = response.std(dim=0, correction=0)
    return [channel for channel in spread.argsort(descending=True).tolist()[:count] if spread[channel] > 0]
