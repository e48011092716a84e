import math

import numpy as np
import pytest
import torch

from perception.backbones import BACKBONES
from perception.contrast import Contrast, info_nce
from perception.networks import PerceptionNetwork


def test_info_nce_against_a_hand_worked_table() -> None:
    """One place, two samples: the first guess fits its own by log 3 against 0, the second fits both alike."""
    guesses = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    true = torch.tensor([[[math.log(3), 5.0], [0.0, 5.0]]])
    assert float(info_nce(guesses, true)) == pytest.approx((-math.log(3 / 4) - math.log(1 / 2)) / 2)
    # A second place where each guess fits its own beyond doubt halves it.
    sure = torch.tensor([[[99.0, 0.0], [0.0, 99.0]]])
    both = info_nce(torch.cat([guesses, torch.eye(2)[None]]), torch.cat([true, sure]))
    assert float(both) == pytest.approx((-math.log(3 / 4) - math.log(1 / 2)) / 4)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_learns_what_comes_next(name: str) -> None:
    torch.manual_seed(0)
    backbone, task = BACKBONES[name](1), Contrast()  # type: ignore[call-arg]
    network = PerceptionNetwork(backbone, task.make_head(backbone, (36, 36), "st-dim", 0.0))
    images = torch.randint(0, 255, (4, 1, 36, 36), dtype=torch.uint8)
    task.loss(network, images, images.roll(1, 3)).backward()
    assert all(weight.grad is not None for weight in network.parameters())
    answers = task.answer(network, images)
    assert task.picture(network, images.numpy(), answers.detach()).shape[2] == 3


def test_the_order_of_time_is_learnt() -> None:
    """Dots that move on by two pixels: which of 32 comes next is told far better than by chance."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    now, later = np.zeros((2, 32, 1, 36, 36), np.uint8)
    for i, (y, x) in enumerate(rng.integers(2, 28, (32, 2))):
        now[i, 0, y : y + 4, x : x + 4] = later[i, 0, y : y + 4, x + 2 : x + 6] = 255
    backbone, task = BACKBONES["lenet"](1), Contrast()  # type: ignore[call-arg]
    network = PerceptionNetwork(backbone, task.make_head(backbone, (36, 36), "st-dim", 0.0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = task.loss(network, torch.from_numpy(now), torch.from_numpy(later))
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[0] == pytest.approx(math.log(32), abs=0.3) and losses[-1] < 0.6 * math.log(32)
    with torch.no_grad():  # what does not come next is told from it
        others = task.loss(network, torch.from_numpy(now), torch.from_numpy(later).roll(1, dims=0))
    assert float(others) > math.log(32)
