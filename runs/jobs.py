"""A run of one of our commands as a process of its own, which goes on where it was."""

import shutil
import subprocess
import sys
from pathlib import Path


def start(folder: Path, command: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    """Start a training command, module first, whose run lies in `folder`; go on with it where it has a checkpoint."""
    if (folder / "checkpoints" / "latest").exists():
        command = (command[0], "--resume", str(folder))
    elif folder.exists() and command[0] != "runs.record_frames":
        shutil.rmtree(folder)  # stopped before its first checkpoint
    return subprocess.Popen([sys.executable, "-m", *command])


def wait(process: "subprocess.Popen[bytes]") -> int:
    """Return the exit code of a process, once it has one: an interrupt reaches it too, and it saves before it ends."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue
