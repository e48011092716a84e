"""Replay memory that stores each frame once and stacks when it samples."""

import zlib
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# What followed the step of a row. A cut (game over or, in `classic`, a lost life) has discount 0; a truncated episode
# bootstraps from its last frame, which lies in a row of its own that is never sampled.
GOES_ON, CUT, TRUNCATED, LAST_FRAME = 0, 1, 2, 3


def restore_generator(generator: torch.Generator, state: Tensor) -> None:
    """Go on with the random numbers of a generator's state; of one on another kind of device, with others."""
    state = state.cpu()
    if state.numel() == generator.get_state().numel():
        generator.set_state(state)
    else:
        generator.manual_seed(zlib.crc32(state.numpy().tobytes()))


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor there, without waiting for what a GPU has to do before."""
    tensor, pinned = torch.from_numpy(np.ascontiguousarray(array)), device.type == "cuda"
    return (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=pinned)


class Batch(NamedTuple):
    """Transitions for Q-learning; `frames` are stacks, oldest first."""

    frames_tm1: Tensor  # (B, C, H, W) uint8
    a_tm1: Tensor  # (B,) int64
    r_t: Tensor  # (B,) float32, the discounted sum of the window's rewards
    discount_t: Tensor  # (B,) float32, γ to the window's length; 0 where it met an end
    frames_t: Tensor  # (B, C, H, W) uint8


class FrameReplay:
    """One ring of rows per environment; a row is a step: the newest frame acted on, the action, what came of it.

    The frames of a stack are the rows before it, as many as the episode had by then (at most C − 1); what lies before
    the episode is black, as the environments show it. Memory is taken as the rings fill.
    """

    def __init__(
        self,
        capacity_steps: int,
        num_envs: int,
        *,
        frame_shape: tuple[int, int] = (84, 84),
        stack: int = 4,
        discount: float = 0.99,
        n_steps: int = 1,
        clip_rewards: bool = True,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """Make an empty replay.

        Args:
            capacity_steps: rows over all environments; each ring holds `capacity_steps // num_envs`.
            num_envs: how many environments add side by side.
            frame_shape: (H, W) of one frame, uint8.
            stack: C, frames a stack.
            discount: γ a step.
            n_steps: length of the return's window.
            clip_rewards: whether the sampled rewards are the signs of those added (Mnih et al. 2015 clip to [−1, 1]).
            device: where the rows live and batches appear.
            seed: of the sampling.

        Raises:
            ValueError: a ring is too short to hold one window and one stack.
        """
        rows = capacity_steps // num_envs
        if rows < stack + n_steps + 1:
            raise ValueError(
                f"replay_capacity_steps {capacity_steps} over {num_envs} environments leaves {rows} rows a ring; "
                f"a stack of {stack} and {n_steps}-step windows need at least {stack + n_steps + 1}"
            )
        self.rows, self.num_envs, self.stack = rows, num_envs, stack
        self.discount, self.n_steps, self.clip_rewards = discount, n_steps, clip_rewards
        self.device = torch.device(device)
        self._frames = self._zeros((num_envs, rows, *frame_shape), np.uint8)
        self._actions = self._zeros((num_envs, rows), np.uint8)
        self._rewards = self._zeros((num_envs, rows), np.float32)
        self._endings = self._zeros((num_envs, rows), np.uint8)
        self._ages = self._zeros((num_envs, rows), np.uint8)  # frames the episode had before this one, up to C − 1
        self._written = np.zeros(num_envs, np.int64)  # rows ever written, a ring
        self._next_age = np.zeros(num_envs, np.uint8)
        self._generator = torch.Generator(device=self.device).manual_seed(seed)
        self._powers = torch.tensor([discount**k for k in range(n_steps + 1)], device=self.device)
        self._back = torch.arange(stack - 1, -1, -1, device=self.device)

    def _zeros(self, shape: tuple[int, ...], dtype: type) -> Tensor:
        """Zeros that on a CPU take no memory until they are written (torch.zeros would touch every page)."""
        if self.device.type == "cpu":
            return torch.from_numpy(np.zeros(shape, dtype))
        return torch.zeros(shape, dtype=torch.from_numpy(np.zeros(0, dtype)).dtype, device=self.device)

    @staticmethod
    def bytes_needed(capacity_steps: int, frame_shape: tuple[int, int]) -> int:
        """Return the bytes a full replay takes: the frame, action, reward, ending and age of each step."""
        return capacity_steps * (frame_shape[0] * frame_shape[1] + 7)

    def __len__(self) -> int:
        """Rows held, over all rings."""
        return int(np.minimum(self._written, self.rows).sum())

    def add(
        self,
        frames: NDArray[np.uint8],
        actions: NDArray[np.int64],
        rewards: NDArray[np.float32],
        cut: NDArray[np.bool_],
        ended: NDArray[np.bool_],
        last_frames: NDArray[np.uint8],
    ) -> None:
        """Add one step of every environment.

        Args:
            frames: (N, H, W) newest frame of what was acted on.
            actions: (N,).
            rewards: (N,) raw.
            cut: (N,) whether the learner's return stops here: game over, or a lost life if that counts.
            ended: (N,) whether the episode is over, by game over or truncation.
            last_frames: (N, H, W) newest frame after the step, before any reset; read where an episode was truncated.
        """
        truncated = ended & ~cut
        endings = np.where(cut, CUT, np.where(truncated, TRUNCATED, GOES_ON)).astype(np.uint8)
        self._write(np.arange(self.num_envs), frames, actions, rewards, endings, self._next_age)
        self._next_age = np.minimum(self._next_age + 1, self.stack - 1).astype(np.uint8)
        if truncated.any():
            envs = np.flatnonzero(truncated)
            none = np.zeros(len(envs), np.int64)
            last = np.full(len(envs), LAST_FRAME, np.uint8)
            self._write(envs, last_frames[envs], none, none.astype(np.float32), last, self._next_age[envs])
        self._next_age[ended] = 0

    def _write(
        self,
        envs: NDArray[np.int64],
        frames: NDArray[np.uint8],
        actions: NDArray[np.int64],
        rewards: NDArray[np.float32],
        endings: NDArray[np.uint8],
        ages: NDArray[np.uint8],
    ) -> None:
        at = on_device(envs, self.device), on_device(self._written[envs] % self.rows, self.device)
        values = (
            (self._frames, frames),
            (self._actions, actions.astype(np.uint8)),
            (self._rewards, rewards),
            (self._endings, endings),
            (self._ages, ages),
        )
        for column, value in values:
            column[at] = on_device(value, self.device)
        self._written[envs] += 1

    def can_sample(self) -> bool:
        """Whether every ring holds at least one whole window with its stack."""
        return bool((self._last_start() > self._first_start()).all())

    def _first_start(self) -> NDArray[np.int64]:
        """Oldest row, counted from the ring's first ever, whose whole stack is still held."""
        return np.maximum(self._written - self.rows, 0) + np.where(self._written > self.rows, self.stack - 1, 0)

    def _last_start(self) -> NDArray[np.int64]:
        """One past the newest row whose n-step window has been followed by a frame."""
        return self._written - self.n_steps

    def sample(self, batch_size: int) -> Batch:
        """Draw transitions uniformly, with replacement, from all windows that are whole.

        A draw that meets a row that holds only an episode's last frame is drawn again, up to seven times; after an
        eighth such draw the step beside it is taken.
        """
        first = on_device(self._first_start(), self.device)
        span = on_device(self._last_start() - self._first_start(), self.device)
        draws = torch.rand(8, batch_size, generator=self._generator, device=self.device, dtype=torch.float64)
        place = draws * span.sum()
        upto = span.cumsum(0)
        env = torch.searchsorted(upto, place.long(), right=True)
        count = first[env] + place.long() - (upto - span)[env]
        steps = self._endings[env, count % self.rows] != LAST_FRAME
        chosen = steps.to(torch.uint8).argmax(dim=0, keepdim=True)
        env, count = env.gather(0, chosen).squeeze(0), count.gather(0, chosen).squeeze(0)
        beside = torch.where(count > first[env], -1, 1)  # rows of last frames have steps on both sides
        return self.transitions(env, torch.where(steps.any(dim=0), count, count + beside))

    def transitions(self, env: Tensor, count: Tensor) -> Batch:
        """Return the transitions that start at rows `count` (B,) of the rings `env` (B,).

        Rows are counted from each ring's first ever.
        """
        rewards, endings, running = self._window(env, count, self.n_steps)
        length, cut = running.sum(dim=1), ((endings == CUT) & (running == 1)).any(dim=1)
        return Batch(
            frames_tm1=self._stacks(env, count),
            a_tm1=self._actions[env, count % self.rows].long(),
            r_t=(rewards * running * self._powers[:-1]).sum(dim=1),
            discount_t=self._powers[length].masked_fill(cut, 0.0),
            # After a cut nothing is read of what follows; the window's own row keeps the indices inside the ring.
            frames_t=self._stacks(env, torch.where(cut, count, count + length)),
        )

    def outcomes(self, count: int, horizon_steps: int) -> tuple[Tensor, Tensor] | None:
        """Return recent states (B, C, H, W) and the discounted returns (B,) that followed; None while too few are held.

        About `count`, as many of each environment, evenly spread over the newest `horizon_steps` rows after which as
        many are held. A cut ends a return; states whose episode was truncated meanwhile are left out.
        """
        last = self._written - horizon_steps
        first = np.maximum(self._first_start(), last - horizon_steps)
        if (last <= first).any():
            return None
        each = max(1, count // self.num_envs)
        counts = np.linspace(first, last - 1, each).astype(np.int64).T.ravel()
        env = torch.arange(self.num_envs, device=self.device).repeat_interleave(each)
        start = torch.from_numpy(counts).to(self.device)
        rewards, endings, running = self._window(env, start, horizon_steps)
        powers = self.discount ** torch.arange(horizon_steps, device=self.device, dtype=torch.float64)
        returns = (rewards * running * powers).sum(dim=1).float()
        known = ~((endings == TRUNCATED) & (running == 1)).any(dim=1) & (endings[:, 0] != LAST_FRAME)
        return (self._stacks(env[known], start[known]), returns[known]) if known.any() else None

    def _window(self, env: Tensor, start: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return rewards as they are learnt, endings, and 1 until after the first, of `steps` rows each: (B, steps)."""
        rows = (start[:, None] + torch.arange(steps, device=self.device)) % self.rows
        rewards, endings = self._rewards[env[:, None], rows], self._endings[env[:, None], rows]
        if self.clip_rewards:
            rewards = rewards.sign()
        goes_on = (endings == GOES_ON).long().cumprod(dim=1)
        return rewards, endings, torch.cat([torch.ones_like(goes_on[:, :1]), goes_on[:, :-1]], dim=1)

    def _stacks(self, env: Tensor, count: Tensor) -> Tensor:
        back = self._back.unsqueeze(0)  # (1, C), 3 2 1 0
        rows = env.unsqueeze(1) * self.rows + (count.unsqueeze(1) - back) % self.rows
        # Whole rows of one flat view: an indexed gather over two dimensions is six times slower on a CPU.
        flat = self._frames.view(self.num_envs * self.rows, -1).index_select(0, rows.flatten())
        before_episode = (back > self._ages[env, count % self.rows].unsqueeze(1)).flatten()
        if self.device.type == "cpu":  # few are; elsewhere their number would have to be waited for
            flat.index_fill_(0, before_episode.nonzero().squeeze(1), 0)
        else:
            flat.masked_fill_(before_episode.unsqueeze(1), 0)
        return flat.view(len(env), self.stack, *self._frames.shape[2:])

    def rows_written(self) -> NDArray[np.int64]:
        """Rows ever written, a ring, (N,)."""
        return self._written.copy()

    def segment(self, since: NDArray[np.int64], most_rows: int) -> dict[str, Tensor]:
        """Return rows written after `rows_written()` was `since` and still held, flat, ring after ring, oldest first.

        At most `most_rows` of each ring; `stop` says how far they go. A row never changes until it is overwritten, so
        checkpoints link the segments they share.
        """
        start = np.maximum(since, self._written - self.rows)
        stop = np.minimum(self._written, start + most_rows)
        pieces: dict[str, list[Tensor]] = {name: [] for name in self._columns()}
        for env in range(self.num_envs):
            at = torch.arange(int(start[env]), int(stop[env]), device=self.device) % self.rows
            for name, column in self._columns().items():
                pieces[name].append(column[env].index_select(0, at))
        tensors = {name: torch.cat(parts).cpu() for name, parts in pieces.items()}
        return tensors | {"start": torch.from_numpy(start), "stop": torch.from_numpy(stop)}

    def load_segment(self, tensors: dict[str, Tensor]) -> None:
        """Write back what `segment` returned; segments are loaded in the order in which they were written."""
        offset = 0
        for env, (start, stop) in enumerate(zip(tensors["start"].tolist(), tensors["stop"].tolist(), strict=True)):
            at = torch.arange(start, stop, device=self.device) % self.rows
            for name, column in self._columns().items():
                column[env, at] = tensors[name][offset : offset + stop - start].to(self.device)
            offset += stop - start

    def _columns(self) -> dict[str, Tensor]:
        return {
            "frames": self._frames,
            "actions": self._actions,
            "rewards": self._rewards,
            "endings": self._endings,
            "ages": self._ages,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return counters and the sampling generator; the rows themselves travel as segments."""
        return {
            "written": torch.from_numpy(self._written.copy()),
            "next_age": torch.from_numpy(self._next_age.copy()),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._written[:] = state["written"].numpy()
        self._next_age[:] = state["next_age"].numpy()
        restore_generator(self._generator, state["generator"])
