"""Moments of a game as the Rerun viewer shows them: one timeline, `step`, and a layout.

screen              the game in colour
screen/<eye>        an eye's mask over it, each class in its colour
input               the network's newest frame
input/saliency      what the value (red) and the chosen action's advantage (blue) hang on
stack               all of the network's input, the newest on the right
actions             what the agent makes of each action, as bars
actions/<name>      the same of one action, as a trace
value reward score  traces
stages/<number>     the backbone's maps after each stage, a tile for each channel
words/<eye>         what an eye says
about               which agent plays what
"""

import collections
import contextlib
import importlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.pictures import hues
from perception.saliency import integrated_gradients, perturbation_saliency
from runs.evaluate import Player, opinion_is
from runs.eyes import Eye, Seen
from runs.moments import Moment
from runs.pictures import ACCENT, FAINT, INK
from runs.videos import STEPS_PER_SECOND
from runs.watch import Saliency

TRACES = {"value": (255, 176, 59), "reward": (110, 200, 120), "score": (120, 170, 255)}
BAR_LENGTH, NAME_LENGTH, LABEL_LIES_LOW = 8.0, 5.0, 0.35  # in bars' distances; a label stands below its point
SHOWN_STEPS = (-150, 50)  # of the traces, around the moment that is looked at
FLUSH_SECONDS = 20.0
MEDIAN_EVERY_STEPS, MEDIAN_OF, MEDIAN_LEAST = 5, 100, 10  # what never moves is told from so many frames


def open_recording(game: str, url: str | None, path: Path | None) -> Any:
    """Return a Rerun recording with the one timeline `step`, sent to the viewer at `url`, kept in a file, or both.

    Raises:
        ValueError: Rerun is not installed.
    """
    rerun = load_rerun()
    sinks = [] if url is None else [rerun.GrpcSink(url)]
    sinks += [] if path is None else [rerun.FileSink(str(path))]
    # By these a file has few chunks: a third of the size, and opened at once.
    chunks = None if url else rerun.ChunkBatcherConfig(flush_tick=60.0, flush_num_bytes=4 << 20)
    recording = rerun.RecordingStream(f"saccade {game}", send_properties=False, batcher_config=chunks)
    recording.set_log_tick_enabled(False)
    recording.set_log_time_enabled(False)
    recording.set_sinks(*sinks)
    return recording


def load_rerun() -> Any:
    """Return the module.

    Raises:
        ValueError: it is not installed.
    """
    try:
        importlib.import_module("rerun.blueprint")
        return importlib.import_module("rerun")
    except ImportError as error:
        raise ValueError("Rerun is not installed: pip install 'saccade[viewer]'") from error


