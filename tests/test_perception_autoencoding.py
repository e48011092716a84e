import math

import numpy as np
import pytest
import torch

from perception.autoencoding import Autoencoding, divergence_from_standard_normal, reconstruction_error
from perception.backbones import BACKBONES, draw_weights
from perception.networks import PerceptionNetwork


def test_error_against_a_hand_worked_table() -> None:
    """Two frames of 6×6; a pixel that appears in the second moves, and so do its eight neighbours, in both frames."""
    images, drawn = torch.zeros(1, 2, 6, 6), torch.zeros(1, 2, 6, 6)
    images[0, 1, 1, 1] = 1.0
    drawn[0, 0, 5, 5] = 0.5  # wrong where nothing moves
    assert float(reconstruction_error(drawn, images, 0.0)) == pytest.approx((1 + 0.25) / 72)
    assert float(reconstruction_error(drawn, images, 3.0)) == pytest.approx((4 * 1 + 0.25) / (72 + 3 * 18))
    assert float(reconstruction_error(drawn[:, :1], images[:, :1], 3.0)) == pytest.approx(0.25 / 36)  # no frame before


def test_divergence_against_a_hand_worked_table() -> None:
    mean = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    log_variance = torch.tensor([[0.0, 0.0], [0.0, math.log(4)]])
    expected = [0.0, 0.5 * 4 + 0.5 * (4 - 1 - math.log(4))]
    assert divergence_from_standard_normal(mean, log_variance).tolist() == pytest.approx(expected)
    normal = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    theirs = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(divergence_from_standard_normal(mean, log_variance), theirs)


@pytest.mark.parametrize("kind", ["plain", "variational"])
def test_the_loss_is_minus_the_bound_of_the_likeliest_normal(kind: str) -> None:
    torch.manual_seed(0)
    task = Autoencoding([], 0.0, 8)
    backbone = BACKBONES["lenet"](1)  # type: ignore[call-arg]
    network = PerceptionNetwork(backbone, task.make_head(backbone, (36, 36), kind, 0.0)).eval()
    images = torch.rand(2, 1, 36, 36)
    drawn, divergence = network(images)
    deviation = (drawn - images).square().mean().sqrt()
    log_likelihood = torch.distributions.Normal(drawn, deviation).log_prob(images).sum(dim=(1, 2, 3))
    bound = (log_likelihood - divergence).mean() / (36 * 36)
    assert task.loss(network, images, images).item() == pytest.approx(-bound.item(), rel=1e-5)


def test_small_things_that_come_back_by_hand() -> None:
    """Ten pictures of grey 50; two have a ball of 2 pixels at 150, and the second one comes back as nothing."""
    targets = torch.zeros(10, 2, 20, 20, dtype=torch.uint8)
    targets[:, 0] = 50
    for i in range(2):
        targets[i, 0, 4, 4:6], targets[i, 1, 4, 4:6] = 150, 1
    answers = torch.full((10, 1, 20, 20), 50, dtype=torch.uint8)
    answers[0, 0, 4, 4], answers[0, 0, 4, 5] = 120, 90  # off by 30 and by 60, of 100
    measured = Autoencoding(["background", "ball"], 0.0, 8).measure(answers, targets)
    assert measured["recall_ball"] == pytest.approx(1 / 4)
    error = (30**2 + 60**2 + 2 * 100**2) / 4000
    assert measured["psnr"] == pytest.approx(10 * math.log10(255**2 / error), rel=1e-4)
    # Of pictures without structure SSIM is that of their means (equation 6), with C1 = (0.01 · 255)².
    flat = [torch.full((3, 1, 20, 20), grey, dtype=torch.uint8) for grey in (2, 4)]
    expected = (2 * 2 * 4 + 6.5025) / (2**2 + 4**2 + 6.5025)
    assert Autoencoding([], 0.0, 8).measure(*flat)["ssim"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["plain", "variational"])
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_draws(name: str, kind: str) -> None:
    backbone = BACKBONES[name](4)  # type: ignore[call-arg]
    task = Autoencoding([], 2.0, 8)
    network = PerceptionNetwork(backbone, task.make_head(backbone, (44, 40), kind, 0.0))
    images = torch.randint(0, 255, (2, 4, 44, 40), dtype=torch.uint8)
    task.loss(network, images, images).backward()
    assert all(weight.grad is not None for weight in network.parameters())
    answers = task.answer(network.eval(), images)
    assert answers.shape == (2, 1, 44, 40) and answers.dtype == torch.uint8
    assert torch.equal(answers, task.answer(network, images))  # nothing is drawn at random in evaluation
    one, two = (network.train()(images)[0] for _ in range(2))
    assert torch.equal(one, two) == (kind == "plain")
    assert task.picture(network, images.numpy(), answers).shape[2] == 3


def test_a_dot_comes_back() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images = np.zeros((32, 1, 36, 36), np.uint8)
    for image, (y, x) in zip(images, rng.integers(2, 28, (32, 2)), strict=True):
        image[0, y : y + 6, x : x + 6] = 255
    targets = torch.from_numpy(images)
    task = Autoencoding([], 0.0, 16)
    backbone = BACKBONES["nature"](1)  # type: ignore[call-arg]
    network = PerceptionNetwork(backbone, task.make_head(backbone, (36, 36), "plain", 0.0))
    draw_weights(backbone)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(150):
        optimizer.zero_grad()
        task.loss(network, targets, targets).backward()
        optimizer.step()
    blind = task.measure(task.majority(targets).expand(32, -1, -1, -1), targets)
    assert task.measure(task.answer(network, targets), targets)["psnr"] > blind["psnr"] + 6
