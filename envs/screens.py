"""One Atari game with what the emulator knows of it: palette screen and memory beside the network's input."""

from typing import Any

import cv2
import numpy as np
from ale_py import Action, ALEInterface, LoggerMode, roms
from numpy.typing import NDArray

from envs.atari import FRAME_SKIP, MAX_FRAMES_PER_EPISODE, NOOP_MAX, STICKY, check_game
from envs.config import EnvConfig

SIZE, STACK = 84, 4


class EmulatedGame:
    """Plays whole episodes by the protocols of `make_atari`, a step at a time.

    After `reset` and each `step`: `screen` (210, 160) are the palette indices of the last two emulated frames, at each
    pixel of the lighter one, as in the network's input; `frame` (84, 84) is the newest of the input's `frames`
    (4, 84, 84); `memory` (128,) is that of the last emulated frame. All uint8.
    """

    def __init__(self, config: EnvConfig) -> None:
        """Load the game's ROM.

        Raises:
            ValueError: there is no such game, or mode or difficulty are given, which are not offered here.
        """
        check_game(config.game)
        if config.mode is not None or config.difficulty is not None:
            raise ValueError(
                "frames are recorded in a game's own mode and difficulty: leave --mode and --difficulty out"
            )
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self._config, self._ale = config, ALEInterface()
        self._ale.setFloat("repeat_action_probability", STICKY[config.protocol])
        self._ale.setInt("max_num_frames_per_episode", MAX_FRAMES_PER_EPISODE)
        self._rom: Any = roms.get_rom_path(config.game)
        self._ale.loadROM(self._rom)
        every = self._ale.getLegalActionSet() if config.full_action_space else self._ale.getMinimalActionSet()
        self.actions: list[Action] = list(every)
        self.frames = np.zeros((STACK, SIZE, SIZE), np.uint8)
        self._rng = np.random.default_rng(0)

    @property
    def frame(self) -> NDArray[np.uint8]:
        """Newest frame of the input, (84, 84)."""
        return self.frames[-1]

    @property
    def memory(self) -> NDArray[np.uint8]:
        """The machine's 128 bytes."""
        return self._ale.getRAM()

    @property
    def colour(self) -> NDArray[np.uint8]:
        """The last emulated frame as a person sees it, (210, 160, 3)."""
        return self._ale.getScreenRGB()

    def reset(self, seed: int | None = None) -> None:
        """Start an episode: the one that `seed` is, or, much faster, the next one after the last.

        `classic` presses FIRE for a frame, then waits up to 30.
        """
        if seed is not None:
            self._ale.setInt("random_seed", seed)
            self._ale.loadROM(self._rom)  # only then the seed counts
            self._rng = np.random.default_rng(seed)
        self._ale.reset_game()
        if self._config.protocol == "classic":
            if Action.FIRE in self.actions:
                self._ale.act(Action.FIRE)
            for _ in range(self._rng.integers(NOOP_MAX["classic"] + 1)):
                self._ale.act(Action.NOOP)
        self.frames[:] = 0
        self._look(self._ale.getScreen(), self._ale.getScreenGrayscale())

    def step(self, action: int) -> tuple[float, bool]:
        """Repeat an action, by its index, for four frames; return the raw reward and whether the episode is over."""
        reward = 0.0
        for _ in range(FRAME_SKIP - 1):
            reward += self._ale.act(self.actions[action])
        screen, grey = self._ale.getScreen(), self._ale.getScreenGrayscale()
        reward += self._ale.act(self.actions[action])
        self._look(screen, grey)
        return reward, self._ale.game_over() or self._ale.game_truncated()

    def _look(self, before: NDArray[np.uint8], grey_before: NDArray[np.uint8]) -> None:
        screen, grey = self._ale.getScreen(), self._ale.getScreenGrayscale()
        self.screen = np.where(grey_before > grey, before, screen)
        self.frames[:-1] = self.frames[1:]
        cv2.resize(np.maximum(grey, grey_before), (SIZE, SIZE), dst=self.frames[-1], interpolation=cv2.INTER_AREA)
