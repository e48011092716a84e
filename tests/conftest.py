"""One thread: OpenMP threads that wait beside another busy process make small machines crawl. No process is left."""

import os
import signal
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest
import torch
from commands import STARTED

from runs import machine

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and what they start
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # nohup's ignoring is inherited by what is started, a handler is not
machine.usable_cores = lambda: 1  # commands that run within a test take as many threads as there are cores


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """End what a test started and did not end; take back what a command within it has settled for its process."""
    before = len(STARTED)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for process in STARTED[before:]:
        if process.poll() is None:
            process.kill()
            process.communicate()
    del STARTED[before:]
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
