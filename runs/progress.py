"""One calm display for long work: a bar where there is a terminal, a line now and then where there is none."""

import errno
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from runs.commands import send_nowhere

FIRST_LINE_SECONDS, LINE_EVERY_SECONDS = 0.1, 10.0


class WhileRead:
    """A stream that may lose its reader: a terminal or a pipe that is closed, or a full disk, ends no work."""

    def __init__(self, file: IO[str]) -> None:
        self._file = getattr(file, "rich_proxied_file", file)  # the stream itself, where a bar has put itself before it

    def __getattr__(self, name: str) -> Any:
        """Be what the stream is, whether it is a terminal, say."""
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        """Write, and let nothing wait."""
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.EIO, errno.ENXIO):  # others, such as a full disk, may pass
                send_nowhere(self._file)
        return len(text)

    def flush(self) -> None:
        """Try again what could not be written."""
        self.write("")


def console(*, stderr: bool = False, **options: Any) -> Console:
    """Return what prints to standard output or error, if there is one, whatever becomes of who reads it."""
    file = sys.stderr if stderr else sys.stdout
    guarded = None if file is None else cast("IO[str]", WhileRead(file))
    return Console(file=guarded, stderr=stderr, highlight=False, emoji=False, **options)


def say(message: str, *, stderr: bool = False) -> None:
    """Print a line, whatever becomes of who reads it."""
    console(stderr=stderr).print(message, markup=False, soft_wrap=True)


class ProgressDisplay:
    """Shows the share done, the rate, the time left and a few words. A context manager."""

    def __init__(self, total: int, unit: str = "steps") -> None:
        """Show work of `total` units."""
        self._console = console(stderr=True)
        self._total, self._unit = total, unit
        self._began, self._began_at = time.monotonic(), 0
        self._next_line = 0.0
        self._words, self._rate = "", 0.0
        self._warned = set[str]()
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = (TaskProgressColumn(), BarColumn(bar_width=24), TextColumn("{task.fields[rate]}"))
            self._bar = Progress(
                *columns, TimeRemainingColumn(), TextColumn("{task.fields[words]}"), console=self._console
            )
            self._task = self._bar.add_task("", total=total, rate="", words="")

    def __enter__(self) -> "ProgressDisplay":
        """Start to draw."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        if self._bar is not None:
            self._bar.stop()

    def begin(self, done: int) -> None:
        """Count from `done` on; without a terminal, the next line comes once there is a rate to tell."""
        self._began, self._began_at = time.monotonic(), done
        self._next_line = self._began + FIRST_LINE_SECONDS
        if self._bar is not None:
            self._bar.update(self._task, completed=done)

    def update(self, done: int, words: str | None = None, rate: float | None = None) -> None:
        """Show that `done` units are done; `words` beside and `rate`, in units a second, stay until they are told anew.

        Until a rate is told it is the mean so far.
        """
        now = time.monotonic()
        self._words = self._words if words is None else words
        self._rate = rate or self._rate
        rate = self._rate or (done - self._began_at) / max(now - self._began, 1e-6)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:,.0f} {self._unit}/s", words=self._words)
        elif now >= self._next_line:
            self._next_line = now + LINE_EVERY_SECONDS
            left = timedelta(seconds=round(max(0, self._total - done) / rate)) if rate > 0 else "?"
            share = f"{100 * done / self._total:5.1f} %"
            self.say(f"{share}  {done:,} {self._unit}  {rate:,.0f}/s  {left} left  {self._words}")

    def warn(self, at: str, found: Mapping[str, str]) -> None:
        """Say what is out of bounds, by name, and where it was seen; each name once."""
        for name, message in found.items():
            if name not in self._warned:
                self.say(f"warning: at {at} {message}")
        self._warned |= found.keys()

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._console.print(message, markup=False, soft_wrap=True)

    def show(self, table: Table) -> None:
        """Print a table above the bar."""
        self._console.print(table)
