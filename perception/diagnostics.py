"""Told when training goes wrong: how far weights move, which units are dead, and what holds before the first update."""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

MOST_MOVED = 0.3  # of a layer's size, at an update; about a thousandth is healthy
MOST_DEAD = 0.9  # of a layer's units
LEAST_SPREAD = 1e-6  # of what a layer says; of its mean, where that is above 1
OVERFITTING_UPDATES = 300
PAST_GUESSING = 1.05  # times the loss of a guess: what new images may cost at most


@dataclass(frozen=True)
class Layer:
    """How one layer does; what does not apply to it is NaN."""

    update_ratio: float = math.nan
    """Norm of the last update over norm of the weights."""
    gradient_norm: float = math.nan
    """Of the last update's gradient of the weights, before clipping; of SB3's algorithms after it."""
    activation_mean: float = math.nan
    """Of what goes into the ReLU behind it, over a batch."""
    activation_spread: float = math.nan
    """Its standard deviation."""
    dead_share: float = math.nan
    """Share of its units, or channels, that no image of the batch and no place brings above 0."""


class _Relus(TorchFunctionMode):
    """Looks at what goes into each ReLU, under the name of the layer that ended last."""

    def __init__(self) -> None:
        super().__init__()
        self.ended, self.seen = "", dict[str, Layer]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See torch.overrides."""
        if func in (F.relu, torch.relu, torch.relu_) and self.ended:
            values = args[0].detach().float()
            mean = values.mean()
            spread = (values - mean).norm() / math.sqrt(max(1, values.numel() - 1))  # std_mean takes 20 times as long
            alive = (values > 0).amax(dim=[0, *range(2, values.dim())]).float().mean()
            self.seen[self.ended] = Layer(
                activation_mean=float(mean), activation_spread=float(spread), dead_share=1 - float(alive)
            )
        return func(*args, **(kwargs or {}))


def activations(network: nn.Module, forward: Callable[[], object]) -> dict[str, Layer]:
    """Return, by name, the layers of `network` that a ReLU follows, as `forward()`, a pass of a batch, finds them."""
    relus = _Relus()

    def note(name: str) -> Callable[..., None]:
        return lambda *_: setattr(relus, "ended", name)

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, kinds)]
    hooks = [layer.register_forward_hook(note(name)) for name, layer in layers]
    try:
        with torch.no_grad(), relus:
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return relus.seen


def update_ratios(optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Return of each weight the norm of the last update, without its decay, over its own norm.

    Read off the moments that Adam (Kingma & Ba 2014, algorithm 1) or centred RMSProp keep; a weight without is left
    out.
    """
    names, found = {id(weight): name for name, weight in weights.items()}, {}
    for group in optimizer.param_groups:
        for weight in group["params"]:
            state, name = optimizer.state.get(weight, {}), names.get(id(weight))
            if name is None or not state:
                continue
            if "exp_avg" in state:
                beta1, beta2 = group["betas"]
                steps = float(state["step"])
                root = state["exp_avg_sq"].sqrt().div_(math.sqrt(1 - beta2**steps)).add_(group["eps"])
                update = torch.div(state["exp_avg"], root, out=root).div_(1 - beta1**steps)
            elif "square_avg" in state and weight.grad is not None:
                variance = state["square_avg"] - state.get("grad_avg", torch.zeros_like(weight)).square()
                if isinstance(optimizer, torch.optim.RMSprop):
                    root = variance.clamp(min=0).sqrt() + group["eps"]
                else:  # as TensorFlow has it
                    root = (variance + group["eps"]).sqrt()
                update = weight.grad / root
            else:
                continue
            found[name] = float(group["lr"] * update.norm() / weight.detach().norm().clamp(min=1e-12))
    return found


def health(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    gradient_norms: Mapping[str, float],
    forward: Callable[[], object],
) -> dict[str, Layer]:
    """Return how each layer that has weights, or units, does; `gradient_norms` and `forward` as in the parts above."""
    weights = {name: weight for name, weight in network.named_parameters() if weight.dim() > 1}
    ratios, seen = update_ratios(optimizer, weights), activations(network, forward)
    layers = {}
    for weight in weights:
        name = weight.removesuffix(".parametrizations.weight.original").removesuffix(".weight")
        layers[name] = dataclasses.replace(
            seen.get(name, Layer()),
            update_ratio=ratios.get(weight, math.nan),
            gradient_norm=gradient_norms.get(weight, math.nan),
        )
    return {
        name: layer for name, layer in layers.items() if any(value == value for value in dataclasses.astuple(layer))
    }


def faults(layers: Mapping[str, Layer]) -> dict[str, str]:
    """Return warnings by `layer fault`: what is out of bounds, and what usually causes it."""
    found = {}
    for name, layer in layers.items():
        if layer.update_ratio > MOST_MOVED:
            found[f"{name} moves"] = (
                f"layer {name} moves by {layer.update_ratio:.0%} of its size at an update, where 0.1 % is healthy: the "
                "usual cause is too high a learning rate"
            )
        if layer.activation_spread < LEAST_SPREAD * max(1.0, abs(layer.activation_mean)):
            found[f"{name} constant"] = (
                f"layer {name} says the same of every image (spread {layer.activation_spread:.1g}): the usual cause "
                "are weights that began at 0"
            )
        elif layer.dead_share >= MOST_DEAD:
            found[f"{name} dead"] = (
                f"layer {name} is dead: {layer.dead_share:.0%} of its ReLUs pass nothing on. The usual causes are too "
                "high a learning rate and a bias far below 0"
            )
    return found


def worse_than_guessing(training_loss: float, validation_loss: float, guess_loss: float | None) -> str | None:
    """Return a warning where new images cost more than knowing nothing would, losses in nats."""
    if guess_loss is None or not validation_loss > PAST_GUESSING * guess_loss:
        return None
    learnt = "learnt by heart: " if training_loss < guess_loss else ""
    return (
        f"{learnt}the validation loss {validation_loss:.3g} is above the {guess_loss:.3g} of knowing nothing, the "
        f"training loss is {training_loss:.3g}. The usual causes are labels that do not belong to their images, too "
        "few images, and too high a learning rate"
    )


# Before the first update.


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    passed: bool | None
    """None where it does not apply."""
    reason: str


def check_inputs(images: Tensor) -> Check:
    """Check that images (B, C, H, W), uint8 or in [0, 1], are numbers, differ from each other, and fill their range."""
    scaled = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    least, most, mean = float(scaled.min()), float(scaled.max()), float(scaled.mean())
    same = bool((scaled == scaled[0]).all())
    apart = float((scaled - scaled.mean(dim=0)).abs().mean())
    about = f"{least:.2f} to {most:.2f}, mean {mean:.2f}, {apart:.3f} away from their mean picture"
    if not scaled.isfinite().all():
        return Check("inputs", False, "some pixels are not finite numbers")
    if same:
        return Check("inputs", False, f"all images are the same: {about}")
    if least < 0 or most > 1:
        return Check("inputs", False, f"pixels are outside [0, 1] after scaling: {about}")
    return Check("inputs", True, about)


def check_initial_loss(found: float, expected: float | None, theory: str) -> Check:
    """Check that the first loss is what `theory` says, within a half."""
    if expected is None:
        return Check("initial loss", None, f"{found:.3g}; there is no theoretical value")
    about = f"{found:.3g}, expected {expected:.3g} ({theory})"
    if 0.5 * expected <= found <= 1.5 * expected:
        return Check("initial loss", True, about)
    cause = "the last layer's weights are too large" if found > expected else "the answer leaks into the input"
    return Check("initial loss", False, f"{about}: the usual cause is that {cause}")


def check_overfitting(network: nn.Module, loss: Callable[[nn.Module], Tensor], learning_rate: float) -> Check:
    """Check that a copy of `network` learns a few samples, those that `loss` is of, by heart: to a twentieth."""
    learner = copy.deepcopy(network).eval()
    weights = [weight for weight in learner.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, learning_rate)
    first = last = float(loss(learner).detach())
    made = 0
    while made < OVERFITTING_UPDATES and math.isfinite(last) and last >= 0.05 * first:
        value = loss(learner)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        made, last = made + 1, float(value.detach())
    about = f"a few samples: loss {first:.3g} to {last:.3g} in {made} updates"
    if last < 0.05 * first:
        return Check("overfitting", True, about)
    return Check("overfitting", False, f"{about}: the loss does not reach the weights, or the learning rate is wrong")


SLOPE_BOUND = 1e-3  # how far numeric and analytic slopes may differ, as a share


class _InFloat64(TorchFunctionMode):
    """Lets everything that meets a float64 be one; a cast to float32 is none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See torch.overrides."""
        given = (args, kwargs or {})
        if func is torch.Tensor.float:
            return args[0].double()
        if any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in tree_leaves(given)):
            given = tree_map_only(Tensor, lambda x: x.double() if x.dtype == torch.float32 else x, given)
        return func(*given[0], **given[1])


def check_gradients(network: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Check:
    """Check, weight by weight in float64, the slope along the gradient against its norm, which it must equal.

    Central differences over a millionth of the weight's size, or, where that steps over too many kinks of ReLUs, over a
    hundredth of it; within a thousandth. Weights are moved a little from where they are: biases of 0 leave black pixels
    on the very kink.
    """
    numeric = copy.deepcopy(network).double().eval()
    generator = torch.Generator().manual_seed(0)
    weights = dict(numeric.named_parameters())
    for weight in weights.values():
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
        weight.requires_grad_(False).add_(noise, alpha=1e-3).requires_grad_(True)
    worst, where = 0.0, ""
    with _InFloat64():
        gradients = torch.autograd.grad(loss(numeric), list(weights.values()), allow_unused=True)
        with torch.no_grad():
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                if gradient is None or (norm := float(gradient.norm())) < 1e-9:
                    continue
                off = math.inf
                for share in (1e-6, 1e-8):
                    step = share * max(float(weight.norm()), 1.0)
                    weight.add_(gradient, alpha=step / norm)
                    above = float(loss(numeric))
                    weight.add_(gradient, alpha=-2 * step / norm)
                    below = float(loss(numeric))
                    weight.add_(gradient, alpha=step / norm)
                    off = min(off, abs((above - below) / (2 * step) / norm - 1))
                    if off < SLOPE_BOUND:
                        break
                if off >= worst:
                    worst, where = off, name
    if not where:
        return Check("gradients", False, "no weight gets a gradient: the usual cause are weights that are all 0")
    about = f"numeric and analytic differ by {worst:.1e} at most ({where})"
    right = worst < SLOPE_BOUND
    return Check("gradients", right, about if right else f"{about}: the backward pass is wrong")
