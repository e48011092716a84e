import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from perception.backbones import BACKBONES, draw_weights
from perception.gan import (
    DRAWN,
    GAN,
    Judge,
    discriminator_loss,
    frechet_distance,
    generator_loss,
    precision_and_recall,
    spherical,
)
from perception.networks import PerceptionNetwork
from runs.checkpoints import fold_spectral_norm


def made(
    name: str = "lenet", *, normalized: bool = False, frozen: bool = False, warm_up: int = 0
) -> tuple[GAN, PerceptionNetwork]:
    torch.manual_seed(0)
    backbone = BACKBONES[name](1)  # type: ignore[call-arg]
    draw_weights(backbone)
    task, head = GAN(8, normalized, warm_up, Judge(None, [], None)), "vae-gan" if warm_up else "dcgan"
    return task, PerceptionNetwork(backbone, task.make_head(backbone, (36, 36), head, 0.0), frozen=frozen)


IMAGES = torch.randint(0, 255, (6, 1, 36, 36), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_losses_against_a_hand_worked_table() -> None:
    half, sure = torch.zeros(2), torch.tensor([math.log(3), math.log(3)])  # probabilities 1/2 and 3/4
    assert float(discriminator_loss(half, half)) == pytest.approx(math.log(4))
    assert float(discriminator_loss(sure, -sure)) == pytest.approx(-2 * math.log(3 / 4))
    assert float(discriminator_loss(sure, half)) == pytest.approx(-math.log(3 / 4) + math.log(2))
    assert float(generator_loss(half)) == pytest.approx(math.log(2))
    assert float(generator_loss(torch.tensor([math.log(3), -math.log(3)]))) == pytest.approx(-0.5 * math.log(3 / 16))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
def test_each_loss_moves_its_own_half(normalized: bool, frozen: bool) -> None:
    """The gradient of the sum is, for each network, that of its own loss with the other held fixed."""
    task, network = made(normalized=normalized, frozen=frozen)
    network.eval()  # so that no power iteration comes between
    torch.manual_seed(1)
    task.loss(network, IMAGES, IMAGES).backward()
    found = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    assert not any(name.startswith("head.average") for name in found)
    assert frozen != any(name.startswith("backbone") for name in found)
    head = network.head
    torch.manual_seed(1)
    drawn = torch.sigmoid(head.generator(task.latents(6)))  # type: ignore[operator]
    network.zero_grad()
    discriminator_loss(network(IMAGES), network(drawn.detach())).backward()
    for name, weight in network.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(found[name], weight.grad, msg=name)
    assert any(name.startswith("head.real") for name in found)
    network.zero_grad()
    generator_loss(network(drawn)).backward()
    moved = [name for name in found if name.startswith("head.generator")]
    assert len(moved) > 4
    for name, weight in network.named_parameters():
        if name in moved:
            assert weight.grad is not None and weight.grad.abs().sum() > 0
            torch.testing.assert_close(found[name], weight.grad, msg=name)


def test_the_warm_up_is_a_variational_autoencoder_and_ends() -> None:
    """Its loss in nats a picture, term by term; the discriminator's last layer moves after it only."""
    task, network = made(warm_up=2)
    head = network.head
    torch.manual_seed(1)
    loss = task.loss(network, IMAGES, IMAGES)
    images = IMAGES / 255
    with torch.no_grad():
        mean, log_variance = head.encode(network.backbone(images)[-1].flatten(1)).chunk(2, dim=1)  # type: ignore[operator]
        torch.manual_seed(1)
        codes = mean + (log_variance / 2).exp() * torch.randn(6, 8)
        drawn = torch.sigmoid(head.generator(head.kinds(codes)))  # type: ignore[operator]
        nats = 0.0
        for i in range(6):
            nats += float(((drawn[i] - images[i]) ** 2).sum()) / (2 * 0.5)
            for m, v in zip(mean[i].tolist(), log_variance[i].exp().tolist(), strict=True):
                nats += 0.5 * (m * m + v - 1 - math.log(v))
    assert float(loss) == pytest.approx(nats / len(images), rel=1e-4)
    moved = []
    for _ in range(2):
        network.zero_grad()
        task.loss(network, IMAGES, IMAGES).backward()
        moved.append({name for name, weight in network.named_parameters() if weight.grad is not None})
    assert {name.split(".")[1] for name in moved[0] - moved[1]} == {"encode", "kinds"}
    assert moved[1] - moved[0] == {"head.real.weight", "head.real.bias"}
    assert any(name.startswith("backbone") for name in moved[0])


def test_precision_and_recall_against_a_slow_twin() -> None:
    rng = np.random.default_rng(0)
    real, drawn = rng.normal(size=(40, 3)), rng.normal(0.5, 0.6, size=(30, 3))

    def share(of: np.ndarray, among: np.ndarray) -> float:
        near = 0
        for x in of:
            for y in among:
                reach = sorted(np.linalg.norm(y - z) for z in among)[3]  # the first is itself
                if np.linalg.norm(x - y) <= reach:
                    near += 1
                    break
        return near / len(of)

    found = precision_and_recall(torch.from_numpy(real), torch.from_numpy(drawn))
    assert found == pytest.approx((share(drawn, real), share(real, drawn)))
    assert 0 < found[1] < found[0]


def test_frechet_distance_against_its_formula() -> None:
    rng = np.random.default_rng(0)
    real, drawn = rng.normal(size=(500, 4)), rng.normal(1.0, 2.0, size=(400, 4))
    one, two = np.cov(real.T), np.cov(drawn.T)
    expected = (
        ((real.mean(0) - drawn.mean(0)) ** 2).sum() + np.trace(one + two) - 2 * np.trace(np.real(sqrtm(one @ two)))
    )
    assert frechet_distance(torch.from_numpy(real), torch.from_numpy(drawn)) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(torch.from_numpy(real), torch.from_numpy(real)) == pytest.approx(0, abs=1e-4)


def test_modes_by_hand() -> None:
    """Ten real images, 30 drawn: a mode is a class surely seen in at least a tenth of 30 / 3 = 1 of them."""
    task = GAN(8, normalized=False, warm_up_updates=0, judge=Judge(None, ["a", "b", "c"], None))
    answers = torch.rand(10, 1 + DRAWN, 7)
    answers[:, 0, 0], answers[:, 1:, 0] = 0.75, 0.25
    answers[:, :, 1], answers[:, :, 2] = 0, 0.95  # all of them a
    answers[0, 1, 1:3] = torch.tensor([1, 0.92])  # one is b
    answers[0, 2, 1:3] = torch.tensor([2, 0.5])  # one perhaps c
    measured = task.measure(answers, torch.zeros(10, 1))
    assert measured["modes"] == 2 and measured["sure"] == pytest.approx(29 / 30)
    assert (measured["d_real"], measured["d_drawn"]) == (0.75, 0.25)
    assert measured["value"] == pytest.approx(2 * math.log(0.75))


def test_a_folded_backbone_sees_as_the_normalised_one_did() -> None:
    task, network = made("nature", normalized=True)
    for _ in range(20):  # each forward pass is one power iteration
        task.loss(network, IMAGES, IMAGES)
    weights = {k.removeprefix("backbone."): v for k, v in network.state_dict().items() if k.startswith("backbone.")}
    plain = BACKBONES["nature"](1)  # type: ignore[call-arg]
    plain.load_state_dict(fold_spectral_norm(weights))
    with torch.no_grad():
        for one, two in zip(plain(IMAGES), network.eval().backbone(IMAGES), strict=True):
            torch.testing.assert_close(one, two)
    for name, weight in plain.named_parameters():
        if name.endswith("weight"):
            assert float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2)) == pytest.approx(1, rel=0.05)


