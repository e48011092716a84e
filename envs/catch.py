"""Catch: a ball falls, a paddle at the bottom moves left or right to catch it. Learnt in a minute.

After bsuite's Catch (Osband et al. 2020), drawn at 84×84. Each episode is `balls` balls; a ball caught is +1, one
missed −1, so that the best return is `balls` and a paddle that stands still or moves at random loses most.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

SIZE, CELL = 84, 12  # pixels; the board is 7 cells wide and high
CELLS = SIZE // CELL
BEST_RETURN = 5.0


class Catch(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """Observations: uint8 (4, 84, 84), the last four frames. Actions: 0 stay, 1 left, 2 right."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(self, balls: int = int(BEST_RETURN), render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(0, 255, (4, SIZE, SIZE), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.render_mode = render_mode
        self._balls = balls
        self._left = 0
        self._paddle = self._column = self._row = 0
        self._stack = np.zeros((4, SIZE, SIZE), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start an episode; the paddle stands in the middle."""
        super().reset(seed=seed, options=options)
        self._left, self._paddle = self._balls, CELLS // 2
        self._drop()
        self._stack = np.zeros_like(self._stack)
        self._draw()
        return self._stack, {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Move the paddle, let the ball fall one cell."""
        self._paddle = min(max(self._paddle + (0, -1, 1)[int(action)], 0), CELLS - 1)
        self._row += 1
        reward = 0.0
        if self._row == CELLS - 1:
            reward = 1.0 if self._column == self._paddle else -1.0
            self._left -= 1
            self._drop()
        self._draw()
        return self._stack, reward, self._left == 0, False, {}

    def get_action_meanings(self) -> list[str]:
        """Return a word for each action, as Gymnasium's Atari environments do."""
        return ["stay", "left", "right"]

    def render(self) -> NDArray[np.uint8]:
        """Return the newest frame as (84, 84, 3)."""
        return np.repeat(self._stack[-1][:, :, None], 3, axis=2)

    def _drop(self) -> None:
        self._row, self._column = 0, int(self.np_random.integers(CELLS))

    def _draw(self) -> None:
        frame = np.zeros((CELLS, CELLS), np.uint8)
        frame[self._row, self._column] = 255
        frame[CELLS - 1, self._paddle] = 160
        pixels = np.kron(frame, np.ones((CELL, CELL), np.uint8))
        self._stack = np.concatenate([self._stack[1:], pixels[None]])


gymnasium.register("saccade/Catch-v0", entry_point="envs.catch:Catch")
