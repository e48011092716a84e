"""Report on runs, with curves, intervals and published scores: `python -m runs.report RUN_FOLDER… --out FILE.html`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from perception.config import ConfigError
from runs.commands import need_writable, refusing_bad_input, run_command

if TYPE_CHECKING:
    from runs.results import Setting

KINDS = (".html", ".md", ".png")


@dataclass(frozen=True)
class ReportArgs:
    """Report on runs of agents: runs that differ in the seed alone are one setting, and settings are compared."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The runs' folders."""
    out: tuple[Path, ...] = (Path("report.html"),)
    """Files to write: .html, on its own; .md, with its pictures beside it; .png, final scores and pictures."""

    wandb: str | None = None
    """Send the report, as a page and with its files, to this W&B project too: PROJECT or ENTITY/PROJECT."""

    def __post_init__(self) -> None:
        """Raise ConfigError, in words that say what to do, where a value cannot be meant."""
        if self.wandb is not None and not re.fullmatch(r"([\w.-]+/)?[\w.-]+", self.wandb):
            raise ConfigError(f"--wandb {self.wandb}: needs the name of a project, or ENTITY/PROJECT")
        if not self.out:
            raise ConfigError("--out needs the name of at least one file")


def main(args: ReportArgs) -> int:
    """Write the report; return the exit code."""
    with refusing_bad_input():
        if not args.runs:
            raise ValueError("give the folder of at least one run")
        from runs.results import read_result, settings_of

        folders = dict.fromkeys(path.resolve() for path in args.runs)
        settings = settings_of([read_result(folder) for folder in folders])
        for path in args.out:
            need_writable(path, *KINDS)
    pictures = draw(settings)
    files = [file for path in args.out for file in write(path, settings, pictures)]
    for path in args.out:
        print(path)
    if args.wandb is not None:
        send(args.wandb, files, settings, pictures)
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


def send(project: str, files: list[Path], settings: "list[Setting]", pictures: dict[str, bytes]) -> None:
    """Send the report to W&B, and say where it went if that is not online."""
    from runs.report_text import html, markdown
    from runs.tracking import send_report

    text = markdown(settings, {name: name for name in pictures})
    title = f"report on {text.splitlines()[0].removeprefix('# ')}"
    for message in send_report(html(text, pictures), files, title, project):
        print(message)


def write(path: Path, settings: "list[Setting]", pictures: dict[str, bytes]) -> list[Path]:
    """Write the report as what the file's suffix says; return the files, that one first."""
    from runs.report_pictures import draw_table, stacked
    from runs.report_text import final_tables, html, markdown

    if path.suffix == ".png":
        tables = [
            draw_table(f"Final scores, protocol {told.protocol}", told.head, told.rows)
            for told in final_tables(settings)
        ]
        path.write_bytes(stacked([*tables, *pictures.values()]))
        return [path]
    if path.suffix == ".html":
        path.write_text(html(markdown(settings, {name: name for name in pictures}), pictures))
        return [path]
    beside = {name: path.with_name(f"{path.stem}-{name}.png") for name in pictures}
    for name, picture in pictures.items():
        beside[name].write_bytes(picture)
    path.write_text(markdown(settings, {name: file.name for name, file in beside.items()}))
    return [path, *beside.values()]


if __name__ == "__main__":
    run_command(main)
