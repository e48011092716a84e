"""A perception task learnt beside play: its gradient joins the agent's on the backbone (Jaderberg et al. 2017)."""

import torch
from torch import Tensor, nn

from perception.backbones import Backbone
from perception.networks import PerceptionNetwork, Task

# What an update tells besides `LEARNED`: the task's loss, and the norms of the two gradients on the backbone, before
# the task's is weighed.
AUXILIARY_LEARNED = ("auxiliary_loss", "backbone_gradient_norm", "auxiliary_gradient_norm")


class Auxiliary:
    """A task and its head, float32, which stands beside the Q head.

    `weight` times the gradient of its loss is added to the agent's on the backbone; the head learns by the whole of it,
    so that a task that weighs little is learnt all the same.
    """

    def __init__(self, task: Task, head: nn.Module, weight: float) -> None:
        self.task, self.head, self.weight = task, head.train(), weight

    def gradients(self, backbone: Backbone, images: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss () and its gradient of the backbone's weights, then of the head's.

        Images are uint8 (K, C, H, W), targets the task's. Passes have the precision of the backbone's weights.
        """
        weights = [*backbone.parameters(), *self.head.parameters()]
        dtype, device = weights[0].dtype, images.device.type
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = self.task.loss(PerceptionNetwork(backbone, self.head), images, targets)
        return loss.detach(), list(torch.autograd.grad(loss, weights))
