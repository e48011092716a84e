"""List the games: `python -m runs.games`."""

from dataclasses import dataclass

from runs.commands import run_command


@dataclass(frozen=True)
class GamesArgs:
    """List the games: the scores of a random agent and of a human, and whether there are labels of what they show."""


def main(_args: GamesArgs) -> int:
    """Print a line a game."""
    from envs.atari import GAMES, TWO_PLAYERS_ONLY
    from envs.labels.games import LABELS
    from envs.scores import HUMAN_AND_RANDOM

    print(f"{'game':22} {'random':>10} {'human':>10}   labels")
    for game in GAMES:
        known = HUMAN_AND_RANDOM.get(game)
        scores = f"{known.random:10.1f} {known.human:10.1f}" if known else " " * 21
        print(f"{game:22} {scores} {'  yes' if game in LABELS else ''}".rstrip())
    for game in TWO_PLAYERS_ONLY:
        print(f"{game:22} (its ROM is here, but it is for two players only)")
    print(f"\n{len(GAMES)} Atari games; besides: catch, and any Gymnasium environment with pixels by its id")
    return 0


if __name__ == "__main__":
    run_command(main)
