"""Draws what a report shows: learning curves, statistics over games, profiles, and frames of videos."""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from runs.pictures import SCREEN
from runs.results import Result, Setting
from runs.statistics import Curve, Statistic, Values, curve, interquartile_mean, interval, performance_profile

COLOURS: Any = matplotlib.color_sequences["tab10"]
# Pillow's own font has no ε.
FONT = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 13)
STRIP_FRAMES, STRIP_WIDTH, STRIP_HEIGHT = 8, 128, 168


def draw_curves(settings: Sequence[Setting]) -> bytes:
    """Draw the scores of each game over steps and over wall clock as a PNG.

    A line is the mean over seeds, its band the 95 % interval; faint lines are the seeds, however far each has come. Of
    several games with a human score, a last row is the interquartile mean of human-normalised scores.
    """
    games = sorted({game for setting in settings for game in setting.games})
    rows = len(games) + (len(normalised_games(settings)) > 1)
    figure = Figure(figsize=(10, 0.6 + 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False)
    slowest = max(result.seconds for setting in settings for result in setting.results)
    unit, divisor = ("hours", 3600) if slowest > 2 * 3600 else ("minutes", 60)
    for row, (over_steps, over_time) in zip([*games, ""], panels, strict=False):
        for place, setting in enumerate(settings):
            colour = COLOURS[place % len(COLOURS)]
            for axes, over, scale in ((over_steps, "over_steps", 1), (over_time, "over_seconds", divisor)):
                if row:
                    runs = [getattr(result, over) for result in setting.games.get(row, [])]
                    for places, scores in runs:
                        axes.plot(np.divide(places, scale), scores, color=colour, alpha=0.4, linewidth=0.8)
                    if runs:
                        _draw_curve(axes, curve([runs]), scale, colour, setting.name)
                elif len(normalised_games([setting])) > 1:
                    found = normalised_curve(setting, over)
                    _draw_curve(axes, found, scale, colour, setting.name)
        over_steps.set(title=row or "all games: IQM, human-normalised", xlabel="steps", ylabel="score")
        over_time.set(title=row or "all games: IQM, human-normalised", xlabel=f"wall clock, {unit}")
        over_steps.xaxis.set_major_formatter("{x:,.0f}")
        over_steps.locator_params(axis="x", nbins=5)
        for axes in (over_steps, over_time):
            axes.grid(alpha=0.3)
    _legend(figure, settings)
    return _png(figure)


def normalised_games(settings: Sequence[Setting]) -> list[str]:
    """Return the games that have a human score."""
    found = {r.env.game for s in settings for r in s.results if r.evaluation["human_normalized"] is not None}
    return sorted(found)


def normalised_curve(setting: Setting, over: str) -> Curve:
    """Return the interquartile mean of a setting's human-normalised scores, `over_steps` or `over_seconds`."""
    from envs.scores import human_normalized

    strata = []
    for game in normalised_games([setting]):
        runs = [getattr(result, over) for result in setting.games[game]]
        strata.append([(places, [human_normalized(game, score) or 0.0 for score in scores]) for places, scores in runs])
    return curve(strata, interquartile_mean)


def normalised_scores(setting: Setting) -> list[Values]:
    """Return the human-normalised scores of a setting's last evaluations, an array for each game."""
    return [
        np.array([result.evaluation["human_normalized"] for result in setting.games[game]])
        for game in normalised_games([setting])
    ]


def draw_statistics(settings: Sequence[Setting], statistics: dict[str, Statistic]) -> bytes:
    """Draw each statistic with its 95 % interval, and the performance profiles, as a PNG (Agarwal et al. 2021)."""
    told = [(place, setting) for place, setting in enumerate(settings) if normalised_games([setting])]
    figure = Figure(figsize=(10, 1.2 + 0.35 * len(told) + 3), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.0 + 0.35 * len(told), 3])
    above, below = parts
    for axes, (name, statistic) in zip(above.subplots(1, len(statistics)), statistics.items(), strict=True):
        for height, (place, setting) in enumerate(told):
            strata, colour = normalised_scores(setting), COLOURS[place % len(COLOURS)]
            if (found := interval(strata, statistic)) is not None:
                axes.plot(found, [height, height], color=colour, linewidth=7, alpha=0.35, solid_capstyle="butt")
            axes.plot(float(statistic(*strata)), height, marker="|", markersize=13, markeredgewidth=2, color=colour)
        axes.set(title=name, yticks=[], ylim=(len(told) - 0.5, -0.5))
        axes.grid(alpha=0.3, axis="x")
    axes = below.subplots()
    every = np.concatenate([scores for _, setting in told for scores in normalised_scores(setting)])
    # Profiles change at scores alone.
    thresholds = np.unique([min(0.0, every.min()) - 0.02, *every, max(1.0, every.max()) + 0.02])
    for place, setting in told:
        shares, band = performance_profile(normalised_scores(setting), thresholds)
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(thresholds, shares, color=colour, label=setting.name, drawstyle="steps-post")
        if band is not None:
            axes.fill_between(thresholds, *band, color=colour, alpha=0.15, linewidth=0, step="post")
    axes.set(xlabel="human-normalised score τ", ylabel="share of runs above τ", title="performance profiles")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    return _png(figure)


