"""What diagnostics say: worked by hand, and of faults planted in real runs, each of which must be named."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import nn
from torch.nn import functional as F

from perception.diagnostics import (
    Layer,
    activations,
    check_gradients,
    check_initial_loss,
    check_inputs,
    check_overfitting,
    faults,
    update_ratios,
    worse_than_guessing,
)
from runs import perception_run, train_perception
from runs.commands import DIVERGED


class TwoLayers(nn.Module):
    """Two units, a ReLU behind them, one output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(1, 2), nn.Linear(2, 1)
        self.first.weight.data = torch.tensor([[1.0], [-1.0]])
        self.first.bias.data = torch.tensor([0.0, -2.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.relu(self.first(x), inplace=True))


def test_activations_by_hand() -> None:
    network = TwoLayers()
    found = activations(network, lambda: network(torch.tensor([[1.0], [3.0]])))
    # The units say 1 and 3, and -3 and -5: the second is never above 0.
    assert list(found) == ["first"]
    assert found["first"].activation_mean == pytest.approx(-1.0)
    assert found["first"].activation_spread == pytest.approx(math.sqrt((4 + 16 + 4 + 16) / 3))
    assert found["first"].dead_share == 0.5


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "rmsprop of SB3's a2c"])
def test_update_ratios_are_what_the_weights_moved_by(name: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = {
        "adam": lambda: torch.optim.Adam(network.parameters(), lr=0.01),
        "adamw": lambda: torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.0),
        "rmsprop": lambda: torch.optim.RMSprop(network.parameters(), lr=0.01, centered=True, eps=1e-4),
        "rmsprop of SB3's a2c": lambda: RMSpropTFLike(network.parameters(), lr=0.01, eps=1e-5),
    }[name]()
    before = network
    for _ in range(3):
        before = copy.deepcopy(network)
        optimizer.zero_grad()
        network(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
    weights = dict(network.named_parameters())
    found = update_ratios(optimizer, weights)
    assert found.keys() == weights.keys()
    for key, old in before.named_parameters():
        moved = float((weights[key] - old).detach().norm() / weights[key].detach().norm())
        assert found[key] == pytest.approx(moved, rel=1e-3), key


def test_faults_by_hand() -> None:
    healthy = Layer(1e-3, 1.0, 0.1, 1.0, 0.3)
    assert faults({"a": healthy, "b": Layer()}) == {}
    found = faults(
        {
            "quick": dataclasses.replace(healthy, update_ratio=0.4),
            "flat": dataclasses.replace(healthy, activation_spread=0.0, dead_share=1.0),
            "flat and far": dataclasses.replace(healthy, activation_mean=-500.0, activation_spread=1e-4),
            "dark": dataclasses.replace(healthy, dead_share=0.95),
        }
    )
    assert found.keys() == {"quick moves", "flat constant", "flat and far constant", "dark dead"}
    assert "moves by 40% of its size" in found["quick moves"] and "95% of its ReLUs" in found["dark dead"]


def test_worse_than_guessing_by_hand() -> None:
    assert worse_than_guessing(2.0, 2.3, 2.303) is None
    assert worse_than_guessing(2.3, 9.0, None) is None
    assert "learnt by heart" in (worse_than_guessing(0.5, 3.0, 2.303) or "")
    assert "learnt by heart" not in (worse_than_guessing(2.6, 2.5, 2.303) or "learnt by heart")


def test_checks_by_hand() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 4, 3, 3)
    assert check_inputs(images).passed and "0.500 away" in check_inputs(images).reason
    assert not check_inputs(images[:1].expand(2, -1, -1, -1)).passed
    assert not check_inputs(images.float()).passed  # not scaled
    for grey in (7, 13, 26):
        assert not check_inputs(torch.full((40, 1, 3, 3), grey, dtype=torch.uint8)).passed
    assert check_initial_loss(2.5, math.log(10), "log 10").passed
    assert not check_initial_loss(9.0, math.log(10), "log 10").passed
    assert check_initial_loss(9.0, None, "").passed is None


class Wrong(torch.autograd.Function):
    """The identity, with a gradient that is twice too large."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return 2 * gradients[0]


def test_a_wrong_backward_pass_and_a_loss_that_does_not_reach_the_weights_are_found() -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(6, 3)
    y = torch.randn(6, 1)

    def right(n: nn.Module) -> torch.Tensor:
        return F.mse_loss(n(x.to(next(n.parameters()).dtype)), y.to(next(n.parameters()).dtype))

    assert check_gradients(network, right).passed
    assert check_overfitting(network, right, 0.05).passed
    assert not check_gradients(network, lambda n: Wrong.apply(right(n))).passed  # type: ignore[no-untyped-call]
    assert not check_overfitting(network, lambda n: right(n).detach() + 0 * right(n), 0.05).passed
    for weight in network.parameters():
        nn.init.zeros_(weight)
    assert not check_gradients(network, lambda n: right(n) * 0).passed


# Planted faults.

DIGITS = (
    "classification --data digits --backbone lenet --total-updates 40 --log-every-updates 10 --augmentation none "
    "--evaluate-every-updates 20 --tracking none --num-threads 1 --precision float32"
).split()


def warnings(out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert train_perception.main([*DIGITS, *options, "--out", str(out)]) in (0, DIVERGED)
    printed = " ".join(" ".join(capsys.readouterr()).split())
    assert (out / "layers.csv").exists()
    return printed


def planted(monkeypatch: pytest.MonkeyPatch, plant: Any) -> None:
    """Let `plant` spoil each network that a run makes."""
    make = perception_run.make_network

    def spoilt(*args: Any) -> nn.Module:
        network = make(*args)
        with torch.no_grad():
            plant(network)
        return network

    monkeypatch.setattr(perception_run, "make_network", spoilt)


def test_a_healthy_run_is_not_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "warning" not in warnings(tmp_path / "run", capsys)


def test_a_learning_rate_times_1000_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = warnings(tmp_path / "run", capsys, "--learning-rate", "1.0")
    assert "of its size at an update" in printed and "too high a learning rate" in printed


def test_weights_of_zero_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch, lambda network: [weight.zero_() for weight in network.parameters()])
    assert "layer backbone.conv2 says the same of every image" in warnings(tmp_path / "run", capsys)


def test_a_dead_layer_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch, lambda network: network.backbone.conv2.bias.fill_(-10))
    printed = warnings(tmp_path / "run", capsys)
    assert "layer backbone.conv2 is dead" in printed and "layer backbone.conv1" not in printed


def test_shuffled_labels_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = perception_run.open_dataset

    def shuffled(*args: Any) -> Any:
        data = opened(*args)
        return dataclasses.replace(data, targets=data.targets[torch.randperm(len(data.targets)).numpy()])

    monkeypatch.setattr(perception_run, "open_dataset", shuffled)
    longer = ["--total-updates", "400", "--evaluate-every-updates", "100", "--no-baselines"]
    printed = warnings(tmp_path / "run", capsys, *longer)
    assert "learnt by heart" in printed and "labels that do not belong to their images" in printed
