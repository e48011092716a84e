"""Record labelled frames of games: `python -m runs.record_frames --games pong,breakout --steps 20000 --out DIR`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.config import EnvConfig, Protocol
from runs.commands import StopSignal, refusing_bad_input, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from agents.dqn import DQN
    from envs.screens import EmulatedGame


SERIES_STEPS = 1_000  # that one seed is played on from, at least: another makes the emulator load the game anew
CHANGING = {"versions", "done", "colours"}  # in the card of one recording


@dataclass(frozen=True)
class RecordArgs:
    """Play games and keep, for each step, the palette screen, the network's frame and the machine's memory."""

    out: Path
    """The folder; a part of this very recording that it holds is gone on with."""
    games: str = "pong"
    """Atari games, with commas between."""
    steps: int = 20_000
    """Steps of each game, about 41 kB each."""
    policy: str = "random"
    """`random`, or a checkpoint of `runs.train_dqn` on these games."""
    epsilon: float = 0.2
    """Share of random actions beside a checkpoint's."""
    protocol: Protocol = "classic"
    """`classic` or `v5`."""
    seed: int = 0
    """Of the episodes and of the random actions."""


def main(args: RecordArgs) -> int:
    """Record; return 0, or 128 and its number when a signal stopped it."""
    from envs.screens import EmulatedGame
    from runs.folders import RunFolder
    from runs.frames import EPISODES_NEEDED, FramesError, colours_shown, open_columns, read_card
    from runs.progress import ProgressDisplay

    with refusing_bad_input():
        if args.steps < 1 or not 0 <= args.epsilon <= 1 or args.seed < 0:
            raise ValueError("need --steps of at least 1, --epsilon between 0 and 1, --seed of at least 0")
        players = {name: EmulatedGame(EnvConfig(name, protocol=args.protocol)) for name in args.games.split(",")}
        agent = _load_policy(args.policy, players)
        asked, resumed = _card(args), (args.out / "card.json").exists()
        card = read_card(args.out) if resumed else asked
        if other := [name for name in asked if name not in CHANGING and card.get(name) != asked[name]]:
            told = " and ".join(
                "other labels" if name == "names" else f"{name} {card.get(name)}, not {asked[name]}" for name in other
            )
            raise FramesError(f"'{args.out}' holds another recording ({told}): choose another --out")
        lock = RunFolder(args.out, resumed=resumed)
        keep_card(args.out, card)
        begun = {game: card["done"][game][0] > 0 for game in players}
        columns = {game: open_columns(args.out, game, args.steps, "r+" if begun[game] else "w+") for game in players}

    stop = StopSignal()
    stop.listen()
    with ProgressDisplay(args.steps * len(players)) as display:
        display.say(f"{args.games} ({args.protocol}), {args.steps:,} steps each: {lock.path}")
        if unknown := [game for game in players if game not in card["names"]]:
            display.say(
                f"of {', '.join(unknown)} there are no labels: masks show its colours, variables its bytes of memory"
            )
        display.begin(sum(step for step, _ in card["done"].values()))
        for number, (game, player) in enumerate(players.items()):
            while card["done"][game][0] < args.steps:
                # Each series has a seed of its own, so that a recording that was stopped goes on with the next.
                rng = np.random.default_rng([args.seed, number, card["done"][game][1]])
                for step, episode in record_series(columns[game], card["done"][game], player, agent, args.epsilon, rng):
                    if step % 500 == 0:
                        display.update(number * args.steps + step, f"{game}, episode {episode}")
                    if stop.number:
                        display.say("stopped. The same command goes on from the last series of episodes")
                        return stop.exit_code
                    card["done"][game] = [step, episode]
                keep_card(args.out, card)
            card["colours"][game] = colours_shown(columns[game]["screens"])
            keep_card(args.out, card)
        display.say(f"{args.steps * len(players):,} steps in {args.out}")
        for game, (_, episode) in card["done"].items():
            held = episode + (columns[game]["episodes"][-1] == episode)
            if held < EPISODES_NEEDED:
                display.say(
                    f"{game}: {held} of the {EPISODES_NEEDED} episodes that a perception task needs at least: record "
                    "more --steps, into another --out"
                )
    return 0


def keep_card(folder: Path, card: dict[str, Any]) -> None:
    """Write a recording's card in one stroke."""
    from runs.checkpoints import replace_text

    replace_text(folder / "card.json", json.dumps(card, indent=1))


def record_series(
    columns: "dict[str, NDArray[Any]]",
    done: list[int],
    player: "EmulatedGame",
    agent: "DQN | None",
    epsilon: float,
    rng: np.random.Generator,
) -> "Iterator[tuple[int, int]]":
    """Record a series of episodes, or what of it there is room for, after the steps and episodes that are `done`.

    Yield both at each step, and write them to disk in the end.
    """
    step, episode = done
    for row, over in _series(player, agent, epsilon, rng):
        for name, value in (row | {"episodes": episode}).items():
            columns[name][step] = value
        step, episode = step + 1, episode + over
        yield step, episode
        if step == len(columns["episodes"]):
            break
    for column in columns.values():
        column.flush()  # type: ignore[attr-defined]


def _series(
    player: "EmulatedGame", agent: "DQN | None", epsilon: float, rng: np.random.Generator
) -> "Iterator[tuple[dict[str, Any], bool]]":
    """Play whole episodes, SERIES_STEPS at least; yield what is kept of each step and whether it ends an episode."""
    player.reset(int(rng.integers(2**31)))
    steps, over = 0, False
    while steps < SERIES_STEPS or not over:
        if over:
            player.reset()
        action = int(rng.integers(len(player.actions)))
        if agent is not None and rng.random() >= epsilon:
            action = int(agent.act(player.frames[None])[0])
        row = {"screens": player.screen, "frames": player.frame.copy(), "memory": player.memory, "actions": action}
        reward, over = player.step(action)
        steps += 1
        yield row | {"rewards": reward}, over


def _card(args: RecordArgs) -> dict[str, Any]:
    """Return the card of a recording that has yet to begin."""
    from envs.labels.games import LABELS
    from runs import machine
    from runs.frames import FORMAT

    games = args.games.split(",")
    return {
        "format": FORMAT,
        "games": games,
        "steps": args.steps,
        "protocol": args.protocol,
        "policy": args.policy if args.policy == "random" else str(Path(args.policy).absolute()),
        "epsilon": args.epsilon,
        "seed": args.seed,
        "names": {game: list(LABELS[game].names) for game in games if game in LABELS},
        "versions": machine.versions(),
        "done": {game: [0, 0] for game in games},  # steps and episodes
        "colours": {},
    }


def _load_policy(policy: str, players: "dict[str, EmulatedGame]") -> "DQN | None":
    if policy == "random":
        return None
    from runs.agent_checkpoints import load_agent

    agent, _ = load_agent(policy)
    for game, player in players.items():
        if agent.num_actions != len(player.actions):
            raise ValueError(f"'{policy}' has {agent.num_actions} actions, {game} has {len(player.actions)} actions")
    return agent


if __name__ == "__main__":
    run_command(main)
