"""The contract that every backbone keeps."""

import pytest
import torch

from perception.backbones import BACKBONES, ConvNet, ImpalaCNN, LeNet, NatureCNN, ResNet18, adapt_channels


@pytest.mark.parametrize("name", sorted(BACKBONES))
@pytest.mark.parametrize("size", [(84, 84), (64, 96), (36, 36)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_contract(name: str, size: tuple[int, int], channels: int) -> None:
    backbone = BACKBONES[name](channels)  # type: ignore[call-arg]
    images = torch.randint(0, 256, (2, channels, *size), dtype=torch.uint8)
    maps = backbone(images)
    assert len(maps) == len(backbone.stages)
    for feature_map, stage in zip(maps, backbone.stages, strict=True):
        batch, found, height, width = feature_map.shape
        assert (batch, found) == (2, stage.channels)
        # A stride is the map's spacing in pixels: unpadded convolutions lose a few cells at the border.
        assert all(-1 < pixels / stage.stride - cells < 8 for pixels, cells in zip(size, (height, width), strict=True))
    assert [s.stride for s in backbone.stages] == sorted(s.stride for s in backbone.stages)
    assert backbone.map_size(*size) == tuple(maps[-1].shape[2:])


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_bytes_and_scaled_floats_mean_the_same(name: str) -> None:
    backbone = BACKBONES[name](4)  # type: ignore[call-arg]
    images = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    for from_bytes, from_floats in zip(backbone(images), backbone(images.float() / 255), strict=True):
        torch.testing.assert_close(from_bytes, from_floats, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_smaller_than_the_minimum_is_refused(name: str) -> None:
    backbone = BACKBONES[name](4)  # type: ignore[call-arg]
    smallest = backbone.minimum_size
    backbone.map_size(smallest, smallest)
    with pytest.raises(ValueError, match=f"at least {smallest}"):
        backbone.map_size(smallest - 1, 84)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_weight_gets_a_gradient(name: str) -> None:
    backbone = BACKBONES[name](4)  # type: ignore[call-arg]
    backbone(torch.rand(2, 4, 84, 84))[-1].square().sum().backward()
    assert all(w.grad is not None and w.grad.abs().sum() > 0 for w in backbone.parameters())


def test_sizes_of_the_papers() -> None:
    # Mnih et al. 2015: 3,136 features. Espeholt et al. 2018: 11 × 11 × 32.
    assert NatureCNN(4).map_size(84, 84) == (7, 7)
    assert ImpalaCNN(4).map_size(84, 84) == (11, 11)
    assert sum(w.numel() for w in NatureCNN(4).parameters()) == 77_984  # 8,224 + 32,832 + 36,928
    assert [s.channels for s in ImpalaCNN(4, width=2).stages] == [32, 64, 64]
    # LeCun et al. 1998: 120 maps of one cell for 32×32 pixels, and 156 weights in the first layer.
    assert LeNet(1).map_size(32, 32) == (1, 1)
    assert sum(w.numel() for w in LeNet(1).conv1.parameters()) == 156
    assert [s.channels for s in ConvNet(1).stages] == [16, 32, 64]
    # He et al. 2016: 11.2 million weights without the last layer, less what the smaller first layer saves.
    assert 11.1e6 < sum(w.numel() for w in ResNet18(3).parameters()) < 11.2e6


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_weights_for_other_channels_see_a_grey_picture_alike(name: str) -> None:
    grey, stacked = BACKBONES[name](1), BACKBONES[name](4)  # type: ignore[call-arg]
    stacked.load_state_dict(adapt_channels(grey.state_dict(), 4))
    for key, weight in adapt_channels(stacked.state_dict(), 1).items():
        torch.testing.assert_close(weight, grey.state_dict()[key])
    image = torch.rand(1, 1, 84, 84)
    for one, four in zip(grey(image), stacked(image.expand(1, 4, 84, 84)), strict=True):
        torch.testing.assert_close(one, four, rtol=1e-3, atol=1e-3)


def test_channels_are_added_up_or_repeated() -> None:
    three = {"conv.weight": torch.arange(3.0).view(1, 3, 1, 1), "conv.bias": torch.ones(1)}
    two = adapt_channels(three, 2)
    assert two["conv.weight"].flatten().tolist() == [0 + 2, 1] and two["conv.bias"] is three["conv.bias"]
    assert adapt_channels(three, 5)["conv.weight"].flatten().tolist() == pytest.approx([0, 0.6, 1.2, 0, 0.6])
