import pytest
import torch
from torch import Tensor, nn

from perception.backbones import BACKBONES, Backbone, Stage, draw_weights
from perception.config import Ascent, ConfigError
from perception.dreams import (
    channel_score,
    deep_dream,
    first_filters,
    maximise,
    most_telling,
    responses,
    total_variation,
)

PLAIN = Ascent(updates=300, jitter=0, smoothness=0.0, octaves=1, noise=0.0)
GREY = torch.full((1, 1, 8, 8), 0.5)


class OneFilter(Backbone):
    """Two channels of one 3×3 convolution: bright above dark, and the other way round."""

    minimum_size = 4

    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.stages = 1, (Stage(2, 1),)
        self.conv = nn.Conv2d(1, 2, kernel_size=3, bias=False)
        rows = torch.tensor([1.0, 0.0, -1.0])[:, None].expand(3, 3)
        self.conv.weight.data = torch.stack([rows, -rows])[:, None]

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.conv(images)]


def test_total_variation_against_a_hand_worked_table() -> None:
    images = torch.tensor([[[[0.0, 1.0], [3.0, 3.0]]], [[[2.0, 2.0], [2.0, 2.0]]]])
    assert total_variation(images).tolist() == [3**2 + 2**2 + 1**2, 0.0]


def test_the_best_input_of_a_linear_score_is_white_where_its_weight_is_positive() -> None:
    torch.manual_seed(0)
    weights = torch.randn(2, 1, 8, 8)
    drawn = maximise(lambda x: (x * weights).sum(dim=(1, 2, 3)), GREY.repeat(2, 1, 1, 1), PLAIN, seed=0)
    torch.testing.assert_close(drawn, (weights > 0).float(), atol=0.02, rtol=0)


def test_a_peak_is_found_and_stayed_at() -> None:
    torch.manual_seed(0)
    best = 0.2 + 0.6 * torch.rand(1, 2, 9, 7)  # an odd size, which the octaves do not divide
    ascent = Ascent(updates=400, jitter=0, smoothness=0.0, learning_rate=0.02)

    def score(images: Tensor) -> Tensor:
        return -(images - best).square().sum(dim=(1, 2, 3))

    drawn = maximise(score, torch.full_like(best, 0.5), ascent, seed=0)
    assert float((drawn - best).abs().mean()) < 0.02


def test_the_best_input_of_an_edge_detector() -> None:
    """Summed over all places, bright above dark counts the top two rows, less the bottom two, and nothing between."""
    score = channel_score(OneFilter(), 0, [0, 1])
    drawn = maximise(score, GREY.repeat(2, 1, 1, 1), PLAIN, seed=0)
    for image, (top, bottom) in zip(drawn[:, 0], ((1.0, 0.0), (0.0, 1.0)), strict=True):
        torch.testing.assert_close(image[:2], torch.full((2, 8), top), atol=0.02, rtol=0)
        torch.testing.assert_close(image[-2:], torch.full((2, 8), bottom), atol=0.02, rtol=0)
        torch.testing.assert_close(image[2:-2], torch.full((4, 8), 0.5), atol=0.02, rtol=0)


def test_what_is_penalised_stays() -> None:
    """One weight of 8 among 63 of 1: above a sparsity of 1 it alone is worth a change, above 8 none is."""
    weights = torch.ones(1, 1, 8, 8)
    weights[0, 0, 2, 3] = 8.0
    size = float(weights.square().mean().sqrt())

    def drawn(**options: float) -> Tensor:
        ascent = Ascent(**{"updates": 300, "jitter": 0, "octaves": 1, "smoothness": 0.0, "noise": 0.0, **options})
        return maximise(lambda x: (x * weights).sum(dim=(1, 2, 3)), GREY, ascent, seed=0)[0, 0]

    changed = (drawn(sparsity=2.0 / size) - 0.5).abs() > 0.05
    assert changed.sum() == 1 and changed[2, 3]
    assert not ((drawn(sparsity=9.0 / size) - 0.5).abs() > 0.05).any()
    rough, smooth = drawn(), drawn(smoothness=10.0)
    assert total_variation(smooth[None, None]) < 0.1 * total_variation((weights > 1).float())
    assert float(rough.min()) > 0.95


