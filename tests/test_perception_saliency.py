import math

import pytest
import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor

from perception.backbones import BACKBONES
from perception.saliency import integrated_gradients, perturbation_saliency

SPOT = (12, 20)  # the only bright pixel, and the only one that is read


def spotted(size: tuple[int, int] = (30, 40)) -> Tensor:
    image = torch.zeros(1, *size)
    image[0, SPOT[0], SPOT[1]] = 1.0
    return image


def read_spot(images: Tensor) -> Tensor:
    return images[:, 0, SPOT[0], SPOT[1]]


def blurred_spot(blur: float) -> float:
    """What is left of a single bright pixel: the middle of a normalised Gaussian, squared for two dimensions."""
    bell = [math.exp(-0.5 * (x / blur) ** 2) for x in range(-round(3 * blur), round(3 * blur) + 1)]
    return (1 / sum(bell)) ** 2


def test_a_pixel_that_is_read_is_salient_there_and_nowhere_else() -> None:
    """At a place d away the mask is exp(-d² / 2 radius²) at the pixel, which loses that share of what a blur takes."""
    saliency = perturbation_saliency(read_spot, spotted(), spacing=1, blur=2.0, radius=1.5)
    assert saliency.shape == (30, 40)
    taken = 1 - blurred_spot(2.0)
    for row, line in ((12, 20), (12, 21), (14, 20), (13, 18)):
        mask = math.exp(-0.5 * ((row - 12) ** 2 + (line - 20) ** 2) / 1.5**2)
        assert float(saliency[row, line]) == pytest.approx(0.5 * (mask * taken) ** 2, rel=1e-4)
    far = (torch.arange(30)[:, None] - 12) ** 2 + (torch.arange(40) - 20) ** 2 > 8**2
    assert float(saliency[far].max()) < 1e-9


def test_what_is_not_read_is_not_salient() -> None:
    assert not perturbation_saliency(lambda images: images[:, 0, 0, 0], spotted(), spacing=1, radius=1.5).any()


def test_what_it_gives_way_to_may_be_given() -> None:
    """Where that is the same as the picture nothing changes; where the spot is absent all of it is taken."""
    image = spotted()
    assert not perturbation_saliency(read_spot, image, image, spacing=1).any()
    saliency = perturbation_saliency(read_spot, image, torch.zeros_like(image), spacing=1)
    assert float(saliency[SPOT]) == 0.5


def test_bytes_stay_bytes_and_scores_come_apart() -> None:
    """Two scores of one picture have a map each, and a spacing of 4 shows the same at its places as one of 1."""

    def two(images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8 and len(images) <= 16
        return torch.stack([read_spot(images).float(), torch.full((len(images),), 7.0)], dim=1)

    frames = (255 * spotted((32, 40))).byte()
    maps = perturbation_saliency(two, frames, spacing=1, radius=3.0, batch_size=16)
    assert maps.shape == (2, 32, 40) and not maps[1].any()
    assert divmod(int(maps[0].argmax()), 40) == SPOT
    left = round(255 * blurred_spot(3.0))
    assert float(maps[0].max()) == 0.5 * (255 - left) ** 2
    coarse = perturbation_saliency(two, frames, spacing=4, radius=3.0, batch_size=16)[0]
    assert abs(int(coarse.argmax()) // 40 - SPOT[0]) <= 2 and abs(int(coarse.argmax()) % 40 - SPOT[1]) <= 2


def test_the_grid_against_a_slow_twin() -> None:
    """Every place by itself; between the centres of cells the map is interpolated, at them it is what was measured."""
    torch.manual_seed(0)
    frames, weights = torch.rand(2, 21, 35), torch.randn(2, 21, 35)

    def score(images: Tensor) -> Tensor:
        return (images * weights).sum(dim=(1, 2, 3)).tanh()

    fast = perturbation_saliency(score, frames, spacing=7, blur=1.0, radius=2.0)
    blurred = gaussian_blur2d(frames[None], (7, 7), (1.0, 1.0))[0]
    for row in (3, 10, 17):
        for line in (3, 10, 17, 24, 31):
            distance = (torch.arange(21)[:, None] - row) ** 2 + (torch.arange(35) - line) ** 2
            mask = torch.exp(-distance / (2 * 2.0**2))
            mixed = frames * (1 - mask) + blurred * mask
            change = 0.5 * (score(mixed[None]) - score(frames[None])) ** 2
            torch.testing.assert_close(fast[row, line], change[0], rtol=1e-3, atol=1e-6)


def test_integrated_gradients_of_a_linear_score_are_weight_times_input() -> None:
    torch.manual_seed(0)
    weights = torch.randn(2, 6, 6)
    frames, baseline = (torch.randint(0, 256, (2, 6, 6), dtype=torch.uint8) for _ in range(2))

    def score(images: Tensor) -> Tensor:
        return (images * weights).sum(dim=(1, 2, 3))

    torch.testing.assert_close(integrated_gradients(score, frames), weights * frames / 255)
    expected = weights * (frames / 255 - baseline / 255)
    torch.testing.assert_close(integrated_gradients(score, frames, baseline), expected)


def test_integrated_gradients_add_up_to_the_difference() -> None:
    torch.manual_seed(0)
    backbone = BACKBONES["lenet"](4)  # type: ignore[call-arg]
    frames = torch.randint(0, 256, (4, 36, 36), dtype=torch.uint8)

    def score(images: Tensor) -> Tensor:
        return backbone(images)[-1].square().sum(dim=(1, 2, 3))

    added = integrated_gradients(score, frames, steps=200)
    assert added.shape == (4, 36, 36) and not added.requires_grad
    difference = score(frames[None] / 255) - score(torch.zeros(1, 4, 36, 36))
    torch.testing.assert_close(added.sum(), difference[0].detach(), rtol=0.01, atol=0)
