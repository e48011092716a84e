"""A display ends no work, whatever becomes of who reads it."""

import errno
import io
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.file_proxy import FileProxy

from runs.commands import send_nowhere
from runs.progress import ProgressDisplay, WhileRead, console, say


def test_what_nobody_reads_goes_nowhere() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        os.close(reader)
        for _ in range(2):
            assert WhileRead(stream).write("gone\n") == 5
        stream.write("gone too\n")
        stream.flush()


def test_a_disk_that_is_full_for_a_while_loses_no_later_line() -> None:
    class Full(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, "no room")
            return super().write(text)

    stream = Full()
    read = WhileRead(stream)
    read.write("lost")
    stream.full = False
    read.write("kept")
    assert stream.getvalue() == "kept"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
def test_a_full_disk_ends_no_work() -> None:
    with pytest.MonkeyPatch.context() as patch, Path("/dev/full").open("w") as full:
        patch.setattr("sys.stderr", full)
        say("lost", stderr=True)
        ProgressDisplay(1).say("lost")
        send_nowhere(full)


def test_a_console_beside_a_bar_writes_to_the_stream_behind_it() -> None:
    stream = io.StringIO()
    proxy = FileProxy(Console(file=stream), stream)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", proxy)
        beside = console(stderr=True)
    assert isinstance(beside.file, WhileRead)
    beside.print("seen")
    assert stream.getvalue() == "seen\n"


def test_there_need_be_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with ProgressDisplay(1) as display:
        display.say("nobody hears")
