"""Watch an agent play: `python -m runs.watch CHECKPOINT --video FILE.mp4`, or in a window where there is a display."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import tyro

from envs.config import EnvConfig, Protocol
from runs.commands import refusing_bad_input, run_command
from runs.evaluate import EVALUATION_STREAM, check_play, load_player

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runs.evaluate import Player

STEPS_PER_SECOND = 15


class Watched(NamedTuple):
    """A step, drawn."""

    picture: "NDArray[np.uint8]"  # (608, 640, 3)
    score: float
    value: float
    episode_over: bool


def play(agent: "Player", env: EnvConfig, seed: int, epsilon: float) -> Iterator[Watched]:
    """Play without end, one drawn step at a time."""
    from envs.games import Screen, make_games
    from runs.pictures import draw_step

    games = make_games(env, 1, seed + EVALUATION_STREAM)
    screen = Screen(env, games, seed + EVALUATION_STREAM)
    rng, names = np.random.default_rng(seed), games.action_names()
    values: list[float] = []
    score = 0.0
    while True:
        opinions, value = agent.opinion(games.frames)
        opinion = opinions[0].tolist()
        action = int(rng.integers(len(opinion))) if rng.random() < epsilon else int(np.argmax(opinion))
        values.append(float(value))
        seen = games.frames[0, -1]
        picture = draw_step(screen.show(), seen, names, opinion, agent.opinion_is, action, values, score)
        after = games.step(np.array([action]))
        screen.step(action)
        over = bool(after.episodes)
        score = after.episodes[0].score if over else score + float(after.rewards[0])
        yield Watched(picture, score, values[-1], over)
        if over:
            score = 0.0


def record_video(
    agent: "Player",
    env: EnvConfig,
    path: Path,
    seed: int,
    epsilon: float,
    episodes: int = 1,
    most_steps: int | None = None,
) -> list[float]:
    """Write an MP4 of `episodes` games, or of their first `most_steps` steps; return the scores of those that ended.

    Raises:
        OSError: the file cannot be written.
    """
    import imageio_ffmpeg

    from runs.pictures import HEIGHT, WIDTH

    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    writer = imageio_ffmpeg.write_frames(
        str(path), (WIDTH, HEIGHT), fps=STEPS_PER_SECOND, macro_block_size=2, ffmpeg_log_level="error", quality=6
    )
    writer.send(None)
    scores: list[float] = []
    for step, watched in enumerate(play(agent, env, seed, epsilon), start=1):
        writer.send(np.ascontiguousarray(watched.picture))
        if watched.episode_over:
            scores.append(watched.score)
        if len(scores) == episodes or step == most_steps:
            break
    writer.close()
    return scores


@dataclass(frozen=True)
class WatchArgs:
    """Watch an agent play, with what it sees and what it thinks each action is worth."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint folder, or a run folder (its newest checkpoint)."""
    video: Path | None = None
    """Write an MP4 here; without it a window opens."""
    episodes: int = 1
    """Whole games to play."""
    protocol: Protocol | None = None
    """`classic` or `v5`; the one trained under when not given."""
    epsilon: float = 0.01
    """Share of random actions."""
    seed: int = 0
    """Of the game and the random actions."""
    device: str = "auto"
    """cpu, cuda, mps or auto."""


def main(args: WatchArgs) -> int:
    """Play, and print each game's score; return the exit code."""
    with refusing_bad_input():
        check_play(args.episodes, args.epsilon)
        if args.video is None and not _has_display():
            raise ValueError("there is no display to open a window on: give --video FILE.mp4")
        if args.video is not None and args.video.suffix != ".mp4":
            raise ValueError(f"--video {args.video}: only .mp4 is written")
        agent, env = load_player(args.checkpoint, args.protocol, args.device)
        if args.video is not None:
            try:
                args.video.parent.mkdir(parents=True, exist_ok=True)
                args.video.touch()
            except OSError as error:
                raise ValueError(f"cannot write '{args.video}': {error.strerror}") from error
    if args.video is None:
        scores = _show(agent, env, args)
    else:
        scores = record_video(agent, env, args.video, args.seed, args.epsilon, args.episodes)
    for score in scores:
        print(f"{env.game} ({env.protocol}): {score:g}")
    if args.video is not None:
        print(f"video: {args.video}")
    return 0


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _show(agent: "Player", env: EnvConfig, args: WatchArgs) -> list[float]:
    """Play in a window until the episodes are over or the window is closed."""
    try:
        import pygame
    except ImportError:
        print("error: a window needs pygame: pip install 'saccade[window]', or give --video FILE.mp4", file=sys.stderr)
        sys.exit(2)
    from runs.pictures import HEIGHT, WIDTH

    pygame.init()
    window = pygame.display.set_mode((WIDTH, HEIGHT))
    pygame.display.set_caption(f"{env.game} ({env.protocol})")
    clock = pygame.time.Clock()
    scores: list[float] = []
    for watched in play(agent, env, args.seed, args.epsilon):
        if any(event.type == pygame.QUIT for event in pygame.event.get()):
            break
        window.blit(pygame.image.frombuffer(watched.picture.tobytes(), (WIDTH, HEIGHT), "RGB"), (0, 0))
        pygame.display.flip()
        clock.tick(STEPS_PER_SECOND)
        if watched.episode_over:
            scores.append(watched.score)
        if len(scores) == args.episodes:
            break
    pygame.quit()
    return scores


if __name__ == "__main__":
    run_command(main, WatchArgs)
