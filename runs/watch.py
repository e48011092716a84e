"""Watch an agent play: `python -m runs.watch CHECKPOINT`, in a window, as `--video FILE.mp4`, or in the `--viewer`."""

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from envs.config import EnvConfig, Protocol
from perception.config import require
from runs.commands import WRONG_INPUT, StopSignal, need_writable, refusing_bad_input, run_command
from runs.config import Device
from runs.evaluate import check_play, load_player
from runs.videos import STEPS_PER_SECOND, in_window, into_video
from runs.viewer_server import LOOPBACK

if TYPE_CHECKING:
    from runs.evaluate import Player
    from runs.eyes import Eye
    from runs.moments import Moment
    from runs.viewer import Viewer
    from runs.viewer_server import ViewerServer

CLOSING_SECONDS, SLOW_SECONDS = 2.0, 2.0
PORT, SALIENCY_EVERY_STEPS = 9090, 4
Saliency = Literal["perturbation", "gradients"]


@dataclass(frozen=True)
class WatchArgs:
    """Watch an agent play, with what it sees and what it thinks each action is worth."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint folder, or a run folder (its newest checkpoint)."""
    video: Path | None = None
    """Write an MP4 here; without it, `--viewer` and `--record` a window opens."""
    viewer: bool = False
    """Show it in the Rerun viewer: the app where there is a display, else a page for a browser."""
    record: Path | None = None
    """Keep what the Rerun viewer shows in this .rrd file, for `rerun --bind 127.0.0.1 FILE.rrd`; without --viewer it
    shows nothing."""
    eye: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """A perception task's checkpoint, which looks at the same frames in the Rerun viewer; may be given again."""
    saliency_every_steps: int | None = None
    """Steps between two looks, in the Rerun viewer, at what the value and the action hang on; 4 when not given, 0 for
    none. Each takes 290 passes of the network, as long as all else of five steps."""
    saliency: Saliency = "perturbation"
    """How the two are found: by blurring place after place, or by integrated gradients, which are quicker and finer."""
    web: bool = False
    """With --viewer, the page for a browser even where there is a display."""
    host: str = "127.0.0.1"
    """Where the page listens; other addresses let others see it."""
    port: int | None = None
    """Of the page, 9090 when not given; the data has the port after it. 0 for any that are free."""
    episodes: int | None = None
    """Whole games to play; 1 when not given, and with --follow as many as there is time for."""
    best: bool = False
    """Play the games unseen, and show the one with the highest score."""
    follow: bool = False
    """Of a run folder: play its newest checkpoint, a game each, as long as it trains."""
    protocol: Protocol | None = None
    """`classic` or `v5`; the one trained under when not given."""
    epsilon: float = 0.01
    """Share of random actions."""
    seed: int = 0
    """Of the game and the random actions."""
    device: Device = "auto"
    """cpu, cuda, mps or auto."""


def check(args: WatchArgs) -> None:
    """Raise ConfigError, in words that say what to do, where options cannot be meant or contradict each other."""
    check_play(1 if args.episodes is None else args.episodes, args.epsilon, args.seed)
    in_rerun, every = args.viewer or args.record is not None, args.saliency_every_steps
    checks = [
        (args.video is None or not in_rerun, "--video goes without --viewer and --record: give one or the other"),
        (args.video is None or args.video.suffix == ".mp4", f"--video {args.video}: only .mp4 is written"),
        (args.record is None or args.record.suffix == ".rrd", f"--record {args.record}: only .rrd is written"),
        (in_rerun or not args.eye, "--eye goes with --viewer or --record"),
        (in_rerun or every is None, "--saliency-every-steps goes with --viewer or --record"),
        (in_rerun or args.saliency == "perturbation", "--saliency goes with --viewer or --record"),
        (every is None or every >= 0, f"--saliency-every-steps {every} must be at least 0"),
        (args.viewer or not args.web, "--web goes with --viewer"),
        (args.viewer or args.host == LOOPBACK, "--host goes with --viewer"),
        (args.viewer or args.port is None, "--port goes with --viewer"),
        (args.port is None or 0 <= args.port < 65_535, f"--port {args.port} must lie between 0 and 65534"),
        (not (args.best and args.follow), "--best goes without --follow, which has no end to choose at"),
        (not args.best or (args.episodes or 1) > 1, "--best needs --episodes of at least 2 to choose from"),
        (not args.follow or args.video is None, "--follow goes without --video, which has an end"),
    ]
    require(checks)


