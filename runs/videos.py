"""Games as pictures, a step each: in a window, or as an MP4."""

import contextlib
import itertools
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from envs.config import EnvConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runs.evaluate import Player
    from runs.moments import Moment

STEPS_PER_SECOND = 15


def in_window(moments: "Iterator[Moment]") -> "Generator[Moment, None, None]":
    """Pass moments on, shown in a window, until it is closed."""
    try:
        import pygame
    except ImportError:
        print("error: a window needs pygame: pip install 'saccade[window]', or give --video FILE.mp4", file=sys.stderr)
        sys.exit(2)
    from runs.pictures import HEIGHT, WIDTH

    pygame.init()
    window = pygame.display.set_mode((WIDTH, HEIGHT))
    clock = pygame.time.Clock()
    for moment, picture in drawn(moments):
        pygame.display.set_caption(f"{moment.env.game} ({moment.env.protocol})")
        if any(event.type == pygame.QUIT for event in pygame.event.get()):
            break
        window.blit(pygame.image.frombuffer(picture.tobytes(), (WIDTH, HEIGHT), "RGB"), (0, 0))
        pygame.display.flip()
        clock.tick(STEPS_PER_SECOND)
        yield moment
    pygame.quit()


def into_video(moments: "Iterator[Moment]", path: Path) -> "Generator[Moment, None, None]":
    """Pass moments on, written into an MP4.

    Raises:
        OSError: the file cannot be written whole.
    """
    import imageio_ffmpeg

    from runs.pictures import HEIGHT, WIDTH

    writer = imageio_ffmpeg.write_frames(
        str(path), (WIDTH, HEIGHT), fps=STEPS_PER_SECOND, macro_block_size=2, ffmpeg_log_level="error", quality=6
    )
    writer.send(None)
    with contextlib.closing(writer):
        for moment, picture in drawn(moments):
            writer.send(np.ascontiguousarray(picture))
            yield moment
    try:  # ffmpeg's own exit code is asked for by nobody
        imageio_ffmpeg.count_frames_and_secs(str(path))
    except RuntimeError as error:
        raise OSError(f"'{path}' could not be written whole: is the disk full?") from error


def drawn(moments: "Iterator[Moment]") -> "Iterator[tuple[Moment, NDArray[np.uint8]]]":
    """Yield each moment with its picture, (608, 640, 3)."""
    from runs.pictures import draw_step

    values: list[float] = []
    for moment in moments:
        values.append(moment.value)
        yield moment, draw_step(moment, values)


def record_video(agent: "Player", env: EnvConfig, path: Path, seed: int, epsilon: float, most_steps: int) -> None:
    """Write an MP4 of the first `most_steps` steps of a game.

    Raises:
        OSError: the file cannot be written.
    """
    from runs.moments import first_episodes, play

    partial = path.with_name(f".{path.name}")  # of which a kill leaves a part
    partial.touch()
    game = first_episodes(play(agent, env, seed, epsilon), 1)
    for _ in into_video(itertools.islice(game, most_steps), partial):
        pass
    partial.replace(path)
