"""Draws the sheets of `runs.dream`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from perception.config import Ascent
from perception.dreams import Score, channel_score, deep_dream, first_filters, maximise, responses
from perception.pictures import Picture, beside, contact_sheet, in_motion, lit
from runs.insight import Subject
from runs.progress import ProgressDisplay

COLUMNS, TOGETHER = 10, 20  # tiles in a row; images drawn in one batch
SPARSITY = 2.0  # of what is changed in a game's own screen, where few pixels ever differ

Tiles = list[tuple[Picture, str]]


class Plan(NamedTuple):
    """What is drawn."""

    filters: list[int]
    channels: dict[int, list[int]]  # of each stage, counted from 0; of DeepDream's, none is all of them
    answers: list[int]
    dreamt_on: Tensor | None  # (C, H, W) in [0, 1], for DeepDream


def draw(subject: Subject, plan: Plan, ascent: Ascent, seed: int) -> Picture:
    """Return the sheet."""
    if plan.dreamt_on is not None:
        return _draw_deep_dream(subject, plan.dreamt_on, plan, ascent, seed)
    filters = _filters(subject, plan.filters)
    rows = [filters[: COLUMNS - 1], *beside(filters[COLUMNS - 1 :], columns=COLUMNS)]
    drawn = sum(map(len, plan.channels.values())) + len(plan.answers) * (1 + subject.plays)
    with ProgressDisplay(drawn * ascent.updates, "updates") as display:
        display.begin(0)
        dreamer = Dreamer(subject, ascent, seed, display)
        for stage, channels in plan.channels.items():
            rows += dreamer.channels(stage, channels)
        rows += dreamer.answers(plan.answers)
    rows = [row for row in rows if row]
    if subject.shape[0] in (1, 3):
        return contact_sheet(rows)
    key = (
        _moving(subject.shape[0]),
        "how to read colours: red is the oldest frame, blue the newest, grey stands still",
    )
    return contact_sheet([[*rows[0], key], *rows[1:]] if len(rows[0]) < COLUMNS else [[key], *rows])


class Dreamer:
    """Draws for one network, and counts the updates."""

    def __init__(self, subject: Subject, ascent: Ascent, seed: int, display: ProgressDisplay) -> None:
        """Draw by `ascent`; noise and jitter come from `seed`."""
        self._subject, self._ascent, self._seed, self._display = subject, ascent, seed, display
        self._done = 0
        self._responses = responses(subject.backbone, subject.images) if len(subject.images) else []

    def channels(self, stage: int, channels: list[int]) -> list[Sequence[tuple[Picture, str]]]:
        """Return rows of a stage's channels, each above the known picture that it responds to most."""
        backbone, images = self._subject.backbone, self._subject.images
        drawn, scores = self._maximise(lambda chunk: channel_score(backbone, stage, chunk), channels)
        names = [f"stage {stage + 1}, channel {channel}" for channel in channels]
        dreams = [(_tile(x), f"{name}: {y:.3g}") for x, name, y in zip(drawn, names, scores, strict=True)]
        if not len(images):
            return beside(dreams, columns=COLUMNS)
        response, known = self._responses[stage], []
        for channel in channels:
            best = int(response[:, channel].argmax())
            with torch.no_grad():
                where = backbone(images[best : best + 1])[stage][0, channel].float().clamp(min=0).cpu().numpy()
            words = f"known, lit where it responds: {float(response[best, channel]):.3g}"
            known.append((lit(in_motion(images[best].cpu().numpy()), where), words))
        return beside(dreams, known, columns=COLUMNS)

    def answers(self, answers: list[int]) -> list[Sequence[tuple[Picture, str]]]:
        """Return rows of what the head is asked.

        Drawn from nothing; in a game, drawn into what of it never moves; and the known picture of the highest score.
        """
        subject, images = self._subject, self._subject.images
        if not answers:
            return []

        def asking(chunk: list[int]) -> Score:
            return lambda x: subject.ask(x)[range(len(chunk)), chunk]

        names = [subject.answers[answer] for answer in answers]
        drawn, scores = self._maximise(asking, answers)
        kinds = [[(_tile(x), f"{name}: {y:.3g}") for x, name, y in zip(drawn, names, scores, strict=True)]]
        if subject.plays:
            still = images.float().median(dim=0).values / 255
            sparsity = SPARSITY if self._ascent.sparsity is None else self._ascent.sparsity
            sparse = replace(self._ascent, sparsity=sparsity, jitter=0, octaves=1, noise=0.01)
            drawn, scores = self._maximise(asking, answers, still, sparse)
            words = [f"{name}, drawn into the still screen: {y:.3g}" for name, y in zip(names, scores, strict=True)]
            kinds.append([(_tile(x), word) for x, word in zip(drawn, words, strict=True)])
        if len(images):
            with torch.no_grad():
                asked = torch.cat([subject.ask(batch.float() / 255) for batch in images.split(2 * TOGETHER)])
            best = [int(asked[:, answer].argmax()) for answer in answers]
            kinds.append(
                [
                    (in_motion(images[at].cpu().numpy()), f"known, {name}: {float(asked[at, answer]):.3g}")
                    for name, answer, at in zip(names, answers, best, strict=True)
                ]
            )
        return beside(*kinds, columns=COLUMNS)

    def _maximise(
        self,
        score_of: Callable[[list[int]], Score],
        wanted: list[int],
        start: Tensor | None = None,
        ascent: Ascent | None = None,
    ) -> tuple[Tensor, list[float]]:
        """Return an image for each of `wanted`, (N, C, H, W), and its score."""
        if start is None:
            start = torch.full(self._subject.shape, 0.5, device=self._subject.images.device)
        drawn, scores = [], []
        for first in range(0, len(wanted), TOGETHER):
            chunk = wanted[first : first + TOGETHER]
            score, ascent = score_of(chunk), ascent or self._ascent
            drawn.append(maximise(score, start.repeat(len(chunk), 1, 1, 1), ascent, self._seed + first))
            with torch.no_grad():
                scores += score(drawn[-1]).tolist()
            self._done += len(chunk) * ascent.updates
            self._display.update(self._done)
        return torch.cat(drawn), scores


