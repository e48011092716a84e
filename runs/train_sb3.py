"""Train one of Stable-Baselines3's algorithms: `python -m runs.train_sb3 ppo pong`, or `--resume RUN_FOLDER`."""

import sys

import tyro

from runs.commands import refusing_bad_input, resumes
from runs.config import ResumeArgs, SB3Config


def read_args(argv: list[str]) -> SB3Config | ResumeArgs:
    """Read the command line: `--resume FOLDER`, or an algorithm, a game and what differs from the defaults."""
    kind = ResumeArgs if resumes(argv) else SB3Config
    return tyro.cli(kind, args=argv, prog="python -m runs.train_sb3", config=(tyro.conf.OmitArgPrefixes,))


def main(argv: list[str]) -> int:
    """Train; return 0 at the end of the run, 128 and its number when a signal stopped it, 3 when the loss diverged."""
    with refusing_bad_input():
        args = read_args(argv)
        from runs.sb3_run import new_run, resumed_run

        run = new_run(args) if isinstance(args, SB3Config) else resumed_run(args)
    run.stop_signal.listen()
    with run.display:
        ended = run.train()
        run.finish(ended)
    return run.exit_code(ended)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
