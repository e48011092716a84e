"""Draw a game's labels, to be checked by eye: `python -m runs.label_sheet GAME --out FILE.png`."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro

from envs.config import EnvConfig, Protocol
from runs.commands import need_writable, refusing_bad_input, run_command

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from envs.screens import EmulatedGame

SCALE, LEGEND_WIDTH, LINE, HEAD = 2, 210, 12, 20
INK, CAPTION = (220, 220, 220), (255, 225, 120)


@dataclass(frozen=True)
class SheetArgs:
    """Play at random; draw screen and boxes, mask, the input and its mask, variables and a caption, row by row."""

    game: tyro.conf.Positional[str]
    """An Atari game that has labels."""
    out: Path = Path("labels.png")
    """The picture."""
    rows: int = 4
    """Moments shown."""
    every_steps: int = 90
    """Steps between two of them."""
    protocol: Protocol = "classic"
    """`classic` or `v5`."""
    seed: int = 0
    """Of the episode and the actions."""


def main(args: SheetArgs) -> int:
    """Draw the sheet; return the exit code."""
    from PIL import Image, ImageDraw

    from envs.labels.games import LABELS
    from envs.screens import EmulatedGame

    with refusing_bad_input():
        player = EmulatedGame(EnvConfig(args.game, protocol=args.protocol))
        if args.game not in LABELS:
            raise ValueError(f"there are no labels of {args.game}; those there are: {', '.join(LABELS)}")
        if args.rows < 1 or args.every_steps < 1:
            raise ValueError("need --rows and --every-steps of at least 1")
        if args.seed < 0:
            raise ValueError(f"--seed {args.seed} must be 0 or above")
        need_writable(args.out, ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
    rng = np.random.default_rng(args.seed)
    player.reset(args.seed)
    rows = []
    for step in range(1, args.rows * args.every_steps + 1):
        before = player.memory
        if player.step(int(rng.integers(len(player.actions))))[1]:
            player.reset()
            before = player.memory
        if step % args.every_steps == 0:
            rows.append(draw_row(args.game, player, before))
    sheet = Image.new("RGB", (rows[0].width, HEAD + sum(row.height for row in rows)))
    pen = ImageDraw.Draw(sheet)
    for place, title in enumerate(("screen", "its labels", "the network's input", "its labels")):
        pen.text((place * (rows[0].width - LEGEND_WIDTH) // 4 + 4, 4), title, fill=INK, font_size=LINE)
    for number, row in enumerate(rows):
        sheet.paste(row, (0, HEAD + number * row.height))
    sheet.save(args.out)
    print(args.out)
    return 0


def draw_row(game: str, player: "EmulatedGame", before: "NDArray[np.uint8]") -> "Image":
    """Draw one moment: screen with boxes, mask, input and its mask; legend, variables and caption.

    `before` is the memory (128,) a step ago.
    """
    from PIL import Image, ImageDraw

    from envs.labels.captions import captions
    from envs.labels.games import LABELS
    from envs.labels.reading import boxes, input_mask, screen_mask, variables
    from perception.pictures import hues

    labels = LABELS[game]
    count = len(labels.things)
    palette = hues(count + 1)
    colours = [tuple(colour) for colour in palette.tolist()]
    mask = screen_mask(labels, player.screen, player.memory)
    height, width = (SCALE * size for size in mask.shape)
    row = Image.new("RGB", (4 * width + LEGEND_WIDTH, height))
    pictures = (player.colour, palette[mask], np.stack([player.frame] * 3, axis=-1), palette[input_mask(mask)])
    for place, picture in enumerate(pictures):
        row.paste(Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST), (place * width, 0))
    pen = ImageDraw.Draw(row)
    for box in boxes(mask):
        corners = [SCALE * box.left - 1, SCALE * box.top - 1, SCALE * box.right, SCALE * box.bottom]
        pen.rectangle(corners, outline=colours[box.value])
    known = variables(labels, np.stack([before, player.memory]))
    said = textwrap.wrap(captions(labels.phrases, known, np.array([True, False]))[1], 29)
    left, foot = 4 * width + 6, height - LINE * (len(said) + 1)
    for line, name in enumerate(labels.names):
        top = 4 + LINE * line
        pen.rectangle((left, top + 2, left + 8, top + 10), fill=colours[line])
        pen.text((left + 14, top), name, fill=INK, font_size=LINE - 1)
    for line, (name, values) in enumerate(known.items(), start=count + 2):
        if LINE * (line + 2) < foot:
            pen.text((left, 4 + LINE * line), f"{name} {int(values[1])}", fill=INK, font_size=LINE - 1)
    for line, words in enumerate(said):
        pen.text((left, foot + LINE * line), words, fill=CAPTION, font_size=LINE - 1)
    return row


if __name__ == "__main__":
    run_command(main)
