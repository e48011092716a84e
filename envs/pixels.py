"""Any Gymnasium environment with images and discrete actions, through Gymnasium's own wrappers."""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces, wrappers
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs.catch  # noqa: F401 - registers Catch
from envs.episodes import Episodes

MOST_ACTIONS = 256  # the replay keeps them as bytes

# Environments that offer both take discrete actions only when asked.
_DISCRETE = {"CarRacing-v3": {"continuous": False}}


def make_pixels(env_id: str, num_envs: int, seed: int) -> Episodes:
    """Return `num_envs` copies of a Gymnasium environment as uint8 (4, 84, 84) stacks of grey frames, reset.

    An environment whose observations are no image is rendered. One that shows stacks (4, 84, 84) already, oldest frame
    first and black where there is none yet, is taken as it is.

    Raises:
        ValueError: there is no such environment, its actions are not discrete, or it has nothing to show.
    """
    try:
        envs = SyncVectorEnv([partial(_preprocessed, env_id)] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
    except (gymnasium.error.Error, ImportError, ValueError, TypeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"cannot make '{env_id}': {str(error) or type(error).__name__}") from error
    space = envs.single_action_space
    if not isinstance(space, spaces.Discrete) or space.start != 0 or space.n > MOST_ACTIONS:
        raise ValueError(f"'{env_id}' has the actions {space}; a DQN needs discrete ones, from 0 to at most 255")
    games = Episodes(envs, seed)
    if games.frames[:, :-1].any():
        raise ValueError(
            f"'{env_id}' shows (4, 84, 84) that does not begin with three black frames, as a stack that grows does: "
            "wrap it in FrameStackObservation(env, 4, padding_type='zero'), or let it show one frame"
        )
    return games


def _preprocessed(env_id: str) -> gymnasium.Env[Any, Any]:
    options = _DISCRETE.get(env_id, {})
    try:
        env = gymnasium.make(env_id, render_mode="rgb_array", **options)
    except (TypeError, ValueError, AssertionError):  # it draws nothing: then its observations must be images
        env = gymnasium.make(env_id, **options)
    space = env.observation_space
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and space.shape == (4, 84, 84):
        return env
    if not (isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3):
        env = wrappers.AddRenderObservation(env, render_only=True)
    env = wrappers.GrayscaleObservation(env)
    env = wrappers.ResizeObservation(env, (84, 84))
    return wrappers.FrameStackObservation(env, 4, padding_type="zero")
