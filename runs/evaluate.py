"""Score an agent over whole games: `python -m runs.evaluate CHECKPOINT --episodes 30`."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

import numpy as np
import tyro

from envs.config import EnvConfig, Protocol
from runs.commands import need_writable, refusing_bad_input, run_command
from runs.config import Device

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from perception.backbones import Backbone

EVALUATION_STREAM = 1_000_000  # keeps the seeds of evaluation episodes apart from those of training


class Player(Interface):
    """Whoever plays: our own agents, and those that SB3 trained. B frames are uint8 (B, C, H, W)."""

    num_actions: int
    draws: bool
    """Whether its opinion are probabilities, by which it draws actions as it did when it learnt; else they are
    Q-values, and it takes the best."""

    @property
    def backbone(self) -> "Backbone":
        """The eye, whose maps can be looked at."""
        ...

    def opinion(self, frames: "NDArray[np.uint8]") -> "tuple[Tensor, Tensor]":
        """Return a number for each action (B, A), the greatest for the best, and the value of the state (B,)."""
        ...

    def differentiable(self) -> "Callable[[Tensor], Tensor]":
        """Return the function, with a gradient, from images in [0, 1] (B, C, H, W) to a number each action (B, A)."""
        ...

    def hidden(self, frames: "NDArray[np.uint8]") -> "Tensor":
        """Return the last hidden layer, (B, units)."""
        ...


def opinion_is(player: Player) -> str:
    """Return in words what the numbers of a player's opinion are."""
    return f"{'probability' if player.draws else 'Q-value'} of each action"


def choose(
    player: Player, frames: "NDArray[np.uint8]", epsilon: float, rng: np.random.Generator
) -> "tuple[NDArray[np.int64], Tensor, Tensor]":
    """Return an action (B,) for each stack (B, C, H, W), a share `epsilon` of them random, and the player's opinion."""
    opinions, values = player.opinion(frames)
    if player.draws:
        upto = opinions.cpu().double().numpy().cumsum(axis=1)
        actions = (rng.random((len(upto), 1)) >= upto / upto[:, -1:]).sum(axis=1)
    else:
        actions = opinions.argmax(dim=1).cpu().numpy()
    random = rng.integers(player.num_actions, size=len(actions))
    return np.where(rng.random(len(actions)) < epsilon, random, actions), opinions, values


def evaluate(agent: Player, env: EnvConfig, episodes: int, epsilon: float, seed: int) -> dict[str, Any]:
    """Play `episodes` whole games, as the agent chooses but for a share `epsilon` of random actions.

    The games are divided among the environments beforehand, so that short games do not count more.

    Returns:
        mean, std (over games), scores (raw) and lengths_steps of the games, human_normalized (None without a human
        score), game, protocol, epsilon, seed, draws (as the player's).
    """
    from envs.games import make_games
    from envs.scores import human_normalized

    num_envs = min(episodes, 32)
    quota = np.array([episodes // num_envs + (env < episodes % num_envs) for env in range(num_envs)])
    games = make_games(env, num_envs, seed + EVALUATION_STREAM)
    rng = np.random.default_rng(seed)
    scores: list[list[float]] = [[] for _ in range(num_envs)]
    lengths: list[list[int]] = [[] for _ in range(num_envs)]
    while any(len(mine) < due for mine, due in zip(scores, quota, strict=True)):
        transition = games.step(choose(agent, games.frames, epsilon, rng)[0])
        for episode in transition.episodes:
            if len(scores[episode.env]) < quota[episode.env]:
                scores[episode.env].append(episode.score)
                lengths[episode.env].append(episode.length_steps)
    games.close()
    every = [score for mine in scores for score in mine]
    lengths_steps = [length for mine in lengths for length in mine]
    mean = float(np.mean(every))
    as_people_play = env == EnvConfig(env.game, protocol=env.protocol)  # not another mode of the game
    return {
        "game": env.game,
        "protocol": env.protocol,
        "episodes": episodes,
        "epsilon": epsilon,
        "draws": agent.draws,
        "seed": seed,
        "mean": mean,
        "std": float(np.std(every)),
        "human_normalized": human_normalized(env.game, mean) if as_people_play else None,
        "scores": every,
        "lengths_steps": lengths_steps,
        "mean_length_steps": float(np.mean(lengths_steps)),
    }


@dataclass(frozen=True)
class EvaluateArgs:
    """Score an agent over whole games, by raw rewards; or a perception task on the test split of a data set."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint folder, or a run folder (its newest checkpoint; FOLDER/best is its best)."""
    episodes: int = 30
    """Whole games to play."""
    protocol: Protocol | None = None
    """`classic` or `v5`; the one trained under when not given."""
    epsilon: float = 0.01
    """Share of random actions."""
    seed: int = 0
    """Of the games and the random actions."""
    device: Device = "auto"
    """cpu, cuda, mps or auto."""
    data: str | None = None
    """Of a perception task: the recording, folder or name, as for training; what it was trained on when not given."""
    game: str | None = None
    """Of a recording of several games."""
    json: Path | None = None
    """Write the result, with each game's score, to this file."""


def main(args: EvaluateArgs) -> int:
    """Print a line with the score; return the exit code."""
    with refusing_bad_input():
        from runs.checkpoints import format_of

        check_play(args.episodes, args.epsilon, args.seed)
        need_writable(args.json)
        perceives = format_of(args.checkpoint) == "saccade-perception-1"
    if perceives:
        return evaluate_perception(args)
    with refusing_bad_input():
        if args.data is not None or args.game is not None:
            raise ValueError("--data and --game go with a perception task's checkpoint; an agent has its game with it")
        agent, env = load_player(args.checkpoint, args.protocol, args.device)
    result = evaluate(agent, env, args.episodes, args.epsilon, args.seed)
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1))
    print(describe(result))
    return 0


