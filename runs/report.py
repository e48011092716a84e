"""Report on runs, with curves, intervals and published scores: `python -m runs.report RUN_FOLDER… --out FILE.html`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from runs.commands import refusing_bad_input, run_command

if TYPE_CHECKING:
    from runs.results import Setting

KINDS = (".html", ".md", ".png")


@dataclass(frozen=True)
class ReportArgs:
    """Report on runs of agents: runs that differ in the seed alone are one setting, and settings are compared."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The runs' folders."""
    out: tuple[Path, ...] = (Path("report.html"),)
    """Files to write: .html, on its own; .md, with its pictures beside it; .png, the pictures alone."""

    def __post_init__(self) -> None:
        """Raise ValueError, in words that say what to do, where a value cannot be meant."""
        if not self.out:
            raise ValueError("--out needs the name of at least one file")
        for path in self.out:
            if path.suffix not in KINDS or not path.parent.is_dir():
                raise ValueError(f"--out {path}: needs the name of a {', '.join(KINDS)} in a folder that is there")


def main(args: ReportArgs) -> int:
    """Write the report; return the exit code."""
    with refusing_bad_input():
        if not args.runs:
            raise ValueError("give the folder of at least one run")
        from runs.results import read_result, settings_of

        folders = dict.fromkeys(path.resolve() for path in args.runs)
        settings = settings_of([read_result(folder) for folder in folders])
    pictures = draw(settings)
    for path in args.out:
        write(path, settings, pictures)
        print(path)
    return 0


def draw(settings: "list[Setting]") -> dict[str, bytes]:
    """Return the report's pictures as PNGs by name; those that there is nothing for are left out."""
    from runs.report_pictures import draw_curves, draw_statistics, draw_strips, normalised_games
    from runs.report_text import STATISTICS

    pictures = {"curves": draw_curves(settings)}
    if normalised_games(settings):
        pictures["statistics"] = draw_statistics(settings, STATISTICS)
    if (strips := draw_strips(settings)) is not None:
        pictures["strips"] = strips
    return pictures


def write(path: Path, settings: "list[Setting]", pictures: dict[str, bytes]) -> None:
    """Write the report as what the file's suffix says."""
    from runs.report_pictures import stacked
    from runs.report_text import html, markdown

    if path.suffix == ".png":
        path.write_bytes(stacked(list(pictures.values())))
    elif path.suffix == ".html":
        path.write_text(html(markdown(settings, {name: name for name in pictures}), pictures))
    else:
        beside = {name: path.with_name(f"{path.stem}-{name}.png") for name in pictures}
        for name, picture in pictures.items():
            beside[name].write_bytes(picture)
        path.write_text(markdown(settings, {name: file.name for name, file in beside.items()}))


if __name__ == "__main__":
    run_command(main, ReportArgs)
