"""Atari 2600 games on ale-py's C++ vector environment."""

import difflib
from typing import Any

import gymnasium
from ale_py import ALEInterface, LoggerMode, roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from envs.config import EnvConfig
from envs.episodes import Episodes

# ALE ships these four ROMs for two players only: its single-player emulator ends the process when it meets one.
TWO_PLAYERS_ONLY = ("combat", "joust", "maze_craze", "warlords")
GAMES: tuple[str, ...] = tuple(sorted(set(roms.get_all_rom_ids()) - set(TWO_PLAYERS_ONLY)))
FRAME_SKIP = 4
MAX_FRAMES_PER_EPISODE = 108_000  # 30 minutes
STICKY = {"classic": 0.0, "v5": 0.25}
NOOP_MAX = {"classic": 30, "v5": 0}


def check_game(game: str) -> None:
    """Raise ValueError, with the nearest names, when `game` is none of `GAMES`."""
    if game in TWO_PLAYERS_ONLY:
        raise ValueError(f"'{game}' is for two players only: ALE does not play it alone. Others: python -m runs.games")
    if game not in GAMES:
        near = difflib.get_close_matches(game.lower().replace("-", "_"), GAMES, n=3)
        nearest = f"nearest: {', '.join(near)}. " if near else ""
        raise ValueError(f"no game named '{game}'; {nearest}All {len(GAMES)}: python -m runs.games")


def make_atari(config: EnvConfig, num_envs: int, seed: int) -> Episodes:
    """Return `num_envs` copies of one of `GAMES`, reset.

    Observations are uint8 (4, 84, 84): the last four grey frames, black before the episode, each the maximum of the
    last two of four emulated. Rewards are raw.

    Raises:
        ValueError: it has no such mode or difficulty.
    """
    make = vector_env if config.mode is None and config.difficulty is None else _wrapped
    return Episodes(make(config, num_envs), seed)


def vector_env(config: EnvConfig, num_envs: int, *, colour: bool = False) -> AtariVectorEnv:
    """Return ALE's vector environment with every default stated, and a thread for each game up to the cores there are.

    With `colour`, the same game is seen as (1, 210, 160, 3) screens: given the same seeds and actions it is the
    same episode, so that one can be watched beside what the network is shown.
    """
    shape = {"img_height": 210, "img_width": 160, "grayscale": False, "stack_num": 1}
    return AtariVectorEnv(
        config.game,
        num_envs,
        batch_size=0,
        num_threads=0,
        thread_affinity_offset=-1,
        max_num_frames_per_episode=MAX_FRAMES_PER_EPISODE,
        repeat_action_probability=STICKY[config.protocol],
        full_action_space=config.full_action_space,
        continuous=False,
        autoreset_mode=AutoresetMode.NEXT_STEP,
        frameskip=FRAME_SKIP,
        maxpool=True,
        noop_max=NOOP_MAX[config.protocol],
        use_fire_reset=config.protocol == "classic",
        episodic_life=False,
        life_loss_info=False,
        reward_clipping=False,
        **(shape if colour else {"img_height": 84, "img_width": 84, "grayscale": True, "stack_num": 4}),
    )


class _StartGame(gymnasium.Wrapper[Any, Any, Any, Any]):
    """`classic` resets for Gymnasium's single environments: FIRE where the game has it, then up to 30 no-ops."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        meanings = self.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        presses = [meanings.index("FIRE")] if "FIRE" in meanings else []
        presses += [0] * int(self.unwrapped.np_random.integers(NOOP_MAX["classic"] + 1))
        for action in presses:
            observation, _, terminated, truncated, info = self.env.step(action)
            if terminated or truncated:
                observation, info = self.env.reset(options=options)
        return observation, info


def _wrapped(config: EnvConfig, num_envs: int) -> VectorEnv[Any, Any, Any]:
    """Gymnasium's own wrappers, slower, for the modes and difficulties that ALE's vector environment does not offer."""

    def make_one() -> gymnasium.Env[Any, Any]:
        from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

        env = single_env(config)
        env = AtariPreprocessing(env, noop_max=0, frame_skip=FRAME_SKIP, screen_size=84, grayscale_obs=True)
        return FrameStackObservation(env, 4, padding_type="zero")

    return SyncVectorEnv([make_one] * num_envs, autoreset_mode=AutoresetMode.DISABLED)


def single_env(config: EnvConfig) -> gymnasium.Env[Any, Any]:
    """Return one game as Gymnasium knows it, a frame a step, in colour.

    Raises:
        ValueError: there is no such game, mode or difficulty.
    """
    from ale_py.env import AtariEnv

    check_game(config.game)
    ALEInterface.setLoggerMode(LoggerMode.Error)
    try:
        env: gymnasium.Env[Any, Any] = AtariEnv(
            config.game,
            mode=config.mode,
            difficulty=config.difficulty,
            frameskip=1,
            repeat_action_probability=STICKY[config.protocol],
            full_action_space=config.full_action_space,
            max_num_frames_per_episode=MAX_FRAMES_PER_EPISODE,
            render_mode="rgb_array",
        )
    except RuntimeError as error:
        raise ValueError(f"{config.game} has no such mode or difficulty: {error}") from error
    return _StartGame(env) if config.protocol == "classic" else env
