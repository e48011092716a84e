"""Draw what a network responds to: `python -m runs.dream CHECKPOINT --out FILE.png`.

Without further options a sheet of everything: filters of the first layer, of each stage the channels that tell pictures
apart most, and what the head is asked: an agent's actions and value, a task's classes. Below each drawing the picture
that the network knows and responds to most. Frames of a stack are one picture: grey stands still, and what moves goes
from red, the oldest frame, to blue.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from perception.config import Ascent, ConfigError
from runs.commands import need_writable, refusing_bad_input, run_command
from runs.config import Device

if TYPE_CHECKING:
    from torch import Tensor

    from runs.dream_sheet import Plan
    from runs.insight import Subject

LARGEST = 336  # pixels of a side that DeepDream draws


@dataclass(frozen=True)
class DreamArgs:
    """Draw what a network responds to: filters, channels, actions or classes, or DeepDream on a picture."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint folder, or a run folder (its newest checkpoint), of an agent or a perception task."""
    out: Path = Path("dream.png")
    """The picture."""
    filters: bool = False
    """All filters of the first layer, and nothing else."""
    stage: int | None = None
    """Channels of one stage of the backbone, and nothing else; 1 is the finest. Of DeepDream, the one that is
    dreamt of, in place of each in turn."""
    channels: str | None = None
    """Which channels of --stage, as 0-15,20; those that tell pictures apart most when not given."""
    answers: str | None = None
    """What the head is asked, and nothing else: value, actions or classes by name as value,left; or all."""
    deep_dream: str | None = None
    """Draw more of what each stage sees into it: a picture file, or the number of one of the images that are looked at,
    from 0; of an agent those are the steps of its game."""
    game: str | None = None
    """For a perception task: look at this Atari game, played at random, in place of the data it was trained on."""
    steps: int = 400
    """Steps of the game that are looked at."""
    ascent: Annotated[Ascent, tyro.conf.arg(name="")] = field(default_factory=Ascent)
    """How a picture is changed."""
    seed: int = 0
    """Of the game, the noise and the jitter."""
    device: Device = "auto"
    """cpu, cuda, mps or auto."""

    def __post_init__(self) -> None:
        """Raise ConfigError, in words that say what to do, where options contradict each other."""
        if self.channels is not None and self.stage is None:
            raise ConfigError("--channels are of a stage: give --stage")
        if self.steps < 1:
            raise ConfigError("need --steps of at least 1")
        only = [self.filters, self.stage is not None and self.deep_dream is None, self.answers is not None]
        if sum([*only, self.deep_dream is not None]) > 1:
            raise ConfigError("--filters, --stage, --answers and --deep-dream are a sheet each: give one of them")


def main(args: DreamArgs) -> int:
    """Draw; return the exit code."""
    from PIL import Image

    with refusing_bad_input():
        need_writable(args.out, ".png")
        from runs import machine
        from runs.dream_sheet import draw
        from runs.insight import load_subject

        machine.settle_thread(machine.usable_cores())
        subject = load_subject(args.checkpoint, args.game, args.steps, args.seed, args.device)
        plan = make_plan(subject, args)
    Image.fromarray(draw(subject, plan, args.ascent, args.seed)).save(args.out)
    print(args.out)
    return 0


def make_plan(subject: "Subject", args: DreamArgs) -> "Plan":
    """Return what `args` ask for of this network.

    Raises:
        ValueError: it has no such stage, channel or answer, or the picture cannot be read.
    """
    from perception.dreams import first_filters, most_telling, responses
    from runs.dream_sheet import COLUMNS, Plan

    stages, everything = subject.backbone.stages, not (args.filters or args.stage or args.answers or args.deep_dream)
    if args.stage is not None and not 1 <= args.stage <= len(stages):
        raise ValueError(f"--stage {args.stage}: this backbone has the stages 1 to {len(stages)}")
    if args.deep_dream is not None:
        wanted = range(len(stages)) if args.stage is None else [args.stage - 1]
        chosen = [] if args.channels is None else _numbers(args.channels, stages[wanted[0]].channels)
        return Plan([], dict.fromkeys(wanted, chosen), [], _dreamt_on(subject, args.deep_dream))
    filters = first_filters(subject.backbone).flatten(1).norm(dim=1).argsort(descending=True).tolist()
    channels = {}
    if args.channels is not None and args.stage is not None:
        channels = {args.stage - 1: _numbers(args.channels, stages[args.stage - 1].channels)}
    elif everything or args.stage is not None:
        response = responses(subject.backbone, _looked_at(subject, args.seed))
        wanted = range(len(stages)) if everything else [args.stage - 1]  # type: ignore[operator]
        most = COLUMNS if everything else 2 * COLUMNS
        channels = {stage: found for stage in wanted if (found := most_telling(response[stage], most))}
        if args.stage is not None and not channels:
            raise ValueError(
                f"no channel of --stage {args.stage} tells the images apart that are looked at: give its --channels, "
                "or more --steps of a game"
            )
    names = args.answers.split(",") if args.answers not in (None, "all") else subject.answers
    unknown = [name for name in names if name not in subject.answers]
    if unknown or (args.answers is not None and not names):
        there = ", ".join(subject.answers) or "nothing with a name: draw its --stage"
        raise ValueError(f"--answers {unknown[0] if unknown else args.answers}: the head is asked {there}")
    answers = [subject.answers.index(name) for name in names]
    if everything:  # of hundreds of values a few, from all over
        answers = answers[:: max(1, -(-len(answers) // (3 * COLUMNS)))]
    return Plan(
        filters if args.filters else filters[: (COLUMNS - 1) * everything],
        channels,
        answers if everything or args.answers else [],
        None,
    )


def _numbers(text: str, count: int) -> list[int]:
    """Return the numbers below `count` that a text such as 0-15,20 lists.

    Raises:
        ValueError: it is no such text, or one is not below.
    """
    try:
        ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
        numbers = [number for part in ends for number in range(part[0], part[-1] + 1)]
    except ValueError:
        numbers = []
    if not numbers or max(numbers) >= count:
        raise ValueError(f"--channels {text}: give numbers from 0 to {count - 1}, as 0-7,12")
    return numbers


def _looked_at(subject: "Subject", seed: int) -> "Tensor":
    """Return images (N, C, H, W) that channels are chosen by: those that it knows, or else soft noise."""
    import torch
    from torch.nn import functional as F

    if len(subject.images):
        return subject.images
    generator = torch.Generator().manual_seed(seed)
    device = subject.images.device
    noise = torch.rand(64, subject.shape[0], 8, 8, generator=generator).to(device)
    return F.interpolate(noise, size=subject.shape[1:], mode="bilinear")


def _dreamt_on(subject: "Subject", picture: str) -> "Tensor":
    """Return the middle of the picture file, or one of the images that are looked at, as (C, H, W) in [0, 1].

    Raises:
        ValueError: there is no such image, or the file cannot be read.
    """
    import torch
    from PIL import Image, ImageOps

    from runs.picture_sets import in_eight_bits, read_picture

    if picture.isdecimal() and not Path(picture).exists():
        if int(picture) >= len(subject.images):
            raise ValueError(
                f"--deep-dream {picture}: {len(subject.images)} images are there, counted from 0; see --steps"
            )
        return subject.images[int(picture)].float() / 255
    try:
        whole = in_eight_bits(Image.open(picture)).convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"--deep-dream '{picture}' cannot be read as a picture: {error}") from error
    channels, side = subject.shape[0], min(*whole.size, LARGEST)
    square = read_picture(ImageOps.fit(whole, (side, side)), side, channels != 3)
    pixels = torch.from_numpy(square.copy()).to(subject.images.device)
    return (pixels if channels == 3 else pixels.repeat(channels, 1, 1)).float() / 255


if __name__ == "__main__":
    run_command(main)
