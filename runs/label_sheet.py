"""Draw a game's labels, to be checked by eye: `python -m runs.label_sheet GAME --out FILE.png`."""

import colorsys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro

from envs.config import EnvConfig, Protocol
from runs.commands import refusing_bad_input, run_command

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

SCALE, LEGEND_WIDTH = 2, 190


@dataclass(frozen=True)
class SheetArgs:
    """Play at random; draw screen and boxes, mask, the network's frame, its mask, and the variables, row by row."""

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
    from PIL import Image

    from envs.labels.games import LABELS
    from envs.screens import EmulatedGame

    with refusing_bad_input():
        player = EmulatedGame(EnvConfig(args.game, protocol=args.protocol))
        if args.game not in LABELS:
            raise ValueError(f"there are no labels of {args.game}; those there are: {', '.join(LABELS)}")
        if args.rows < 1 or args.every_steps < 1:
            raise ValueError("need --rows and --every-steps of at least 1")
        if not args.out.parent.is_dir():
            raise ValueError(f"--out {args.out}: there is no folder '{args.out.parent}'")
    rng = np.random.default_rng(args.seed)
    player.reset(args.seed)
    rows = []
    for step in range(1, args.rows * args.every_steps + 1):
        if player.step(int(rng.integers(len(player.actions))))[1]:
            player.reset(args.seed + step)
        if step % args.every_steps == 0:
            rows.append(draw_row(args.game, player.colour, player.screen, player.frame, player.memory))
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for number, row in enumerate(rows):
        sheet.paste(row, (0, number * row.height))
    sheet.save(args.out)
    print(args.out)
    return 0


def draw_row(
    game: str,
    colour: "NDArray[np.uint8]",
    screen: "NDArray[np.uint8]",
    frame: "NDArray[np.uint8]",
    memory: "NDArray[np.uint8]",
) -> "Image":
    """Draw one moment: screen with boxes, mask, input and its mask, legend and variables."""
    from PIL import Image, ImageDraw

    from envs.labels.games import LABELS
    from envs.labels.reading import boxes, input_mask, screen_mask, variables

    labels = LABELS[game]
    count = len(labels.things)
    hues = [(40, 40, 40)] + [
        tuple(round(255 * c) for c in colorsys.hsv_to_rgb(i / count, 0.8, 1)) for i in range(count)
    ]
    palette = np.array(hues, np.uint8)
    mask = screen_mask(labels, screen, memory)
    height, width = (SCALE * size for size in mask.shape)
    row = Image.new("RGB", (4 * width + LEGEND_WIDTH, height))
    pictures = (colour, palette[mask], np.stack([frame] * 3, axis=-1), palette[input_mask(mask)])
    for place, picture in enumerate(pictures):
        row.paste(Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST), (place * width, 0))
    pen = ImageDraw.Draw(row)
    for box in boxes(mask):
        corners = [SCALE * box.left - 1, SCALE * box.top - 1, SCALE * box.right, SCALE * box.bottom]
        pen.rectangle(corners, outline=hues[box.value])
    for line, name in enumerate(labels.names):
        pen.text((4 * width + 6, 4 + 11 * line), name, fill=hues[line] if line else (160, 160, 160))
    for line, (name, value) in enumerate(variables(labels, memory).items()):
        at = (4 * width + 6, 16 + 11 * (count + 1 + line))
        if at[1] < height - 11:
            pen.text(at, f"{name} {int(value)}", fill=(220, 220, 220))
    return row


if __name__ == "__main__":
    run_command(main, SheetArgs)
