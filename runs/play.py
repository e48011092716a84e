"""Play a game yourself, in a window: `python -m runs.play pong`."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tyro

from envs.config import EnvConfig, Protocol
from runs.commands import refusing_bad_input, run_command
from runs.watch import has_display

if TYPE_CHECKING:
    import gymnasium

WINDOW_HEIGHT, ATARI_FRAMES_PER_SECOND = 630, 60
LETTERS = {"UP": "w", "DOWN": "s", "LEFT": "a", "RIGHT": "d", "FIRE": " "}
NOTHING = ("NOOP", "STAY")


@dataclass(frozen=True)
class PlayArgs:
    """Play a game with the arrow keys, or W A S D, and the space bar to fire; Escape ends it."""

    game: tyro.conf.Positional[str]
    """An Atari game (`python -m runs.games` lists them), or `catch`."""
    episodes: int | None = None
    """Whole games; until Escape when not given."""
    protocol: Protocol = "classic"
    """`classic` or `v5`, whose sticky actions follow a press late now and then."""
    seed: int = 0
    """Of the games."""


def main(args: PlayArgs) -> int:
    """Open a window, and print each game's score; return the exit code."""
    with refusing_bad_input():
        from envs.games import make_playable

        if args.episodes is not None and args.episodes < 1:
            raise ValueError(f"--episodes {args.episodes} must be at least 1")
        if args.seed < 0:
            raise ValueError(f"--seed {args.seed} must be at least 0")
        env = make_playable(EnvConfig(args.game, protocol=args.protocol))
        if not has_display():
            raise ValueError("there is no display to open a window on: play where there is one")
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            import pygame
            from gymnasium.utils.play import play
        except ImportError as error:
            raise ValueError("a window needs pygame: pip install 'saccade[window]'") from error
    title, score, played = f"{args.game} ({args.protocol})", 0.0, 0

    def keep_score(_before: Any, _after: Any, _action: Any, reward: Any, ended: bool, cut: bool, _info: Any) -> None:
        nonlocal score, played
        score += float(reward)
        pygame.display.set_caption(f"{title}: score {score:g}")
        if ended or cut:
            print(f"{title}: score {score:g}", flush=True)
            score, played = 0.0, played + 1
            if played == args.episodes:
                pygame.event.post(pygame.event.Event(pygame.QUIT))

    env.reset(seed=args.seed)  # the games that follow come of it
    rate = env.metadata["render_fps"] if args.game == "catch" else ATARI_FRAMES_PER_SECOND
    zoom = WINDOW_HEIGHT / env.render().shape[0]  # type: ignore[union-attr]
    play(env, fps=rate, zoom=zoom, callback=keep_score, keys_to_action=keys_of(env), noop=0)
    if score:
        print(f"{title}: score {score:g}, unfinished")
    return 0


def keys_of(env: "gymnasium.Env[Any, Any]") -> dict[tuple[str | int, ...], int]:
    """Return the number of the action for each set of keys: its directions by letters or arrows, and the space bar."""
    import pygame

    arrows = {name: getattr(pygame, f"K_{name}") for name in ("UP", "DOWN", "LEFT", "RIGHT")}
    keys: dict[tuple[str | int, ...], int] = {}
    for number, meaning in enumerate(env.unwrapped.get_action_meanings()):  # type: ignore[attr-defined]
        if meaning.upper() not in NOTHING:
            parts = [name for name in LETTERS if name in meaning.upper()]
            keys[tuple(LETTERS[name] for name in parts)] = number
            keys[tuple((arrows | {"FIRE": " "})[name] for name in parts)] = number
    return keys


if __name__ == "__main__":
    run_command(main)