def evaluate_perception(args: EvaluateArgs) -> int:
    """Print the figures on the test split; return the exit code."""
    with refusing_bad_input():
        from runs import machine
        from runs.datasets import open_dataset
        from runs.perception_checkpoints import load_perception
        from runs.perception_run import measure_split

        played = EvaluateArgs(args.checkpoint)
        if any(getattr(args, name) != getattr(played, name) for name in ("episodes", "protocol", "epsilon", "seed")):
            raise ValueError("--episodes, --protocol, --epsilon and --seed go with an agent; this is a task's")
        machine.settle_thread(machine.usable_cores())
        network, task, config, about = load_perception(args.checkpoint, args.device, judged=True)
        game = args.game if args.data else args.game or config.game
        data = open_dataset(config.task, args.data or config.data, game, about["size"][0], config.split_seed)
        if args.data is None and about.get("digest") not in (None, data.digest()):
            raise ValueError(f"'{config.data}' is not what it was when the run began: give --data with what to test on")
        data = data.numbered_as(about["names"])
        if data.channels != about["channels"]:
            raise ValueError(
                f"{data.name} has {data.channels} channels, the checkpoint was trained on {about['channels']}"
            )
    answers, measured = measure_split(network, task, data, "test", config)
    result = {"data": data.name, "images": len(answers)} | measured
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1))
    for name, value in result.items():
        print(f"{name:24} {value if isinstance(value, str | int) else format(value, '.4f')}")
    return 0


def load_player(checkpoint: Path, protocol: Protocol | None, device: str) -> tuple[Player, EnvConfig]:
    """Load an agent, ours or one that SB3 trained, and the game it was trained on, under `protocol` if given.

    Raises:
        ValueError: the checkpoint cannot be read, or the game has another number of actions than the agent.
    """
    from envs.games import make_games
    from runs import machine
    from runs.agent_checkpoints import load_agent
    from runs.checkpoints import format_of, refuse_strange_module

    machine.settle_thread(machine.usable_cores())
    if format_of(checkpoint) == "saccade-sb3-1":
        from runs.sb3_checkpoints import load_sb3

        agent, config = load_sb3(checkpoint, device)
    else:
        agent, config = load_agent(checkpoint, device)
    env = replace(config.env, protocol=protocol or config.env.protocol)
    refuse_strange_module(checkpoint, env.game)
    games = make_games(env, 1, seed=0)
    games.close()
    if games.num_actions != agent.num_actions:
        raise ValueError(f"'{checkpoint}' has {agent.num_actions} actions, {env.game} has {games.num_actions} actions")
    return agent, env


def check_play(episodes: int, epsilon: float, seed: int) -> None:
    """Raise ValueError for a number of episodes, a share of random actions or a seed that cannot be meant."""
    if episodes < 1:
        raise ValueError(f"--episodes {episodes} must be at least 1")
    if not 0 <= epsilon <= 1:
        raise ValueError(f"--epsilon {epsilon} must lie between 0 and 1")
    if seed < 0:
        raise ValueError(f"--seed {seed} must be 0 or above")


def describe(result: dict[str, Any]) -> str:
    """Return a result as one line."""
    human = result["human_normalized"]
    return (
        f"{result['game']}: {result['mean']:.2f} ± {result['std']:.2f} over {result['episodes']} games "
        f"({result['protocol']}, ε = {result['epsilon']}{', actions drawn' if result['draws'] else ''}, "
        f"seed {result['seed']})" + (f", human-normalised {human:.2f}" if human is not None else "")
    )


if __name__ == "__main__":
    run_command(main)
