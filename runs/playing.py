"""What is seen in a game that is played: by an agent that knows it, or at random."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.config import EnvConfig, Protocol
from runs.evaluate import EVALUATION_STREAM

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
    """Play an episode, or its first `most_steps` steps, greedily but for a share `epsilon` of random actions."""
    from envs.games import Screen, make_games

    games = make_games(env, 1, seed + EVALUATION_STREAM)
    screen = Screen(env, games, seed + EVALUATION_STREAM) if colour else None
    rng, score = np.random.default_rng(seed), None
    frames, values, rewards, screens = [], [], [], []
    while len(frames) < most_steps and score is None:
        opinions, value = agent.opinion(games.frames)
        action = int(opinions[0].argmax())
        if rng.random() < epsilon:
            action = int(rng.integers(games.num_actions))
        frames.append(games.frames[0].copy())
        values.append(float(value))
        if screen is not None:
            screens.append(screen.show().copy())
            screen.step(action)
        after = games.step(np.array([action]))
        rewards.append(after.rewards[0])
        if after.episodes:
            score = after.episodes[0].score
    names = games.action_names()
    games.close()
    return Played(np.stack(frames), np.array(values, np.float32), np.array(rewards), screens, names, score)


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
