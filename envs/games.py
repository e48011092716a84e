"""Any game by its name."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.atari import FRAME_SKIP, GAMES, check_game, make_atari, single_env, vector_env
from envs.config import EnvConfig
from envs.episodes import Episodes
from envs.pixels import make_pixels

CATCH = "catch"


def make_games(config: EnvConfig, num_envs: int, seed: int) -> Episodes:
    """Return `num_envs` copies of the game that `config` names: Atari, `catch`, or the id of a Gymnasium environment.

    Raises:
        ValueError: there is no such game, its actions or observations are not those of a pixel game, or an option is
            given that only Atari games have.
    """
    if config.game in GAMES:
        return make_atari(config, num_envs, seed)
    if not _is_gymnasiums(config.game):
        check_game(config.game)
    spec = gymnasium.registry.get(config.game.rpartition(":")[2])
    if spec is not None and str(spec.entry_point).startswith("ale_py"):
        raise ValueError(f"'{config.game}' has rules in its name: give the game, say breakout, and a --protocol")
    if config.protocol != "classic":
        raise ValueError(f"protocol {config.protocol} is of Atari games; '{config.game}' is none")
    if config.full_action_space or config.mode is not None or config.difficulty is not None:
        raise ValueError(f"full_action_space, mode and difficulty are options of Atari games; '{config.game}' is none")
    return make_pixels("saccade/Catch-v0" if config.game == CATCH else config.game, num_envs, seed)


def _is_gymnasiums(game: str) -> bool:
    """Whether a name is an id of Gymnasium's, or `catch`, rather than one of Atari's that may be misspelt."""
    return game == CATCH or "-v" in game or ":" in game or game in gymnasium.registry


def frames_a_step(config: EnvConfig) -> int:
    """Return the emulator's frames that an action lasts."""
    return FRAME_SKIP if config.game in GAMES else 1


def make_playable(config: EnvConfig) -> gymnasium.Env[Any, Any]:
    """Return one game for a person, as Gymnasium knows it, in colour: of Atari's a frame a step.

    Raises:
        ValueError: there is no such game, or one that nobody knows keys for.
    """
    if config.game in GAMES:
        return single_env(config)
    if config.game != CATCH:
        if not _is_gymnasiums(config.game):
            check_game(config.game)
        raise ValueError(f"nobody knows keys for '{config.game}': Atari's games and catch can be played")
    return gymnasium.make("saccade/Catch-v0", render_mode="rgb_array")


class Screen:
    """What a person would see of a single game that `games` plays: `show`, then `step` with the same action.

    ALE's vector environment has no colour, so a second one, in colour, plays the same episodes from the same seeds. Of
    an environment that draws nothing the network's newest frame is shown, in grey.
    """

    def __init__(self, config: EnvConfig, games: Episodes, seed: int) -> None:
        """`config` and `seed` are those that `games`, of one environment, was made with."""
        self._games = games
        self._twin: Episodes | None = None
        if games.is_ale:
            self._twin = Episodes(vector_env(config, 1, colour=True), seed)
        self._is_drawn = self._twin is None and _is_drawn(games)

    def show(self) -> NDArray[np.uint8]:
        """Return the screen as (H, W, 3)."""
        if self._twin is not None:
            return self._twin.frames[0, -1]
        if self._is_drawn:
            return np.asarray(self._games.envs.render()[0], np.uint8)  # type: ignore[index]
        return np.repeat(self._games.frames[0, -1][..., None], 3, axis=2)

    def step(self, action: int) -> None:
        """Follow the step that the game has made."""
        if self._twin is not None:
            self._twin.step(np.array([action]))


def _is_drawn(games: Episodes) -> bool:
    """Whether the environments can draw themselves, which Gymnasium leaves to them."""
    try:
        pictures = games.envs.render()
    except (gymnasium.error.Error, AssertionError, NotImplementedError):
        return False
    return bool(pictures) and np.ndim(pictures[0]) == 3