def draw_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """Draw a table as a PNG."""
    line, gap, margin = 24, 18, 16
    columns = list(zip(head, *rows, strict=True))
    widths = [max(math.ceil(FONT.getlength(cell)) for cell in column) + gap for column in columns]
    size = (sum(widths) + 2 * margin, line * (len(rows) + 2) + 2 * margin)
    canvas = Image.new("RGB", size, (255, 255, 255))
    pen, left = ImageDraw.Draw(canvas), margin
    pen.text((margin, margin), title, (40, 40, 40), FONT)
    for column, width in zip(columns, widths, strict=True):
        for place, cell in enumerate(column):
            pen.text((left, margin + (place + 1) * line), cell, (40, 40, 40) if place else (120, 120, 120), FONT)
        left += width
    return _bytes(canvas)


def draw_strips(settings: Sequence[Setting]) -> bytes | None:
    """Draw frames of the newest video of each setting's best run of a game as a PNG; None where there is no video."""
    strips = list(_strips(settings))
    if not strips:
        return None
    line, gap = 22, 4
    size = (STRIP_FRAMES * (STRIP_WIDTH + gap) + gap, len(strips) * (STRIP_HEIGHT + line + gap))
    canvas = Image.new("RGB", size, (255, 255, 255))
    pen = ImageDraw.Draw(canvas)
    for row, (name, frames) in enumerate(strips):
        top = row * (STRIP_HEIGHT + line + gap)
        pen.text((gap, top + 2), name, (40, 40, 40), FONT)
        for place, frame in enumerate(frames):
            frame.thumbnail((STRIP_WIDTH, STRIP_HEIGHT), Image.Resampling.LANCZOS)
            canvas.paste(frame, (gap + place * (STRIP_WIDTH + gap), top + line))
    return _bytes(canvas)


def frames_of(video: Path) -> list[Image.Image]:
    """Return the game's screen at `STRIP_FRAMES` moments, evenly spaced over a video that `runs.watch` made.

    Raises:
        OSError: it cannot be read as a video.
    """
    import imageio_ffmpeg

    try:
        count, _ = imageio_ffmpeg.count_frames_and_secs(str(video))
    except RuntimeError as error:
        raise OSError(f"'{video}' cannot be read as a video") from error
    if not count:
        raise OSError(f"'{video}' holds no frame")
    wanted = set(np.linspace(0, count - 1, min(STRIP_FRAMES, count)).astype(int).tolist())
    with contextlib.closing(imageio_ffmpeg.read_frames(str(video))) as reader:
        size = next(reader)["size"]  # type: ignore[index, call-overload]
        return [Image.frombytes("RGB", size, frame).crop(SCREEN) for at, frame in enumerate(reader) if at in wanted]


def stacked(pictures: Sequence[bytes]) -> bytes:
    """Return pictures below each other as one PNG."""
    opened = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    width = max(picture.width for picture in opened)
    canvas = Image.new("RGB", (width, sum(picture.height for picture in opened)), (255, 255, 255))
    top = 0
    for picture in opened:
        canvas.paste(picture, ((width - picture.width) // 2, top))
        top += picture.height
    return _bytes(canvas)


def _strips(settings: Sequence[Setting]) -> Iterator[tuple[str, list[Image.Image]]]:
    """Yield a name and frames of the newest video that can be read, by game and setting."""
    games = [(game, setting.name, setting) for setting in settings for game in setting.games]
    for game, _, setting in sorted(games, key=lambda told: told[:2]):
        best: Result = max(setting.games[game], key=lambda result: result.score)
        # Other names are not of this program.
        videos = [video for video in (best.folder / "videos").glob("*.mp4") if video.stem.isdecimal()]
        for video in sorted(videos, key=lambda video: int(video.stem), reverse=True):
            with contextlib.suppress(OSError):  # a kill has cut it short: the one before it will do
                frames = frames_of(video)
                yield f"{game}: {setting.name}, seed {best.config.seed}, step {int(video.stem):,}", frames
                break


def _draw_curve(axes: Any, found: Curve, scale: float, colour: Any, name: str) -> None:
    places = found.places / scale
    marker = "o" if scale == 1 or len(places) == 1 else None  # over time a line has a place for each run's
    axes.plot(places, found.values, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=name)
    if found.interval is not None:
        axes.fill_between(places, *found.interval, color=colour, alpha=0.15, linewidth=0)


def _legend(figure: Figure, settings: Sequence[Setting]) -> None:
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        handles |= {str(label): handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    names = [setting.name for setting in settings if setting.name in handles]
    figure.legend([handles[name] for name in names], names, loc="outside upper center", ncols=3, frameon=False)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _bytes(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()