class Viewer:
    """Logs moments into a recording."""

    def __init__(
        self,
        recording: Any,
        first: Moment,
        eyes: Sequence[Eye],
        saliency_every_steps: int,
        saliency_by: Saliency,
        how: str,
        *,
        live: bool,
    ) -> None:
        """Send the layout, and what stays as it is.

        Args:
            recording: where it goes.
            first: any moment of the games.
            eyes: look at every moment.
            saliency_every_steps: between two looks at what value and action hang on; 0 for none.
            saliency_by: blurring places, or integrated gradients.
            how: in words, how is played.
            live: let the viewer follow what comes; else it plays from the start.
        """
        self._recording, self._eyes, self._saliency_every_steps = recording, eyes, saliency_every_steps
        self._saliency_by: Saliency = saliency_by
        self._rerun, self._how, self._agent, self._steps = load_rerun(), how, "", 0
        self._recent: collections.deque[NDArray[np.uint8]] = collections.deque(maxlen=MEDIAN_OF)
        recording.send_blueprint(make_layout(first, eyes, saliency_every_steps > 0, live))
        for eye in eyes:
            if eye.classes is not None:
                named = [
                    (i, name, tuple(colour))
                    for i, (name, colour) in enumerate(zip(eye.classes, hues(len(eye.classes)).tolist(), strict=True))
                ]
                recording.log(f"screen/{eye.name}", self._rerun.AnnotationContext(named), static=True)
        for name, colour in TRACES.items():
            self._trace(name, name, colour)
        for name, colour in zip(first.action_names, hues(len(first.action_names) + 1)[1:].tolist(), strict=True):
            self._trace(f"actions/{name}", name, colour)

    def _trace(self, path: str, name: str, colour: Sequence[int]) -> None:
        self._recording.log(path, self._rerun.SeriesLines(names=name, colors=[colour], widths=1.5), static=True)

    def show(self, moment: Moment) -> None:
        """Log one moment; live, `is_sent` is to follow, or what belongs together comes in pieces of several steps."""
        log, rerun = self._recording.log, self._rerun
        self._recording.set_time("step", sequence=self._steps)
        if moment.agent != self._agent:
            self._agent = moment.agent
            about = f"{moment.env.game}, {moment.env.protocol}, {self._how}\n\n{moment.agent}"
            log("about", rerun.TextDocument(about, media_type="text/markdown"))
        log("screen", rerun.Image(moment.screen))
        log("input", rerun.Image(moment.frames[-1]))
        log("stack", rerun.Image(np.concatenate(list(moment.frames), axis=1)))
        for name in ("value", "reward", "score"):
            log(name, rerun.Scalars(getattr(moment, name)))
        self._show_bars(moment)
        for name, opinion in zip(moment.action_names, moment.opinion, strict=True):
            log(f"actions/{name}", rerun.Scalars(opinion))
        for number, stage in enumerate(stage_maps(moment.player, moment.frames), start=1):
            log(
                f"stages/{number}",
                rerun.DepthImage(tiles(stage), colormap="viridis", depth_range=(0, 255), meter=1.0),
            )
        for eye in self._eyes:
            self._show_seen(eye, eye.look(moment.frames), moment.screen.shape[:2])
        if self._steps % MEDIAN_EVERY_STEPS == 0:
            self._recent.append(moment.frames[-1])
        if self._saliency_every_steps and self._steps % self._saliency_every_steps == 0:
            log(
                "input/saliency",
                rerun.Image(overlay(saliency(moment, self._without(moment.frames), self._saliency_by))),
            )
        self._steps += 1

    def is_sent(self, seconds: float) -> bool:
        """Wait at most so long for the viewer to take what was logged; return whether it has.

        Raises:
            RuntimeError: it is gone.
        """
        try:
            self._recording.flush(timeout_sec=seconds)
        except RuntimeError as error:
            if "timed out" not in str(error):
                raise
            return False
        return True

    def _show_seen(self, eye: Eye, seen: Seen, size: tuple[int, int]) -> None:
        if seen.mask is not None:
            mask = cv2.resize(seen.mask, size[::-1], interpolation=cv2.INTER_NEAREST)
            self._recording.log(f"screen/{eye.name}", self._rerun.SegmentationImage(mask, opacity=0.6))
        self._recording.log(f"words/{eye.name}", self._rerun.TextDocument(seen.words))

    def _show_bars(self, moment: Moment) -> None:
        """Log a bar for each action, and before it its name and number.

        Probabilities have bars from 0 to 1; Q-values, which lie close together, from a little before the least on.
        """
        ends = [BAR_LENGTH * x for x in moment.opinion]
        if not moment.player.draws:
            least, most = min(moment.opinion), max(moment.opinion)
            ends = [BAR_LENGTH * (0.1 + 0.9 * (x - least) / max(most - least, 1e-6)) for x in moment.opinion]
        names = [f"{name}  {x:.3f}" for name, x in zip(moment.action_names, moment.opinion, strict=True)]
        chosen = [number == moment.action for number in range(len(names))]
        self._recording.log(
            "actions",
            self._rerun.LineStrips2D(
                [[(0, number), (end, number)] for number, end in enumerate(ends)],
                radii=0.35,
                colors=[ACCENT if one else FAINT for one in chosen],
            ),
        )
        self._recording.log(
            "actions/names",
            self._rerun.Points2D(
                [(-NAME_LENGTH / 2, number - LABEL_LIES_LOW) for number in range(len(names))],
                radii=0.01,
                colors=[ACCENT if one else INK for one in chosen],
                labels=names,
                show_labels=True,
            ),
        )

    def close(self) -> None:
        """Send what is left, and end the file."""
        with contextlib.suppress(RuntimeError, ValueError, TimeoutError):  # whoever it went to may be gone
            self._recording.flush(timeout_sec=FLUSH_SECONDS)
        self._recording.disconnect()

    def _without(self, frames: NDArray[np.uint8]) -> Tensor | None:
        """Return the median of recent frames as a stack (C, H, W): what does not move."""
        if len(self._recent) < MEDIAN_LEAST:
            return None
        median = np.median(np.stack(self._recent), axis=0).astype(np.uint8)
        return torch.from_numpy(np.repeat(median[None], len(frames), axis=0))


