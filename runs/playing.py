"""What is seen in a game that is played: by an agent that knows it, or at random."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.config import EnvConfig, Protocol
from runs.moments import first_episodes, play

if TYPE_CHECKING:
    from runs.evaluate import Player


class Played(NamedTuple):
    """The steps of an episode, or of its beginning."""

    frames: NDArray[np.uint8]  # (N, C, H, W)
    values: NDArray[np.float32]  # (N,) of each state
    rewards: NDArray[np.float32]  # (N,) raw, that came of the step
    screens: list[NDArray[np.uint8]]  # (H, W, 3) each; none unless asked for
    action_names: list[str]
    score: float | None  # of the whole episode; None where it was not played to its end


def play_episode(
    agent: "Player", env: EnvConfig, seed: int, epsilon: float, most_steps: int, *, colour: bool = False
) -> Played:
    """Play an episode, or its first `most_steps` steps, as the agent does but for a share `epsilon` of random ones."""
    moments = play(agent, env, seed, epsilon, colour=colour)
    seen = list(itertools.islice(first_episodes(moments, 1), most_steps))
    moments.close()
    last = seen[-1]
    return Played(
        np.stack([moment.frames for moment in seen]),
        np.array([moment.value for moment in seen], np.float32),
        np.array([moment.reward for moment in seen], np.float32),
        [moment.screen for moment in seen] if colour else [],
        last.action_names,
        last.score if last.episode_over else None,
    )


def play_randomly(
    game: str, protocol: Protocol, seed: int, steps: int, every_steps: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Play an Atari game at random; yield every so many steps their number and the network's input (4, 84, 84).

    Raises:
        ValueError: there is no such game.
    """
    from envs.screens import EmulatedGame

    player = EmulatedGame(EnvConfig(game, protocol=protocol))
    rng = np.random.default_rng(seed)
    player.reset(seed)
    for step in range(1, steps + 1):
        if player.step(int(rng.integers(len(player.actions))))[1]:
            player.reset()
        if step % every_steps == 0:
            yield step, player.frames.copy()
