"""Autoencoding: the picture again, from few numbers, plain or variational (Kingma & Welling 2014)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from perception.backbones import Backbone
from perception.decoders import Generator
from perception.networks import PerceptionNetwork
from perception.pictures import Picture, beside, contact_sheet, shown
from perception.segmentation import small_classes

MOVING = 8 / 255  # a pixel that changes by more between two frames moves
VISIBLE = 16  # grey levels by which something must differ from the background to count as visible


class AutoencoderHead(nn.Module):
    """The coarsest map through `latent_size` numbers and back to all channels of the images.

    Variational: the numbers are drawn from a normal distribution whose mean and logarithmic variance the map tells; in
    evaluation they are the means.
    """

    def __init__(self, backbone: Backbone, size: tuple[int, int], variational: bool, latent_size: int) -> None:
        super().__init__()
        self.variational = variational
        (channels, stride), (height, width) = backbone.stages[-1], backbone.map_size(*size)
        self.encode = nn.Linear(channels * height * width, latent_size * (2 if variational else 1))
        self.draw = Generator(latent_size, size, stride, backbone.in_channels)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W), 0 to 1 where training succeeds, and the divergence (B,) in nats, 0 if plain."""
        code = self.encode(maps[-1].flatten(1))
        divergence = torch.zeros(len(code), device=code.device)
        if self.variational:
            mean, log_variance = code.float().chunk(2, dim=1)
            divergence = divergence_from_standard_normal(mean, log_variance)
            code = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean) if self.training else mean
        return self.draw(code), divergence


def divergence_from_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence (B,) in nats of normal distributions from the standard one.

    Kingma & Welling 2014, appendix B, of means and logarithmic variances (B, D).
    """
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)


def reconstruction_error(drawn: Tensor, images: Tensor, motion_weight: float) -> Tensor:
    """Return the mean squared error () of (B, C, H, W) in [0, 1], moving pixels weighted 1 + motion_weight.

    A pixel moves that differs from the frame before, a channel earlier, or lies next to one; of a single frame none.
    The weights of a batch add up to 1.
    """
    error = (drawn - images) ** 2
    if motion_weight == 0 or images.shape[1] in (1, 3):  # a picture, not a stack of frames
        return error.mean()
    change = (images[:, 1:] - images[:, :-1]).abs()
    change = torch.cat([change[:, :1], change], dim=1)  # the first frame has none before it: what moves after it
    weight = 1 + motion_weight * (F.max_pool2d(change, kernel_size=3, stride=1, padding=1) > MOVING)
    return (weight * error).sum() / weight.sum()


class Autoencoding:
    """The task: no labels but, where they are known, masks that tell whether small things come back."""

    metric = "psnr"

    def __init__(self, names: Sequence[str], motion_weight: float, latent_size: int) -> None:
        """`names` of the masks' classes, the background first; none where there are no masks."""
        self.names, self.motion_weight, self.latent_size = list(names), motion_weight, latent_size

    def make_head(self, backbone: Backbone, size: tuple[int, int], kind: str, dropout: float) -> nn.Module:  # noqa: ARG002
        """Return a fresh head: `plain` or `variational`."""
        return AutoencoderHead(backbone, size, kind == "variational", self.latent_size)

    def loss(self, network: PerceptionNetwork, images: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        """Return minus the evidence in nats a pixel; variational, minus its lower bound.

        The bound is that of a code that is drawn, as in training; the mean, which is taken otherwise, does better.

        Of a normal distribution around each pixel whose variance is `reconstruction_error` itself, the likeliest one
        (Rybkin et al. 2021, equation 8). So nobody has to weigh the bound's two terms, and the gradient does not fade
        once the background is there: Adam, which remembers the first gradients for a thousand updates, would hardly
        go on to what is small.
        """
        drawn, divergence = network(images)
        scaled = images.float() / 255 if images.dtype == torch.uint8 else images
        error = reconstruction_error(drawn.float(), scaled, self.motion_weight)
        evidence = -0.5 * (math.log(2 * math.pi) + 1 + torch.log(error.clamp(min=1e-8)))
        return divergence.mean() / drawn[0].numel() - evidence

    def guess_loss(self, batch_size: int) -> None:
        """Return nothing: it depends on the pictures."""

    def answer(self, network: PerceptionNetwork, images: Tensor) -> Tensor:
        """Return each picture, or the newest frame of each stack, as it came back: uint8 (B, 3 or 1, H, W)."""
        drawn = network(images)[0]
        newest = drawn if drawn.shape[1] == 3 else drawn[:, -1:]
        return (newest.float().clamp(0, 1) * 255).round().byte()

    def measure(self, answers: Tensor, targets: Tensor) -> dict[str, float]:
        """Return PSNR in dB, SSIM (Wang et al. 2004) and, of small things, the share of visible pixels that came back.

        A pixel is visible where it differs from the background, the median picture, and has come back where it is off
        by less than half that difference. Targets are (B, 3 or 1, H, W), with a mask as one channel more.
        """
        from torchmetrics.functional.image import (  # a second and a half
            peak_signal_noise_ratio,
            structural_similarity_index_measure,
        )

        true = targets[:, : answers.shape[1]]
        ssim = [
            structural_similarity_index_measure(a.float(), t.float(), data_range=255.0, reduction="sum")
            for a, t in zip(answers.split(256), true.split(256), strict=True)
        ]
        psnr = peak_signal_noise_ratio(answers.float(), true.float(), data_range=255.0)
        result = {"psnr": float(psnr), "ssim": float(sum(map(float, ssim)) / len(answers))}  # type: ignore[arg-type]
        if targets.shape[1] > answers.shape[1]:
            masks, background = targets[:, -1], self.majority(targets).int()
            away = (true.int() - background).abs().amax(dim=1)
            off = (answers.int() - true.int()).abs().amax(dim=1)
            for i in small_classes(masks, len(self.names)):
                visible = (masks == i) & (away >= VISIBLE)
                if visible.any():
                    result[f"recall_{self.names[i]}"] = float((2 * off < away)[visible].float().mean())
        return result

    def majority(self, targets: Tensor) -> Tensor:
        """Return the median picture, (3 or 1, H, W): what a blind guess says."""
        channels = 3 if targets.shape[1] == 3 else 1
        return targets[:: max(1, len(targets) // 1000), :channels].median(dim=0).values

    def words(self, answer: Sequence[int]) -> str:
        """Say how bright it is: all that words can."""
        return f"{np.mean(answer):.0f} of 255 bright"

    def picture(
        self,
        network: PerceptionNetwork,  # noqa: ARG002
        images: NDArray[np.uint8],
        answers: Tensor,
        targets: Tensor | None = None,  # noqa: ARG002
    ) -> Picture:
        """Draw images (B, C, H, W), below them as they came back."""
        given = [(shown(image), "") for image in images]
        return contact_sheet(beside(given, [(shown(answer), "came back") for answer in answers.numpy()]))
