"""One gradient step of a Q-network, by torch's own means: the reference for every faster path."""

import copy

import torch
from torch import Tensor

from agents.networks import QNetwork


class EagerUpdate:
    """Forward and backward passes in `dtype`, on a copy of the weights unless that is float32; steps in float32."""

    def __init__(
        self, master: QNetwork, dtype: torch.dtype, optimizer: torch.optim.Optimizer, clip_norm: float
    ) -> None:
        """`network` is what the passes run on; it follows `master`. A `clip_norm` of 0 does not clip."""
        self.network = master if dtype == torch.float32 else copy.deepcopy(master).cast(dtype)
        self._master, self._optimizer, self._clip_norm = master, optimizer, clip_norm
        for weight in master.parameters():
            weight.grad = torch.zeros_like(weight)

    def values(self, images: Tensor) -> Tensor:
        """Return action values (B, A) of images, from which `step` finds its way back."""
        return self.network(images)  # type: ignore[no-any-return]

    def step(self, loss: Tensor) -> Tensor:
        """Minimise a loss of what `values` returned; return the gradient's norm before clipping."""
        gradients = torch.autograd.grad(loss, list(self.network.parameters()))
        masters = [weight.grad for weight in self._master.parameters() if weight.grad is not None]
        with torch.no_grad():
            torch._foreach_copy_(masters, list(gradients))
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(masters)))
            if self._clip_norm > 0:
                excess = (norm / self._clip_norm).clamp(min=1.0)
                if isinstance(self._optimizer, torch.optim.Adam):
                    # Fused Adam divides by `grad_scale` in the pass that it makes anyway.
                    self._optimizer.grad_scale, self._optimizer.found_inf = excess, torch.zeros_like(excess)  # type: ignore[attr-defined]
                else:
                    torch._foreach_div_(masters, excess)
            self._optimizer.step()
        self.network.take(self._master)
        return norm

    def gradient_norms(self) -> dict[str, float]:
        """Return the norm of the last update's gradient of each weight, by name."""
        named = self._master.named_parameters()
        return {name: float(weight.grad.norm()) for name, weight in named if weight.grad is not None}
