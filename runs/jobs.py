"""A run of one of our commands as a process of its own, which goes on where it was and is stopped as by Ctrl-C."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import IO

from runs.commands import on_end
from runs.folders import in_use, was_evaluated


def start(folder: Path, command: tuple[str, ...], output: IO[str] | None = None) -> "subprocess.Popen[bytes]":
    """Start a training command, module first, whose run lies in `folder`; go on with it where it has a checkpoint.

    What it says goes to `output`, if not where this process says its own. What interrupts this process does not reach
    it by itself: `wait` hands that on, once.

    Raises:
        ValueError: the run is alive.
    """
    if in_use(folder):
        raise ValueError(
            f"the run in '{folder}' is alive still: wait for its end, or stop it, and give the command again"
        )
    if (folder / "checkpoints" / "latest").exists():
        command = (command[0], "--resume", str(folder))
    elif folder.exists() and command[0] != "runs.record_frames":
        shutil.rmtree(folder)  # stopped before its first checkpoint
    process = [sys.executable, "-m", *command]
    return subprocess.Popen(process, start_new_session=True, stdout=output, stderr=output)


def wait(process: "subprocess.Popen[bytes]") -> int:
    """Return the exit code of a process once it has one; an interrupt is handed on, and it saves before it ends."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)


def listen() -> None:
    """Take what ends this process for an interrupt from now on, so that no process is left behind."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:  # may come twice, and a run that is interrupted twice ends without saving
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    on_end(interrupt)


def is_whole(folder: Path) -> bool:
    """Whether a run of ours came to its end, the test or the games there included."""
    return was_evaluated(folder) or (folder / "test.json").exists()