def begin_files(args: WatchArgs) -> None:
    """Raise ValueError where a file that is asked for cannot be written."""
    for path in filter(None, (args.video, args.record)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot write '{path}': {error.strerror}") from error
        need_writable(path)


def has_display() -> bool:
    """Whether a window can be opened."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def main(args: WatchArgs) -> int:
    """Play, and print each game's score; return the exit code."""
    stop = StopSignal()
    with contextlib.ExitStack() as opened:
        with refusing_bad_input():
            check(args)
            moments, first = choose_moments(args)
            if args.video is None and not args.viewer and args.record is None and not has_display():
                raise ValueError(
                    "there is no display for a window: give --video FILE.mp4, --viewer or --record FILE.rrd"
                )
            eyes = load_eyes(args, first)
            begin_files(args)
            if not args.best:
                stop.listen()  # before Rerun is loaded, in which a KeyboardInterrupt may get lost
            server, viewer = None, None
            if args.viewer:
                server = opened.enter_context(start_server(args))
                print(f"viewer: {server.page_url or 'its window opens'}", flush=True)
            if args.viewer or args.record is not None:
                viewer = open_viewer(args, first, eyes, server)
        with contextlib.ExitStack() as showing:
            if viewer is not None:
                showing.callback(end_viewer, viewer, server)
            if args.best:
                moments = choose_best(args, first)
                stop.listen()
            if viewer is not None:
                shown = in_viewer(moments, viewer, server, stop)
            else:
                shown = in_window(moments) if args.video is None else into_video(moments, args.video)
            showing.callback(shown.close)
            with refusing_files():
                print_scores(shown, stop, named=args.follow)
        for path in filter(None, (args.video, args.record)):
            print(f"{'video' if path == args.video else 'recording'}: {path}")
        if stop.number:
            return stop.exit_code
        if server is not None and (trouble := server.trouble()):
            print(
                f"error: Rerun's viewer has ended: {trouble}{'' if server.page_url else '; --web is for a browser'}",
                file=sys.stderr,
            )
            return 1
        if server is not None and server.is_alive():
            print("the viewer stays open: Ctrl-C ends it", flush=True)
            while server.is_alive() and not stop.number:
                time.sleep(0.1)
    return 0


@contextlib.contextmanager
def refusing_files() -> "Iterator[None]":
    """Turn a checkpoint that cannot be read, as one that is followed may, or a full disk, into one line and code 2."""
    from runs.checkpoints import CheckpointError

    try:
        yield
    except BrokenPipeError:  # nobody reads the scores
        raise
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_INPUT)


def print_scores(moments: "Iterator[Moment]", stop: StopSignal, *, named: bool) -> None:
    """Print each game's score until a signal comes; `named`, with who played it."""
    for moment in moments:
        if moment.episode_over:
            who = f"{moment.agent}: " if named else ""
            print(f"{who}{moment.env.game} ({moment.env.protocol}): score {moment.score:g}", flush=True)
        if stop.number:
            return


def choose_moments(args: WatchArgs) -> "tuple[Iterator[Moment], Moment]":
    """Return the games to be shown, and a first moment, which says what they look like.

    Raises:
        ValueError: the checkpoint cannot be read.
    """
    from runs import machine
    from runs.folders import in_use
    from runs.moments import first_episodes, follow, play

    def load(path: Path) -> "tuple[Player, EnvConfig]":
        loaded = load_player(path, args.protocol, args.device)
        machine.settle_thread(1)  # a picture at a time: more threads only wait for each other
        return loaded

    if args.follow:
        if in_use(args.checkpoint) and not (args.checkpoint / "checkpoints" / "latest").exists():
            print(f"waiting for the first checkpoint of '{args.checkpoint}'", flush=True)
        moments = follow(args.checkpoint, load, args.seed, args.epsilon)
        if args.episodes is not None:
            moments = first_episodes(moments, args.episodes)
        first = next(moments)
        return itertools.chain([first], moments), first
    player, env = load(args.checkpoint)
    first = next(play(player, env, args.seed, args.epsilon, str(args.checkpoint)))
    moments = play(player, env, args.seed, args.epsilon, str(args.checkpoint))
    return first_episodes(moments, args.episodes or 1), first