@torch.inference_mode()
def stage_maps(player: Player, frames: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Return the backbone's maps (C, H, W) of a stack of frames (C, H, W), stage by stage."""
    backbone = player.backbone
    device = next(backbone.parameters()).device
    return [stage[0].float().cpu().numpy() for stage in backbone(torch.from_numpy(frames[None]).to(device))]


def tiles(maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw maps (C, H, W) beside and below each other, the greatest number of all of them 255: (H, W)."""
    count, height, width = maps.shape
    columns = math.ceil(math.sqrt(count))
    lines = -(-count // columns)
    scaled = maps * (255 / max(float(maps.max()), 1e-6))
    sheet = np.zeros((lines * columns, height + 1, width + 1), np.uint8)
    sheet[:count, :height, :width] = scaled.clip(0, 255)
    return sheet.reshape(lines, columns, height + 1, width + 1).swapaxes(1, 2).reshape(lines * (height + 1), -1)


def saliency(moment: Moment, without: Tensor | None, by: Saliency) -> NDArray[np.float32]:
    """Return how much the value, and the advantage of the chosen action, hang on each place: (2, H, W).

    The advantage is taken against the mean of all actions (Wang et al. 2016, equation 9). By gradients, value is the
    greatest of what the player makes of the actions, and a place counts in all frames of the stack together.
    """
    frames = torch.from_numpy(moment.frames)

    def advantage(opinions: Tensor) -> Tensor:
        return opinions[:, moment.action] - opinions.mean(dim=1)

    if by == "gradients":
        device = next(moment.player.backbone.parameters()).device
        frames, without = frames.to(device), None if without is None else without.to(device)
        prefer = moment.player.differentiable()
        scores: list[Callable[[Tensor], Tensor]] = [lambda x: prefer(x).amax(dim=1), lambda x: advantage(prefer(x))]
        maps = [integrated_gradients(score, frames, without).abs().sum(dim=0) for score in scores]
        return torch.stack(maps).cpu().numpy()

    def score(perturbed: Tensor) -> Tensor:
        opinions, values = moment.player.opinion(perturbed.numpy())
        return torch.stack([values, advantage(opinions)], dim=1).float().cpu()

    return perturbation_saliency(score, frames, without).numpy()


def overlay(maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw two maps (2, H, W), each to its own greatest, in red and blue on nothing: (H, W, 4)."""
    red, blue = maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)
    alpha = np.maximum(red, blue)
    share = 255 / np.maximum(alpha, 1e-6)
    return np.stack([red * share, 0 * red, blue * share, 200 * alpha], axis=-1).astype(np.uint8)


def make_layout(first: Moment, eyes: Sequence[Eye], with_saliency: bool, live: bool) -> Any:
    """Return the blueprint: screen and words left, the input and what it hangs on, bars and traces, maps below."""
    rerun = load_rerun()
    layout = rerun.blueprint

    said = [layout.TextDocumentView(origin=f"words/{eye.name}", name=f"says {eye.name}") for eye in eyes]
    left = layout.Vertical(
        layout.Spatial2DView(origin="screen", name="screen" + (" and masks" if any(e.classes for e in eyes) else "")),
        *said,
        layout.TextDocumentView(origin="about", name="about"),
        row_shares=[6, *([1] * len(said)), 1.6],
    )
    stages = [
        layout.Spatial2DView(origin=f"stages/{number}", name=f"stage {number}")
        for number in range(1, len(first.player.backbone.stages) + 1)
    ]
    seen = "what value (red) and action (blue) hang on" if with_saliency else "newest frame"
    middle = layout.Vertical(
        layout.Spatial2DView(origin="input", name=seen),
        layout.Spatial2DView(origin="stack", name="all that the network sees"),
        layout.Horizontal(*stages),
        row_shares=[5, 2, 4],
    )
    here = [
        rerun.VisibleTimeRange(
            "step",
            start=rerun.TimeRangeBoundary.cursor_relative(seq=SHOWN_STEPS[0]),
            end=rerun.TimeRangeBoundary.cursor_relative(seq=SHOWN_STEPS[1]),
        )
    ]
    count, unnamed = len(first.action_names), layout.PlotLegend(visible=False)
    right = layout.Vertical(
        layout.Spatial2DView(
            origin="actions",
            contents=["actions", "actions/names"],
            name=opinion_is(first.player),
            visual_bounds=layout.VisualBounds2D(x_range=(-NAME_LENGTH, BAR_LENGTH + 0.5), y_range=(-0.7, count - 0.3)),
        ),
        layout.TimeSeriesView(
            origin="actions",
            name=opinion_is(first.player),
            time_ranges=here,
            plot_legend=layout.PlotLegend(corner="LeftTop"),
        ),
        *(layout.TimeSeriesView(origin=name, name=name, time_ranges=here, plot_legend=unnamed) for name in TRACES),
        row_shares=[3, 2.5, 2.5, 1.3, 1.3],
    )
    return layout.Blueprint(
        layout.Horizontal(left, middle, right, column_shares=[3, 4, 4]),
        layout.TimePanel(
            state="collapsed", timeline="step", fps=STEPS_PER_SECOND, play_state="following" if live else "playing"
        ),
        layout.BlueprintPanel(state="collapsed"),
        layout.SelectionPanel(state="collapsed"),
    )