def test_the_score_sees_the_picture_moved_by_no_more_than_the_jitter() -> None:
    spot = torch.zeros(1, 1, 8, 8)
    spot[0, 0, 4, 4] = 1.0
    seen = set()

    def score(images: Tensor) -> Tensor:
        seen.add(divmod(int(images[0, 0].argmax()), 8))
        return images.sum(dim=(1, 2, 3)) * 1e-9

    maximise(score, spot, Ascent(updates=200, jitter=1, learning_rate=1e-6, noise=0.0), seed=0)
    assert seen == {(row, line) for row in (3, 4, 5) for line in (3, 4, 5)}


def test_a_seed_draws_the_same_again_and_another_does_not() -> None:
    score = channel_score(BACKBONES["convnet"](1), 1, [0, 3])  # type: ignore[call-arg]
    start, ascent = torch.full((2, 1, 16, 16), 0.5), Ascent(updates=5)
    first, again, other = (maximise(score, start, ascent, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_dreams(name: str) -> None:
    """The last stage's channels respond more to what was drawn for them than to the noise that it began with."""
    torch.manual_seed(0)
    backbone = BACKBONES[name](4)  # type: ignore[call-arg]
    draw_weights(backbone)  # under torch's own draw half of the last stage is silent
    size = max(16, backbone.minimum_size)
    filters = first_filters(backbone)
    assert filters.shape[1] == 4 and any(torch.equal(filters, weight) for weight in backbone.parameters())
    score = channel_score(backbone, -1, [0, 1])
    start = torch.rand(2, 4, size, size)
    drawn = maximise(score, start, Ascent(updates=20, jitter=1), seed=0)
    assert drawn.shape == start.shape and float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    with torch.no_grad():
        assert float(score(drawn).sum()) > 1.1 * float(score(start).sum())


def test_deep_dream_keeps_the_picture_and_raises_the_score() -> None:
    torch.manual_seed(0)
    sizes = []
    detector = OneFilter()

    def score(images: Tensor) -> Tensor:
        sizes.append(tuple(images.shape[2:]))
        return detector(images)[0].square().mean(dim=(1, 2, 3))

    picture = torch.rand(1, 40, 28)
    ascent = Ascent(updates=30, dream_rate=0.01, jitter=2, octaves=4)
    dreamt = deep_dream(score, picture, ascent, seed=0, least=16)
    assert list(dict.fromkeys(sizes)) == [(29, 20), (40, 28)]  # (20, 14) is too small
    assert dreamt.shape == picture.shape and not dreamt.requires_grad
    with torch.no_grad():
        assert float(score(dreamt[None])) > 2 * float(score(picture[None]))
    assert float((dreamt - picture).abs().mean()) < 0.3
    assert torch.equal(dreamt, deep_dream(score, picture, ascent, seed=0, least=16))


def test_the_most_telling_channels_and_their_responses() -> None:
    images = torch.zeros(3, 1, 5, 5)
    images[1, 0, 0] = 1.0  # bright above dark
    images[2, 0, 0] = 0.5
    (response,) = responses(OneFilter(), images, batch_size=2)
    # The top row of cells sees a row of 3 bright pixels; a third of the 3×3 cells does.
    torch.testing.assert_close(response, torch.tensor([[0.0, 0.0], [1.0, -1.0], [0.5, -0.5]]))
    assert most_telling(torch.tensor([[0.0, 1.0, 5.0], [0.0, 2.0, 9.0]]), 3) == [2, 1]
    assert most_telling(torch.tensor([[0.0, 1.0, 5.0], [0.0, 2.0, 9.0]]), 1) == [2]


@pytest.mark.parametrize("options", [{"updates": 0}, {"jitter": -1}, {"learning_rate": 0.0}, {"octaves": 0}])
def test_what_cannot_be_meant_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options)).replace("_", "-")):
        Ascent(**options)  # type: ignore[arg-type]