def test_latents_stay_where_normal_ones_lie() -> None:
    torch.manual_seed(0)
    one, two = torch.randn(2, 400)
    way = spherical(one, two, torch.linspace(0, 1, 5))
    torch.testing.assert_close(way[0], one)
    torch.testing.assert_close(way[-1], two)
    assert (way.norm(dim=1) - 20).abs().max() < 2


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_judges_and_measures(name: str) -> None:
    task, network = made(name)
    task.loss(network, IMAGES, IMAGES).backward()
    network.eval()
    torch.manual_seed(0)
    answers = task.answer(network, IMAGES)
    assert answers.shape == (6, 1 + DRAWN, 3 + network.backbone.stages[-1].channels)
    assert {"frechet", "precision", "recall", "value"} <= task.measure(answers, IMAGES).keys()
    assert task.picture(network, IMAGES.numpy(), answers).shape[2] == 3
    assert task.words(answers[0].flatten().tolist()).endswith("% real")


def test_the_average_follows_the_generator() -> None:
    task, network = made()
    head = network.head
    before = head.average.module.decode.weight.clone()  # type: ignore[union-attr]
    task.loss(network, IMAGES, IMAGES)
    with torch.no_grad():
        head.generator.decode.weight.add_(1.0)  # type: ignore[union-attr]
    task.loss(network, IMAGES, IMAGES)
    torch.testing.assert_close(head.average.module.decode.weight, before + 9 / 11)  # type: ignore[union-attr]
    task.loss(network.eval(), IMAGES, IMAGES)
    torch.testing.assert_close(head.average.module.decode.weight, before + 9 / 11)  # type: ignore[union-attr]
