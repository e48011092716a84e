"""Runs the program's commands as a person does, and short runs of it for tests to look at."""

import csv
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Tiny, but with everything in it: n-step returns, a replay that wraps, target updates, several checkpoints.
TINY = (
    "catch --total-steps 600 --learning-starts-steps 100 --replay-capacity-steps 256 --num-envs 2 --n-steps 3 "
    "--batch-size 4 --target-update-steps 40 --checkpoint-every-steps 60 --evaluate-every-steps 0 "
    "--evaluation-video-steps 0 --final-evaluation-episodes 2 --stop-at-score None --log-every-steps 50 --tracking none"
).split()


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def start(*args: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", *args]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(*args: str, expect: int = 0, timeout: float = 300) -> str:
    """Run `python -m ARGS`, check the exit code, return what it printed."""
    process = start(*args)
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == expect, f"exit code {process.returncode}, expected {expect}:\n{output}"
    assert "Traceback" not in output, output
    return output


def refused(*args: str, expect: int = 2) -> str:
    """Run a command that must end with one line that starts with `error:`; return that line."""
    lines = [line for line in run(*args, expect=expect).splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))
