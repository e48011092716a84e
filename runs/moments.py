"""An agent's games, moment by moment: what is on the screen, what the agent makes of it, and what comes of it."""

import itertools
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from envs.config import EnvConfig
from runs.evaluate import EVALUATION_STREAM, choose

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runs.evaluate import Player

WAIT_SECONDS = 1.0  # between two looks for a first checkpoint


class Moment(NamedTuple):
    """One step, and the state it was made in."""

    player: "Player"
    agent: str  # which it is
    env: EnvConfig
    episode: int
    screen: "NDArray[np.uint8]"  # (H, W, 3) in colour
    frames: "NDArray[np.uint8]"  # (C, H, W), the network's input
    action_names: list[str]
    opinion: list[float]  # a number for each action, which is what `opinion_is` says
    action: int
    value: float
    reward: float  # raw, that came of it
    score_before: float
    score: float
    episode_over: bool


def play(
    player: "Player", env: EnvConfig, seed: int, epsilon: float, agent: str = "", *, colour: bool = True
) -> Generator[Moment, None, None]:
    """Play without end. The same arguments bring the same games; `agent` says in words who plays.

    Without `colour` screens are empty, and it is quicker.
    """
    from envs.games import Screen, make_games

    games = make_games(env, 1, seed + EVALUATION_STREAM)
    screen = Screen(env, games, seed + EVALUATION_STREAM) if colour else None
    rng, names = np.random.default_rng(seed), games.action_names()
    score, episode = 0.0, 0
    try:
        while True:
            shown = np.empty((0, 0, 3), np.uint8) if screen is None else screen.show().copy()
            frames = games.frames[0].copy()
            actions, opinions, values = choose(player, games.frames, epsilon, rng)
            opinion, value, action = opinions[0].tolist(), float(values), int(actions[0])
            after = games.step(actions)
            if screen is not None:
                screen.step(action)
            reward, over, before = float(after.rewards[0]), bool(after.episodes), score
            score = after.episodes[0].score if over else score + reward
            state = (player, agent, env, episode, shown, frames, names)
            yield Moment(*state, opinion, action, value, reward, before, score, over)
            if over:
                score, episode = 0.0, episode + 1
    finally:
        games.close()


def first_episodes(moments: Iterator[Moment], count: int) -> Iterator[Moment]:
    """Yield the moments of `count` whole games."""
    for moment in moments:
        yield moment
        if moment.episode_over and moment.episode == count - 1:
            return


def best_episode(player: "Player", env: EnvConfig, seed: int, epsilon: float, episodes: int) -> tuple[int, list[float]]:
    """Play `episodes` games; return the number of the one with the highest score, the first of equals, and all scores.

    `play` with the same arguments plays that game again.
    """
    games = first_episodes(play(player, env, seed, epsilon), episodes)
    scores = [moment.score for moment in games if moment.episode_over]
    return int(np.argmax(scores)), scores


def one_episode(
    player: "Player", env: EnvConfig, seed: int, epsilon: float, number: int, agent: str = ""
) -> Iterator[Moment]:
    """Yield the moments of game `number`, played after those before it."""
    games = first_episodes(play(player, env, seed, epsilon, agent), number + 1)
    return (moment for moment in games if moment.episode == number)


def follow(
    run: Path, load: "Callable[[Path], tuple[Player, EnvConfig]]", seed: int, epsilon: float
) -> Iterator[Moment]:
    """Yield games of a run's newest checkpoint, one each, as long as the run is alive; then one of its last.

    Raises:
        ValueError: it is no run's folder, or a checkpoint cannot be read.
    """
    from runs.folders import in_use

    previous: Path | None = None
    for number in itertools.count():
        alive = in_use(run)
        checkpoint, (player, env) = _newest(run, load)
        if not alive and checkpoint == previous:
            return
        for moment in first_episodes(play(player, env, seed + number, epsilon, checkpoint.name), 1):
            yield moment._replace(episode=number)
        previous = checkpoint


def _newest(run: Path, load: "Callable[[Path], tuple[Player, EnvConfig]]") -> "tuple[Path, tuple[Player, EnvConfig]]":
    """Return a run's newest checkpoint and what is loaded from it; wait for the first of a run that is alive.

    One that is deleted while it is read has a newer one after it.
    """
    from runs.checkpoints import CheckpointError, find_checkpoint
    from runs.folders import in_use

    while True:
        alive, checkpoint = in_use(run), None
        try:
            checkpoint = find_checkpoint(run)
            if checkpoint == run:
                raise CheckpointError(f"'{run}' is a checkpoint, which stays as it is: give --follow its run's folder")
            return checkpoint, load(checkpoint)
        except CheckpointError:
            if checkpoint is not None and find_checkpoint(run) != checkpoint:
                continue
            if checkpoint is not None or not alive:
                raise
        time.sleep(WAIT_SECONDS)
