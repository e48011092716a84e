"""What in a picture an answer hangs on: by blurring it place by place, and by gradients on the way to it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def perturbation_saliency(
    score: Callable[[Tensor], Tensor],
    frames: Tensor,
    without: Tensor | None = None,
    *,
    spacing: int = 5,
    blur: float = 3.0,
    radius: float = 5.0,
    batch_size: int = 64,
) -> Tensor:
    """Return how much a score changes where the picture gives way: half its squared change, (H, W) or (K, H, W).

    Greydanus et al. 2018, equations 1 and 2: around each place of a grid the picture gives way to a blurred copy, under
    a Gaussian mask that is 1 at the place itself; between the places the map is interpolated. All frames of a stack are
    treated alike. K scores have a map each; the sum of them is the paper's squared norm of a vector.

    A blur moves edges that never move in a game, such as walls, and the score may change for that alone. `without`, the
    median frame of an episode say, takes away what moves and leaves the rest as it is.

    Args:
        score: of images like `frames` (B, C, H, W), a number (B,) or several (B, K). No gradient is needed.
        frames: one picture or stack (C, H, W), uint8 (what is shown to `score` is rounded) or float.
        without: the picture (C, H, W) that it gives way to; its blurred copy when not given.
        spacing: pixels from a place to the next.
        blur: standard deviation of the blur, in pixels.
        radius: standard deviation of the mask, in pixels.
        batch_size: images in one call of `score`.
    """
    height, width = frames.shape[1:]
    clear = frames.float()
    dull = _blurred(clear, blur) if without is None else without.float()
    rows, lines = (_bells(length, spacing, radius).to(frames.device) for length in (height, width))
    masks = torch.einsum("ih,jw->ijhw", rows, lines).flatten(0, 1)[:, None]
    with torch.no_grad():
        before, after = score(frames[None]), []
        for mask in masks.split(batch_size):
            mixed = clear + mask * (dull - clear)
            after.append(score(mixed if frames.is_floating_point() else mixed.round().to(frames.dtype)))
        change = 0.5 * (torch.cat(after) - before).float() ** 2
    grid = change.reshape(len(rows), len(lines), -1).permute(2, 0, 1)[None]
    maps = F.interpolate(grid, size=(height, width), mode="bilinear")[0]
    return maps[0] if before.ndim == 1 else maps


def _blurred(image: Tensor, blur: float) -> Tensor:
    """Blur (C, H, W) by a Gaussian that is cut at three standard deviations, and at the picture's size."""
    from kornia.filters import gaussian_blur2d  # half a second

    height, width = image.shape[1:]
    size = min(2 * round(3 * blur) + 1, height - (height + 1) % 2, width - (width + 1) % 2)
    return gaussian_blur2d(image[None], (size, size), (blur, blur))[0]


def _bells(length: int, spacing: int, radius: float) -> Tensor:
    """Return a Gaussian with the peak 1 over `length` pixels at each of the places, (places, length).

    The places are the centres of equal cells of about `spacing` pixels.
    """
    count = -(-length // spacing)
    centres = (torch.arange(count) + 0.5) * length / count - 0.5
    return torch.exp(-0.5 * ((torch.arange(length) - centres[:, None]) / radius) ** 2)


def integrated_gradients(
    score: Callable[[Tensor], Tensor], frames: Tensor, baseline: Tensor | None = None, *, steps: int = 50
) -> Tensor:
    """Return how much each pixel adds to a score, (C, H, W), against a baseline: together all of the difference.

    Sundararajan et al. 2017, equation 1, by captum. A pixel that is as the baseline adds nothing.

    Args:
        score: of float images in [0, 1], (B, C, H, W), a number each, (B,), with a gradient.
        frames: one picture or stack (C, H, W), uint8 or float in [0, 1].
        baseline: likewise, the picture that shows nothing; black when not given.
        steps: points on the straight line between the two (Gauss-Legendre).
    """
    from captum.attr import IntegratedGradients  # half a second, and matplotlib

    given, nothing = (
        image.float() / 255 if image.dtype == torch.uint8 else image
        for image in (frames, torch.zeros_like(frames) if baseline is None else baseline)
    )
    gradients = IntegratedGradients(score, multiply_by_inputs=True)
    return gradients.attribute(given[None], nothing[None], n_steps=steps, internal_batch_size=64)[0].detach()
