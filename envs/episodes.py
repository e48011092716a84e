"""Several games side by side, seeded explicitly, and resets that hide nothing.

Any `gymnasium.vector.VectorEnv` whose `reset` takes a `reset_mask` will do. Where the environment is deterministic
given a seed, the last one and the actions since are its whole state: `load_state_dict` plays them again.
"""

from typing import Any, NamedTuple

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.spaces import Discrete
from gymnasium.vector import SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

ALE_SEEDS_EVERY_STEPS = 3_000  # a seed makes ALE load the game anew, which takes as long as fifty steps


class Episode(NamedTuple):
    """A whole game."""

    env: int
    score: float  # undiscounted sum of the raw rewards
    length_steps: int


class Transition(NamedTuple):
    """What one step of every environment brought. N environments, C frames a stack."""

    rewards: NDArray[np.float32]  # (N,) raw
    terminated: NDArray[np.bool_]  # (N,)
    truncated: NDArray[np.bool_]  # (N,)
    life_lost: NDArray[np.bool_]  # (N,) a life was lost and the episode goes on
    last_frames: NDArray[np.uint8]  # (N, H, W) newest frame after the step, before any reset
    episodes: list[Episode]  # those that ended


def series_seed(seed: int, env: int, series: int) -> int:
    """Return the seed of the `series`-th series of episodes that environment `env` plays in a run seeded by `seed`."""
    return int(np.random.SeedSequence([seed, env, series]).generate_state(1)[0]) >> 1


class Episodes:
    """Steps `envs`, resets each environment when its episode ends, and keeps scores.

    `frames` (N, C, H, W) are what to act on next. Use `send`, then `receive`: between the two ALE's emulators run while
    the caller does something else. The environments' own autoreset is never used.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], seed: int) -> None:
        """Reset all environments; series `k` of environment `i` gets `series_seed(seed, i, k)`.

        A series is one episode, but of ALE's, where a seed is dear, as many as make `ALE_SEEDS_EVERY_STEPS`.
        """
        assert isinstance(envs.single_action_space, Discrete)
        self.envs = envs
        self.is_ale = isinstance(envs, AtariVectorEnv)  # ALE's own, which steps while the caller does something else
        self.num_envs, self.num_actions = envs.num_envs, int(envs.single_action_space.n)
        self._seed = seed
        self._series = np.zeros(self.num_envs, np.int64)  # which of its own each environment plays
        self._actions: list[list[int]] = [[] for _ in range(self.num_envs)]  # since the series began
        self._lengths = np.zeros(self.num_envs, np.int64)
        self._lives = np.zeros(self.num_envs, np.int64)
        self._scores = np.zeros(self.num_envs)
        self._begin_series(np.ones(self.num_envs, np.bool_))

    def send(self, actions: NDArray[np.int64]) -> None:
        """Start a step with one action per environment, (N,)."""
        for log, action in zip(self._actions, actions.tolist(), strict=True):
            log.append(action)
        self._sent = actions
        if isinstance(self.envs, AtariVectorEnv):
            self.envs.send(actions)

    def receive(self) -> Transition:
        """Finish the step that `send` started, and reset what ended."""
        received = self.envs.recv() if isinstance(self.envs, AtariVectorEnv) else self.envs.step(self._sent)
        self.frames, rewards, terminated, truncated, info = received
        ended = terminated | truncated
        lives = self._lives_in(info)
        life_lost = (lives < self._lives) & ~ended
        self._lives = lives
        self._scores += rewards
        self._lengths += 1
        last_frames, episodes = self.frames[:, -1], []
        if ended.any():
            for env in np.flatnonzero(ended).tolist():
                episodes.append(Episode(env, float(self._scores[env]), int(self._lengths[env])))
            least = ALE_SEEDS_EVERY_STEPS if self.is_ale else 1
            over = ended & np.array([len(log) >= least for log in self._actions])
            if over.any():
                self._series[over] += 1
                self._begin_series(over)
            if (ended & ~over).any():
                self._reset(ended & ~over, None)
        return Transition(np.asarray(rewards, np.float32), terminated, truncated, life_lost, last_frames, episodes)

    def step(self, actions: NDArray[np.int64]) -> Transition:
        """`send`, then `receive`."""
        self.send(actions)
        return self.receive()

    def _begin_series(self, mask: NDArray[np.bool_]) -> None:
        """Start the current series of each environment in `mask` (N,)."""
        seeds = [series_seed(self._seed, env, int(series)) for env, series in enumerate(self._series)]
        # ALE takes the seeds of those it resets; Gymnasium's own vector environments one seed or None for each.
        each: Any = np.array(seeds)[mask]
        if not self.is_ale:
            each = [seed if chosen else None for seed, chosen in zip(seeds, mask, strict=True)]
        self._reset(mask, each)
        for env in np.flatnonzero(mask).tolist():
            self._actions[env] = []

    def _reset(self, mask: NDArray[np.bool_], seed: Any) -> None:
        """Start an episode in each environment in `mask` (N,)."""
        self.frames, info = self.envs.reset(seed=seed, options={"reset_mask": mask})
        self._lives = np.where(mask, self._lives_in(info), self._lives)
        self._scores[mask] = 0.0
        self._lengths[mask] = 0

    def _lives_in(self, info: dict[str, Any]) -> NDArray[np.int64]:
        return np.asarray(info.get("lives", np.zeros(self.num_envs)), np.int64).copy()

    def action_names(self) -> list[str]:
        """Return a word for each action, in order: noop, fire, …; its number where the game has no words."""
        if isinstance(self.envs, AtariVectorEnv):
            return [action.name.lower() for action in self.envs.ale.get_action_set()]
        single = self.envs.envs[0].unwrapped if isinstance(self.envs, SyncVectorEnv) else None
        meanings = getattr(single, "get_action_meanings", lambda: [str(a) for a in range(self.num_actions)])
        return [name.lower() for name in meanings()]

    def state_dict(self) -> dict[str, Any]:
        """Return which series each environment plays and the actions since that began, as JSON takes it."""
        return {"series": self._series.tolist(), "actions": [list(log) for log in self._actions]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Play the actions of each environment's series again, so that it stands where it stood.

        The longest series starts first; the others wait in games that are thrown away, so that all arrive together.
        """
        series = np.array(state["series"], np.int64)
        logs: list[list[int]] = state["actions"]
        longest = max(len(log) for log in logs)
        starts = np.array([longest - len(log) for log in logs])
        for now in range(longest + 1):
            self._series = series.copy()
            if now == 0:
                self._begin_series(np.ones(self.num_envs, np.bool_))
            elif (starts == now).any():
                self._begin_series(starts == now)
            if now < longest:
                self.step(np.array([log[now - s] if now >= s else 0 for log, s in zip(logs, starts, strict=True)]))

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()