def load_eyes(args: WatchArgs, first: "Moment") -> "list[Eye]":
    """Return the perception checkpoints that are to look at the games.

    Raises:
        ValueError: one cannot be read.
    """
    if not args.eye:
        return []
    from runs.eyes import open_eyes

    return open_eyes(args.eye, first.frames.shape, args.device)


def choose_best(args: WatchArgs, first: "Moment") -> "Iterator[Moment]":
    """Play all the games unseen, print their scores, and return the best one."""
    from runs.moments import best_episode, one_episode

    how = (first.player, first.env, args.seed, args.epsilon)
    best, scores = best_episode(*how, args.episodes or 1)
    print(f"scores: {', '.join(f'{score:g}' for score in scores)}; shown is game {best + 1}", flush=True)
    return one_episode(*how, best, str(args.checkpoint))


def start_server(args: WatchArgs) -> "ViewerServer":
    """Start the viewer, and warn where others reach it.

    Raises:
        ValueError: it does not start.
    """
    from runs.viewer_server import ViewerServer, is_loopback

    app = has_display() and not args.web
    server = ViewerServer(args.host, PORT if args.port is None else args.port, app=app)
    if not is_loopback(args.host):
        print(
            f"warning: whoever reaches {args.host} sees what is shown, can add to it, and finds Rerun's own page, "
            f"which reports its use, at another port; --host {LOOPBACK} is for this machine alone",
            file=sys.stderr,
        )
    return server


def open_viewer(args: WatchArgs, first: "Moment", eyes: "Sequence[Eye]", server: "ViewerServer | None") -> "Viewer":
    """Return what shows moments in the Rerun viewer, keeps them in a file, or both.

    Raises:
        ValueError: Rerun is not installed.
    """
    from runs.viewer import Viewer, open_recording

    recording = open_recording(first.env.game, server.data_url if server else None, args.record)
    how = f"ε = {args.epsilon:g}, seed {args.seed}"
    every = SALIENCY_EVERY_STEPS if args.saliency_every_steps is None else args.saliency_every_steps
    return Viewer(recording, first, eyes, every, args.saliency, how, live=server is not None)


def in_viewer(
    moments: "Iterator[Moment]", viewer: "Viewer", server: "ViewerServer | None", stop: StopSignal
) -> "Generator[Moment, None, None]":
    """Pass moments on, shown in the Rerun viewer; live, at the game's own speed, until the app is closed."""
    due = time.monotonic()
    for moment in moments:
        if server is not None and not server.is_alive():
            return
        viewer.show(moment)
        if server is not None and not is_shown(viewer, server, stop):
            return
        yield moment
        if server is not None:
            due = max(due + 1 / STEPS_PER_SECOND, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))


def is_shown(viewer: "Viewer", server: "ViewerServer", stop: StopSignal) -> bool:
    """Wait until the viewer has taken a moment, however slow it is; return False where it ends or a signal comes."""
    told = False
    try:
        while not viewer.is_sent(SLOW_SECONDS):
            if stop.number or not server.is_alive():
                return False
            if not told:
                print("waiting: the viewer, or a browser that looks at it, does not keep up", file=sys.stderr)
                told = True
    except RuntimeError:
        # Who closes the app takes the connection away a moment before the process ends.
        if not server.ends_within(CLOSING_SECONDS):
            raise
        return False
    return True


def end_viewer(viewer: "Viewer", server: "ViewerServer | None") -> None:
    """Send what is left and end the file; a viewer that does not take it is ended, or would be waited for."""
    if server is None:
        return viewer.close()
    impatient = threading.Timer(CLOSING_SECONDS, server.close)
    impatient.start()
    viewer.close()
    impatient.cancel()
    impatient.join()


if __name__ == "__main__":
    run_command(main)
