import math

import numpy as np
import pytest
import torch

from perception.backbones import BACKBONES
from perception.networks import PerceptionNetwork
from perception.pictures import hues
from perception.segmentation import VOID, Segmentation, balanced_weights, centred, near, segmentation_loss


def test_loss_against_a_hand_worked_table() -> None:
    """One picture of two pixels, two classes with weights 1 and 3."""
    logits = torch.tensor([0.0, 0.0, math.log(3), math.log(4)]).view(1, 2, 1, 2)
    masks = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    # p(0) of the first pixel is 1/4, p(1) of the second 4/5.
    expected = (-1 * math.log(1 / 4) - 3 * math.log(4 / 5)) / (1 + 3)
    assert float(segmentation_loss(logits, masks, torch.tensor([1.0, 3.0]))) == pytest.approx(expected)


def test_rare_classes_weigh_more() -> None:
    """Frequencies 16/21, 4/21, 1/21, median 4/21; a class without pixels weighs nothing."""
    weights = balanced_weights(torch.tensor([16, 4, 0, 1]))
    assert weights.tolist() == pytest.approx([0.5, 1.0, 0.0, 2.0])


def test_centred_pads_and_cuts_alike_on_both_sides() -> None:
    line = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    assert centred(line, 1, 5).flatten().tolist() == [1, 1, 2, 3, 3]
    assert centred(line, 1, 1).flatten().tolist() == [2]
    assert centred(line.transpose(2, 3), 6, 1).flatten().tolist() == [1, 1, 2, 3, 3, 3]


def test_near_is_one_pixel_with_diagonals() -> None:
    mask = torch.zeros(1, 5, 5, dtype=torch.bool)
    mask[0, 1, 1] = True
    assert near(mask)[0].int().tolist() == [[1, 1, 1, 0, 0]] * 3 + [[0] * 5] * 2


def test_measure_against_a_hand_worked_table() -> None:
    """A ball of two pixels, seen one pixel beside its place, and once more where there is none."""
    task = Segmentation(["background", "ball", "bat"], torch.ones(3))
    truth, said = torch.zeros(1, 6, 6, dtype=torch.uint8), torch.zeros(1, 6, 6, dtype=torch.uint8)
    truth[0, 1, 1:3] = 1
    said[0, 1, 2:4] = 1
    said[0, 5, 5] = 1
    measured = task.measure(said, truth)
    # Ball: one pixel in common of four. Background: 32 in common, of 34 true and 33 said.
    assert measured["iou_ball"] == pytest.approx(1 / 4)
    assert measured["iou_background"] == pytest.approx(32 / 35)
    assert measured["miou"] == pytest.approx((1 / 4 + 32 / 35) / 2)  # no bat anywhere: it does not count
    assert "iou_bat" not in measured
    assert measured["recall_ball"] == 1.0  # each of its two pixels has one said beside it
    assert measured["precision_ball"] == pytest.approx(2 / 3)


def test_pixels_that_nobody_labelled_do_not_count() -> None:
    task = Segmentation(["background", "ball"], torch.ones(2))
    truth, said = torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, 4, 4, dtype=torch.uint8)
    truth[:, 0], said[:, 0], truth[:, 1] = VOID, 1, 1
    measured = task.measure(said, truth)
    assert (measured["miou"], measured["accuracy"]) == (pytest.approx((0 + 2 / 3) / 2), pytest.approx(2 / 3))
    assert task.majority(truth)[:2].tolist() == [[0] * 4, [1] * 4]
    places = torch.tensor([[VOID, 1], [VOID, 1], [VOID, 0], [1, 0], [1, 0], [0, 0]], dtype=torch.uint8)[:, None]
    assert task.majority(places).tolist() == [[1, 0]]
    assert task.picture(None, np.zeros((2, 4, 4, 4), np.uint8), said, truth).shape[2] == 3  # type: ignore[arg-type]
    logits = torch.randn(2, 2, 4, 4)
    known = segmentation_loss(logits[:, :, 1:], truth[:, 1:], torch.ones(2))
    torch.testing.assert_close(segmentation_loss(logits, truth, torch.ones(2)), known)


@pytest.mark.parametrize("kind", ["skips", "decoder"])
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_heads_answer_every_pixel(name: str, kind: str) -> None:
    backbone = BACKBONES[name](4)  # type: ignore[call-arg]
    task = Segmentation(["background", "thing"], torch.ones(2))
    for size in ((84, 84), (40, 52)):
        network = PerceptionNetwork(backbone, task.make_head(backbone, size, kind, 0.0))
        images = torch.rand(2, 4, *size)
        assert network(images).shape == (2, 2, *size)
        task.loss(network, images, torch.ones(2, *size, dtype=torch.uint8)).backward()


def test_a_dot_is_found_to_the_pixel() -> None:
    """A few steps on dots of 2×2 pixels: the finest map's cells are as large as four by four."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    images, masks = np.zeros((64, 1, 36, 36), np.uint8), np.zeros((64, 36, 36), np.uint8)
    for image, mask, (y, x) in zip(images, masks, generator.integers(4, 30, (64, 2)), strict=True):
        image[0, y : y + 2, x : x + 2] = 255
        mask[y : y + 2, x : x + 2] = 1
    task = Segmentation(["background", "dot"], torch.from_numpy(np.bincount(masks.ravel())))
    backbone = BACKBONES["nature"](1)  # type: ignore[call-arg]
    network = PerceptionNetwork(backbone, task.make_head(backbone, (36, 36), "skips", 0.0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(150):
        optimizer.zero_grad()
        task.loss(network, torch.from_numpy(images), torch.from_numpy(masks)).backward()
        optimizer.step()
    answers = task.answer(network, torch.from_numpy(images))
    assert task.measure(answers, torch.from_numpy(masks))["iou_dot"] > 0.9


def test_words_and_picture() -> None:
    task = Segmentation(["background", "ball", "bat"], torch.ones(3))
    assert task.words([0, 2, 0, 1, 2]) == "ball 1 px, bat 2 px" and task.words([0]) == "nothing"
    masks = torch.zeros(7, 84, 84, dtype=torch.uint8)
    network = PerceptionNetwork(backbone := BACKBONES["nature"](4), task.make_head(backbone, (84, 84), "skips", 0.0))
    picture = task.picture(network, np.zeros((7, 4, 84, 84), np.uint8), masks, masks)
    tile = 168 + 6
    assert picture.shape[0] > 6 * (tile + 13) and picture.shape[1:] == (6 * tile + 6, 3)
    legend = {tuple(colour) for colour in picture[-25:].reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in hues(3).tolist()} <= legend
    alone = task.picture(network, np.zeros((1, 4, 84, 84), np.uint8), masks[:1])
    assert alone.shape[1] == tile + 6  # where names do not fit beside each other, they stand below
