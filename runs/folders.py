"""A run's folder: made once, held by one process at a time."""

import csv
import fcntl
import json
import os
import time
from pathlib import Path
from typing import IO

EVALUATION = "evaluation.json"  # an agent's last scores, and whether they are the final ones
PATIENCE_SECONDS = 0.5  # `in_use` holds the lock for an instant


class FolderError(ValueError):
    """A folder cannot be used; the message says why and what to do."""


class RunFolder:
    """`path`, locked while the object lives; the lock goes with the process, however it ends."""

    def __init__(self, path: Path, *, resumed: bool) -> None:
        """Make the folder, or, `resumed`, open what may be there.

        Raises:
            FolderError: it has other contents, cannot be written, or belongs to a run that is alive.
        """
        self.path = path
        try:
            if not resumed and path.exists() and (not path.is_dir() or any(path.iterdir())):
                go_on = f", or go on with the run there: --resume '{path}'" if (path / "config.json").exists() else ""
                raise FolderError(f"'{path}' exists and is not empty. Choose another --out{go_on}")
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / ".lock").open("a+")
        except OSError as error:
            raise FolderError(f"cannot write to '{path}': {error.strerror}. Choose another --out") from error
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    self._lock.seek(0)
                    raise FolderError(
                        f"'{path}' is in use by a live run (process {self._lock.read().strip()}): wait for it or stop "
                        "it"
                    ) from error
            time.sleep(0.02)
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()


def whole_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, none where there is no file; a last one without its end of line is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return list(csv.DictReader(line for line in lines if line.endswith("\n")))


def was_evaluated(path: Path) -> bool:
    """Whether an agent's run is at its end, the games there included."""
    told = path / EVALUATION
    return told.exists() and bool(json.loads(told.read_text()).get("final"))


def in_use(path: Path) -> bool:
    """Whether a run in this folder is alive."""
    try:
        with (path / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
