"""One gradient step of a Q-network, by torch's own means: the reference for every faster path."""

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from agents.auxiliary import Auxiliary
from agents.losses import double_td_error, huber, td_error
from agents.networks import QNetwork

# What an update tells: mean Huber loss, mean absolute TD error, mean value of the actions learnt from, and the
# gradient's global norm before clipping.
LEARNED = ("loss", "td_error", "q", "gradient_norm")


class PreparedBatch(NamedTuple):
    """A batch with what does not depend on the online weights already worked out."""

    frames_tm1: Tensor  # (B, C, H, W) uint8, the states acted in
    frames_t: Tensor  # (B, C, H, W) uint8, the states reached; (B, 0) unless double or an auxiliary task needs them
    a_tm1: Tensor  # (B,) int64
    r_t: Tensor  # (B,) float32
    discount_t: Tensor  # (B,) float32
    q_t: Tensor  # (B, A) float32, the target network's values of the states reached

    def split(self, batch_size: int) -> list["PreparedBatch"]:
        """Cut into batches of `batch_size`."""
        return [PreparedBatch(*parts) for parts in zip(*(tensor.split(batch_size) for tensor in self), strict=True)]


class EagerUpdate:
    """Forward and backward passes in `dtype`, on a copy of the weights unless that is float32; steps in float32."""

    def __init__(
        self,
        master: QNetwork,
        dtype: torch.dtype,
        optimizer: torch.optim.Optimizer,
        clip_norm: float,
        double: bool,
        auxiliary: Auxiliary | None = None,
    ) -> None:
        """`network` is what the passes run on; it follows `master`. A `clip_norm` of 0 does not clip."""
        self.network = master if dtype == torch.float32 else copy.deepcopy(master).cast(dtype)
        self._master, self._optimizer, self._clip_norm, self._double = master, optimizer, clip_norm, double
        self._auxiliary = auxiliary
        self._excess = torch.ones(())  # what clipping divided the gradient by
        self._weights = [*master.parameters(), *(auxiliary.head.parameters() if auxiliary else ())]
        self._gradients = [torch.zeros_like(weight) for weight in self._weights]
        for weight, gradient in zip(self._weights, self._gradients, strict=True):
            weight.grad = gradient
        self._frozen = False
        self._may_step = threading.Event()
        self._may_step.set()

    def learn(self, prepared: PreparedBatch, shown: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Make the update; return `LEARNED`, (4,), on the device.

        With an auxiliary task, which is `shown` images and targets, also `AUXILIARY_LEARNED`: (7,).
        """
        frames_tm1, frames_t, a_tm1, r_t, discount_t, q_t = prepared
        q_tm1 = self.network(frames_tm1)
        if self._double:
            with torch.no_grad():
                selector = self.network(frames_t)
            error = double_td_error(q_tm1, a_tm1, r_t, discount_t, q_t, selector)
        else:
            error = td_error(q_tm1, a_tm1, r_t, discount_t, q_t)
        loss = huber(error).mean()
        with torch.no_grad():
            learned = [loss.detach(), error.abs().mean(), q_tm1.gather(1, a_tm1.unsqueeze(1)).mean()]
        learning = self.network.head if self._frozen else self.network
        gradients = torch.autograd.grad(loss, list(learning.parameters()))
        torch._foreach_copy_(self._learnt()[: len(gradients)], list(gradients))
        beside = [] if shown is None else self._join(*shown)
        return torch.stack([*learned, self._step(), *beside])

    def learn_each(self, batches: list[PreparedBatch]) -> list[Tensor]:
        """Make an update with each batch, one after the other, without an auxiliary task; return what each tells."""
        return [self.learn(prepared) for prepared in batches]

    def _join(self, images: Tensor, targets: Tensor) -> list[Tensor]:
        """Add the auxiliary task's gradient to the agent's, its head's to its own; return `AUXILIARY_LEARNED`."""
        assert self._auxiliary is not None
        weight, backbone = self._auxiliary.weight, self.network.backbone
        loss, gradients = self._auxiliary.gradients(backbone, images, targets)
        shared = len(list(backbone.parameters()))
        agents, tasks = self._gradients[:shared], [gradient.float() for gradient in gradients]
        norms = [_norm(agents), _norm(tasks[:shared])]
        torch._foreach_add_(agents, tasks[:shared], alpha=weight)
        own = self._gradients[len(self._gradients) - len(tasks) + shared :]
        torch._foreach_copy_(own, tasks[shared:])
        return [loss.float(), *norms]

    def _step(self) -> Tensor:
        """Step along the gradients that there are; return their norm before clipping."""
        self._may_step.wait()
        with torch.no_grad():
            norm = _norm(self._learnt())
            if self._clip_norm > 0:
                self._excess = excess = (norm / self._clip_norm).clamp(min=1.0)
                if isinstance(self._optimizer, torch.optim.Adam):
                    # Fused Adam divides by `grad_scale` in the pass that it makes anyway.
                    self._optimizer.grad_scale = excess  # type: ignore[attr-defined]
                else:
                    torch._foreach_div_(self._learnt(), excess)
            self._optimizer.step()
        self.network.take(self._master)
        return norm

    def _learnt(self) -> list[Tensor]:
        """Return the gradients of what is not frozen."""
        return self._gradients[len(list(self.network.backbone.parameters())) if self._frozen else 0 :]

    @contextlib.contextmanager
    def weights_held(self) -> Iterator[None]:
        """Let updates that begin meanwhile wait, before they change a weight, until this ends."""
        self._may_step.clear()
        try:
            yield
        finally:
            self._may_step.set()

    def freeze(self, frozen: bool) -> None:
        """Leave the backbone and the optimizer's moments of it as they are in the updates from now on; or no longer."""
        if frozen != self._frozen:
            self._frozen = frozen
            for weight, gradient in zip(self._master.backbone.parameters(), self._gradients, strict=False):
                weight.grad = None if frozen else gradient

    def help_until(self, done: Callable[[], bool]) -> None:
        """Return at once: this update is made by one thread."""

    def gradient_norms(self) -> dict[str, float]:
        """Return the norm of the last update's gradient of each weight, by name, before clipping."""
        named = self._master.named_parameters()
        return {name: float(weight.grad.norm() * self._excess) for name, weight in named if weight.grad is not None}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what an optimizer keeps of each weight, by the weight's number and the name of what it is."""
    kept = optimizer.state_dict()["state"].items()
    return {f"{index}.{name}": value for index, moments in kept for name, value in moments.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give back what `optimizer_tensors` returned, in each weight's memory format, which is not saved."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".")
        weight = weights[int(index)]
        moments.setdefault(int(index), {})[name] = (
            torch.empty_like(weight).copy_(value) if value.shape == weight.shape else value
        )
    before = optimizer.state_dict()  # what the compiled path has from the start, others lack before an update
    optimizer.load_state_dict(before | {"state": before["state"] | moments})


def _norm(tensors: list[Tensor]) -> Tensor:
    """Return the global norm ()."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
