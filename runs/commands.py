"""What every command shares: reading its options, and ending with one clear line when the input is wrong."""

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn, get_type_hints

import tyro

from perception.config import ConfigError

WRONG_INPUT, DIVERGED, INTERRUPTED, UNREAD = 2, 3, 130, 128 + signal.SIGPIPE


def run_command(main: Callable[[Any], int]) -> None:
    """Read what `main` is annotated to take from the command line, run it and exit with what it returns."""
    with refusing_bad_input():
        spec = sys.modules["__main__"].__spec__
        args = tyro.cli(options(main), prog=f"python -m {spec.name}" if spec else None)
    try:
        code = main(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.exit(code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        end_unread()


def end_unread() -> NoReturn:
    """End this process as those end that write to a pipe which nobody reads any more: `head`, say, has enough."""
    send_nowhere(sys.stdout)
    sys.exit(UNREAD)


def send_nowhere(file: IO[str]) -> None:
    """Let what is written to a stream, and what waits in it, go nowhere: nobody is there to read it any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)


def options(main: Callable[[Any], int]) -> type:
    """Return what a command's `main` takes: a dataclass of its options."""
    return next(iter(get_type_hints(main).values()))


def resumes(argv: list[str]) -> bool:
    """Whether a command line asks to go on with a run."""
    return any(arg.split("=")[0] == "--resume" for arg in argv)


class StopSignal:
    """Notes what asks a loop to end after its step: Ctrl-C, SIGTERM, or a terminal that closes.

    A second Ctrl-C or SIGTERM ends the process at once; a second SIGHUP is ignored, because a terminal often sends two.
    """

    def __init__(self) -> None:
        self.number = 0
        """The signal that came; 0 before."""

    def listen(self) -> None:
        """Take the signals from now on."""
        signal.signal(signal.SIGINT, self._note)
        on_end(self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    @property
    def exit_code(self) -> int:
        """What a process that ended by this signal returns."""
        return 128 + self.number


def on_end(handler: Callable[[int, FrameType | None], None]) -> None:
    """Let a handler take SIGTERM and, but where it is ignored, as `nohup` has it, SIGHUP, a closed terminal's."""
    signal.signal(signal.SIGTERM, handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handler)


def first_line(error: Exception) -> str:
    """Return what an error of a library says, without its lines below the first."""
    return (str(error) or type(error).__name__).splitlines()[0]


PLOTS = (".png", ".svg", ".pdf")  # what Matplotlib is let write


def need_writable(path: Path | None, *kinds: str) -> None:
    """Raise ValueError where a file, if there is to be one, cannot be written, or does not end in one of `kinds`.

    Ask before the work that ends in it.
    """
    if path is None:
        return
    if kinds and path.suffix not in kinds:
        raise ValueError(f"cannot write '{path}': give a name that ends in {' or '.join(kinds)}")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write '{path}': there is no folder '{path.parent}'")
    there = path.exists()
    try:
        path.open("ab").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise ValueError(f"cannot write '{path}': {error.strerror}. Choose another place") from error


@contextmanager
def refusing_bad_input() -> Iterator[None]:
    """Turn what every part raises for a value that cannot be meant into one line and exit code 2.

    That is a ValueError or a ConfigError; so is an OSError: a file that cannot be read or written. Put around reading
    and setting up, not around the work itself: an error there is ours and keeps its traceback. The collector rests
    meanwhile: it would walk all that is imported again and again, half a second for torch.
    """
    gc.disable()
    try:
        yield
    except BrokenPipeError:
        end_unread()
    except (ValueError, OSError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_INPUT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        gc.enable()
