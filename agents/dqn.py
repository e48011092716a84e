"""Deep Q-learning: act, prepare a batch, learn from it.

The master weights and the optimizer's moments are float32. With bf16 precision forward and backward passes run on a
bfloat16 copy of the weights that each update refreshes; the gradients are applied to the master weights in float32.
On a CPU with bf16 instructions the whole update is compiled (`native.py`), on an NVIDIA GPU it is captured
(`captured.py`); torch's own is the reference.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents import native
from agents.auxiliary import AUXILIARY_LEARNED, Auxiliary
from agents.captured import CapturedUpdate
from agents.config import DQNConfig
from agents.networks import QNetwork
from agents.replay import Batch, on_device, restore_generator
from agents.schedules import linear
from agents.updates import LEARNED, EagerUpdate, PreparedBatch, load_optimizer, optimizer_tensors
from perception.backbones import BACKBONES, Backbone, with_prefix

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


class DQN:
    """A Q-network, its target network and its optimizer. Of the environment it knows shapes and `num_actions` only."""

    def __init__(
        self,
        config: DQNConfig,
        num_actions: int,
        *,
        frame_shape: tuple[int, int] = (84, 84),
        stack: int = 4,
        device: torch.device | str = "cpu",
        precision: str = "float32",
        seed: int = 0,
        auxiliary: Auxiliary | None = None,
    ) -> None:
        """Make an agent with fresh weights, drawn by `seed`; `precision` is float32 or bf16.

        With an `auxiliary` task the update is torch's own, which alone has room for a further gradient.
        """
        self.config, self.num_actions = config, num_actions
        self.frame_shape, self.stack = frame_shape, stack
        self.device, self.dtype = torch.device(device), DTYPES[precision]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = BACKBONES[config.backbone](stack)
            # The one place that chooses between the compiled path, the captured one, and torch's own.
            compiled = self.device.type == "cpu" and precision == "bf16" and config.optimizer == "adam"
            compiled = compiled and auxiliary is None and native.fits(backbone, frame_shape)
            captured = self.device.type == "cuda" and auxiliary is None
            network = native.NativeQNetwork if compiled else QNetwork
            self.online = network(backbone, frame_shape, num_actions, config.dueling)
            if config.initialization == "orthogonal":
                self.online.initialize_orthogonally()
        self.online.to(self.device)
        if not compiled:
            self.online.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.target = copy.deepcopy(self.online).cast(self.dtype).requires_grad_(False)
        self.auxiliary = auxiliary
        parts: list[nn.Module] = [self.online.backbone, self.online.head]
        if auxiliary is not None:
            parts.append(auxiliary.head.to(self.device))
        self.optimizer = _make_optimizer(config, parts, captured)
        if isinstance(self.online, native.NativeQNetwork) and isinstance(self.optimizer, torch.optim.Adam):
            self._update = native.NativeUpdate(self.online, self.optimizer, config.gradient_clip_norm)
        else:
            kind = CapturedUpdate if captured else EagerUpdate
            clip_norm, double = config.gradient_clip_norm, config.double
            self._update = kind(self.online, self.dtype, self.optimizer, clip_norm, double, auxiliary)
        self.learned = LEARNED if auxiliary is None else LEARNED + AUXILIARY_LEARNED
        self._later = config.double or auxiliary is not None  # whether batches keep the states reached
        self._generator = torch.Generator(device=self.device).manual_seed(seed)

    @torch.inference_mode()
    def q_values(self, frames: NDArray[np.uint8] | Tensor) -> Tensor:
        """Return action values (B, A) float32 of stacks (B, C, H, W)."""
        seen = frames if isinstance(frames, Tensor) else on_device(frames, self.device)
        return self._update.network(seen.to(self.device))

    draws = False

    @property
    def backbone(self) -> Backbone:
        """The online network's eye."""
        return self.online.backbone

    def opinion(self, frames: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Return what it makes of each action (B, A), and the value of the state (B,): to be looked at."""
        q = self.q_values(frames)
        return q, q.amax(dim=1)

    @torch.inference_mode()
    def act(self, frames: NDArray[np.uint8], epsilon: float = 0.0) -> Tensor:
        """Return actions (B,) int64 for stacks (B, C, H, W): greedy, but uniform with probability `epsilon` each.

        At 0 no random number is drawn, so that an evaluation leaves a run's exploration as it is.
        """
        if epsilon <= 0:
            return self.q_values(frames).argmax(dim=1)
        draws = torch.rand(2, len(frames), generator=self._generator, device=self.device)
        uniform = (draws[1] * self.num_actions).long()
        if epsilon >= 1:
            return uniform
        return torch.where(draws[0] < epsilon, uniform, self.q_values(frames).argmax(dim=1))

    @torch.no_grad()
    def prepare(self, batch: Batch) -> PreparedBatch:
        """Value the states reached by the target network, which does not move with updates."""
        return PreparedBatch(
            frames_tm1=batch.frames_tm1,
            frames_t=batch.frames_t if self._later else batch.frames_t.new_empty(len(batch.frames_t), 0),
            a_tm1=batch.a_tm1,
            r_t=batch.r_t,
            discount_t=batch.discount_t,
            q_t=self.target(batch.frames_t),
        )

    def learn(self, prepared: PreparedBatch, shown: tuple[Tensor, Tensor] | None = None) -> dict[str, Tensor]:
        """Make one update; return the numbers named in `learned`.

        They stay on the device: nothing waits for them here. `shown` are images and targets of the auxiliary task.
        """
        return dict(zip(self.learned, self._update.learn(prepared, shown), strict=True))  # type: ignore[arg-type]

    def learn_each(self, batches: list[PreparedBatch]) -> list[Tensor]:
        """Make an update with each batch, one after the other; return the numbers named in `learned`, (4,), of each."""
        return self._update.learn_each(batches)

    def weights_held(self) -> AbstractContextManager[None]:
        """Let updates begin in another thread, but change no weight until this ends: who acts meanwhile acts before."""
        return self._update.weights_held()

    def help_until(self, done: Callable[[], bool]) -> None:
        """Take part, where the update can be shared, in what another thread learns, until `done()`."""
        self._update.help_until(done)

    def update_target(self) -> None:
        """Copy the online network into the target network."""
        self.target.take(self.online)

    def gradient_norms(self) -> dict[str, float]:
        """Return the norm of the last update's gradient of each weight, by name."""
        return self._update.gradient_norms()

    def anneal(self, step: int, total_steps: int) -> float:
        """Set the learning rates that the schedule has at `step` of `total_steps`; return the head's."""
        end = self.config.learning_rate_end
        rate = linear(step, self.config.learning_rate, self.config.learning_rate if end is None else end, total_steps)
        # Beside an auxiliary task a frozen backbone has a learning rate of 0, but a gradient, which is told.
        frozen = step < self.config.freeze_backbone_steps
        self._update.freeze(frozen and self.auxiliary is None)
        share = 0.0 if frozen else 1.0
        if not frozen and self.config.backbone_learning_rate is not None:
            share = self.config.backbone_learning_rate / self.config.learning_rate
        for index, group in enumerate(self.optimizer.param_groups):
            own = rate * share if index == 0 else rate
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(own)
            else:
                group["lr"] = own
        return rate

    @torch.no_grad()
    def hidden(self, frames: NDArray[np.uint8]) -> Tensor:
        """Return the last hidden layer (B, units) of stacks (B, C, H, W): what the values are read off."""
        maps = self.online.backbone(on_device(frames, self.device))
        return self.online.head.hidden(maps[-1].flatten(start_dim=1))

    def differentiable(self) -> QNetwork:
        """Return torch's own network of the online weights, float32: through the compiled one no gradient flows."""
        network = QNetwork(
            BACKBONES[self.config.backbone](self.stack), self.frame_shape, self.num_actions, self.config.dueling
        )
        network.load_state_dict(self.online.state_dict())
        return network.to(self.device).requires_grad_(False)

    def weights(self) -> dict[str, Tensor]:
        """Return the network's float32 weights by name: all that acting needs."""
        return dict(self.online.state_dict())

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Take weights of any float type into the online network, and refresh its copy.

        Raises:
            RuntimeError: a name or a shape differs.
        """
        self.online.load_state_dict(weights)
        self._update.network.take(self.online)

    def load_backbone(self, weights: dict[str, Tensor]) -> None:
        """Take a backbone's weights, by their names in it, into the online and the target network."""
        self.online.backbone.load_state_dict(weights)
        self._update.network.take(self.online)
        self.target.take(self.online)

    def state_dict(self) -> dict[str, Any]:
        """Return what learning on needs besides `weights`: target, optimizer moments, generator; all tensors."""
        state: dict[str, Any] = {f"target.{name}": tensor for name, tensor in self.target.state_dict().items()}
        state |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        if self.auxiliary is not None:
            state |= {f"auxiliary.{name}": weight for name, weight in self.auxiliary.head.state_dict().items()}
        return state | {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.target.load_state_dict(with_prefix(state, "target."))
        self.target.take(self.target)
        if self.auxiliary is not None:
            self.auxiliary.head.load_state_dict(with_prefix(state, "auxiliary."))
        load_optimizer(self.optimizer, with_prefix(state, "optimizer."))
        if isinstance(self._update, CapturedUpdate):
            self._update.forget()
        restore_generator(self._generator, state["generator"])


def _make_optimizer(config: DQNConfig, parts: list[nn.Module], captured: bool) -> torch.optim.Optimizer:
    """Return the optimizer, with a group for each part's weights: the backbone's, the head's, an auxiliary head's.

    For a `captured` update the learning rates are tensors on the device, which a graph reads anew each time.
    """
    weights: list[dict[str, Any]] = [{"params": list(part.parameters()), "lr": config.learning_rate} for part in parts]
    if captured:
        for group in weights:
            group["lr"] = torch.tensor(config.learning_rate, device=group["params"][0].device)
    shared: dict[str, Any] = {"eps": config.optimizer_epsilon, "capturable": captured}
    if config.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(weights, fused=True, **shared)
    else:
        optimizer = torch.optim.RMSprop(weights, alpha=0.95, centered=True, foreach=True, **shared)
    # The updates before the capture are meant to be made without it: torch would warn of that.
    optimizer._warned_capturable_if_run_uncaptured = captured  # type: ignore[attr-defined]
    return optimizer
