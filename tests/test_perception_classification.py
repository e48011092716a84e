import math

import numpy as np
import pytest
import torch

from perception.backbones import NatureCNN
from perception.classification import UNSEEN, Classification, ClassificationHead, classification_loss, spread_labels
from perception.networks import PerceptionNetwork

TASK = Classification({"x": ["10", "20", "30"], "y": ["a", "b"]})


def test_loss_against_a_hand_worked_table() -> None:
    """Two outputs of three and two values; the second sample's x was never seen in training."""
    logits = torch.tensor([[0.0, math.log(2), math.log(3), 0.0, 0.0], [99.0, 99.0, -99.0, math.log(3), 0.0]])
    targets = torch.tensor([[2, 1], [UNSEEN, 0]])
    # x: of the first sample alone, 3 of 1 + 2 + 3. y: 1 of 2, and 3 of 4; the mean of the two outputs.
    expected = (-math.log(3 / 6) + (-math.log(1 / 2) - math.log(3 / 4)) / 2) / 2
    assert float(classification_loss(logits, targets, [torch.eye(3), torch.eye(2)])) == pytest.approx(expected)


def test_an_untrained_head_loses_log_of_the_number_of_classes() -> None:
    logits, targets = torch.zeros(4, 10), torch.zeros(4, 1, dtype=torch.int64)
    assert float(classification_loss(logits, targets, [torch.eye(10)])) == pytest.approx(math.log(10))


def test_spread_labels_against_a_hand_worked_table() -> None:
    """Of the values 1, 2 and 4 with a spread of 1: exp(-1/2) at a distance of 1, exp(-2) at 2, exp(-9/2) at 3."""
    near, far, farther = math.exp(-1 / 2), math.exp(-2), math.exp(-9 / 2)
    table = [[1, near, farther], [near, 1, far], [farther, far, 1]]
    expected = [[p / sum(row) for p in row] for row in table]
    assert spread_labels([1, 2, 4], 1.0).tolist() == [pytest.approx(row) for row in expected]
    # With it the loss of a sample is the cross entropy against its row.
    logits = torch.tensor([[0.0, math.log(2), math.log(3)]])
    loss = classification_loss(logits, torch.tensor([[1]]), [spread_labels([1, 2, 4], 1.0)])
    assert float(loss) == pytest.approx(-sum(p * math.log(q / 6) for p, q in zip(expected[1], (1, 2, 3), strict=True)))
    # What is so near that it cannot be told apart from the value is one-hot.
    torch.testing.assert_close(spread_labels([1, 2, 4], 0.01), torch.eye(3))


def test_measure_against_a_hand_worked_table() -> None:
    task = Classification({"class": ["a", "b", "c"]})
    answers = torch.tensor([[0], [0], [1], [2], [2]])
    targets = torch.tensor([[0], [1], [1], [2], [UNSEEN]])
    measured = task.measure(answers, targets)
    # F1 of a 2/3 (precision 1/2, recall 1), of b 2/3 (1, 1/2), of c 2/3 (1/2, 1), of what was never seen 0.
    assert measured["accuracy"] == pytest.approx(3 / 5)
    assert measured["f1_macro"] == pytest.approx((2 / 3 * 3) / 4)
    assert measured["f1_weighted"] == pytest.approx((1 * 2 / 3 + 2 * 2 / 3 + 1 * 2 / 3 + 0) / 5)


def test_measure_is_a_mean_over_outputs() -> None:
    answers, targets = torch.tensor([[0, 0], [1, 0]]), torch.tensor([[0, 1], [1, 1]])
    measured = TASK.measure(answers, targets)
    assert (measured["accuracy"], measured["f1_weighted"]) == (0.5, 0.5)
    assert (measured["f1_x"], measured["f1_y"]) == (1.0, 0.0)


def test_majority_ignores_what_was_never_seen() -> None:
    targets = torch.tensor([[UNSEEN, 1], [UNSEEN, 0], [2, 1], [UNSEEN, 1]])
    assert TASK.majority(targets).tolist() == [2, 1]


@pytest.mark.parametrize(("kind", "weights"), [("linear", 3136 * 5 + 5), ("mlp", 3136 * 512 + 512 + 512 * 5 + 5)])
def test_heads(kind: str, weights: int) -> None:
    backbone = NatureCNN(4)
    head = TASK.make_head(backbone, (84, 84), kind, 0.5)
    assert isinstance(head, ClassificationHead) and sum(w.numel() for w in head.parameters()) == weights
    network, images = PerceptionNetwork(backbone, head), torch.zeros(2, 4, 84, 84)
    assert network(images).shape == (2, 5) and TASK.answer(network, images).shape == (2, 2)


def test_words_and_picture() -> None:
    assert TASK.words([1, 0]) == "x 20, y a"
    assert TASK.words([UNSEEN, 0]) == "x unseen, y a"
    images = np.zeros((9, 3, 32, 32), np.uint8)
    network = PerceptionNetwork(backbone := NatureCNN(3), TASK.make_head(backbone, (36, 36), "linear", 0.0))
    picture = TASK.picture(network, images, torch.zeros(9, 2, dtype=torch.int64), torch.ones(9, 2, dtype=torch.int64))
    assert picture.shape[2] == 3 and picture.shape[1] > 8 * 168 and picture.shape[0] > 2 * 168
