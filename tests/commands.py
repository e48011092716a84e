"""Runs the program's commands as a person does, and short runs of it for tests to look at."""

import atexit
import csv
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Tiny, but with everything in it: n-step returns, a replay that wraps, target updates, several checkpoints. On a CPU,
# where runs are equal bit for bit.
TINY = (
    "catch --device cpu --total-steps 600 --learning-starts-steps 100 --replay-capacity-steps 256 --num-envs 2 "
    "--n-steps 3 --batch-size 4 --target-update-steps 40 --checkpoint-every-steps 60 --evaluate-every-steps 0 "
    "--evaluation-video-steps 0 --final-evaluation-episodes 2 --stop-at-score None --log-every-steps 50 --tracking none"
).split()


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


STARTED: "list[subprocess.Popen[str]]" = []


def start(*args: str) -> "subprocess.Popen[str]":
    """Start `python -m ARGS`, which is ended with the test, and return it."""
    command = [sys.executable, "-m", *args]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    STARTED.append(process)
    return process


WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(["ale_py", "cv2", "gymnasium", "scipy.stats", "stable_baselines3", "torch", "tyro"])


def _be(args: tuple[str, ...], variables: dict[str, str], printed: str) -> None:
    """Be `python -m ARGS` in a process that has the libraries already, with its output in a file."""
    with Path(printed).open("w") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = list(args)
    try:
        runpy.run_module(args[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing's leaves them out


def run(*args: str, expect: int = 0, timeout: float = 300) -> str:
    """Run `python -m ARGS` to its end, check the exit code, return what it printed.

    There are many, and much of their time would go into importing torch: they are forked off a process that has it.
    """
    with tempfile.NamedTemporaryFile("r") as file:
        process = WARM.Process(target=_be, args=(args, environment(), file.name))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
        output = file.read()
    assert process.exitcode == expect, f"exit code {process.exitcode}, expected {expect}:\n{output}"
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