def _tile(image: Tensor) -> Picture:
    return in_motion((255 * image).round().byte().cpu().numpy())


def _moving(frames: int) -> Picture:
    """Return the key to the colours: a spot that goes to the right, frame by frame."""
    stack = np.full((frames, 84, 84), 90, np.uint8)
    stack[:, 10:16] = 200
    for number, frame in enumerate(stack):
        left = 12 + round(48 * number / max(frames - 1, 1))
        frame[40:52, left : left + 12] = 255
    return in_motion(stack)


def _filters(subject: Subject, numbers: list[int]) -> Tiles:
    """Return filters, grey where the weight is 0."""
    weights = first_filters(subject.backbone)[numbers]
    weights = weights / weights.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    named = zip(weights, numbers, strict=True)
    return [(_tile(0.5 + 0.5 * weight), f"first layer, filter {number}") for weight, number in named]


def _draw_deep_dream(subject: Subject, picture: Tensor, plan: Plan, ascent: Ascent, seed: int) -> Picture:
    """Return the picture beside what is dreamt on it, at least twice as large as the images that the network knows."""
    scale = max(1.0, 2 * max(subject.shape[1:]) / max(picture.shape[1:]))
    picture = F.interpolate(picture[None], scale_factor=scale, mode="bilinear")[0]
    tiles = [(_tile(picture), "given")]
    with ProgressDisplay(len(plan.channels) * ascent.updates, "updates") as display:
        display.begin(0)
        for done, (stage, channels) in enumerate(plan.channels.items(), start=1):

            def score(images: Tensor, stage: int = stage, channels: list[int] = channels) -> Tensor:
                maps = subject.backbone(images)[stage].float()
                return (maps[:, channels] if channels else maps).square().mean(dim=(1, 2, 3))

            dreamt = deep_dream(score, picture, ascent, seed, least=subject.backbone.minimum_size)
            with torch.no_grad():
                before, after = float(score(picture[None])), float(score(dreamt[None]))
            what = f"stage {stage + 1}" + (f", channels {', '.join(map(str, channels))}" if channels else "")
            tiles.append((_tile(dreamt), f"dreamt of {what}: mean square {after:.3g}, of the given one {before:.3g}"))
            display.update(done * ascent.updates)
    return contact_sheet(beside(tiles, columns=4), tile=420)
