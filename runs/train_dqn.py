"""Train a DQN: `python -m runs.train_dqn pong`, or go on: `python -m runs.train_dqn --resume RUN_FOLDER`."""

import difflib
import sys
from typing import TYPE_CHECKING

import tyro

from runs.commands import refusing_bad_input, resumes
from runs.config import ResumeArgs, TrainConfig
from runs.presets import PRESETS

if TYPE_CHECKING:
    from runs.dqn_run import DQNRun


def train(run: "DQNRun") -> str:
    """Run the loop; return why it ended: `done`, `score reached`, `stopped` or `diverged`.

    Learning runs in a thread of its own, on batches that were prepared one round before, while this thread acts, lets
    the emulators run, stores what they show and prepares the next batches. Every hand-over is at a fixed place, so that
    a run is the same each time, whatever the timing.
    """
    agent, replay, games, config = run.agent, run.replay, run.games, run.config
    run.begin()
    while run.steps < config.total_steps and not run.reached and not run.stop_signal.number:
        # Learn, in the other thread, from the batches that the last round prepared; and act on what is seen, by the
        # weights from before.
        frames = games.frames[:, -1]
        agent.anneal(run.steps, config.total_steps)
        with agent.weights_held():
            learning = run.start_learning()
            actions = agent.act(games.frames, run.epsilon()).cpu().numpy()

        # Let the emulators run, and store what came of it. An end, or a lost life where that counts, cuts the return
        # that is learnt.
        games.send(actions)
        seen = games.receive()
        cut = seen.terminated | (seen.life_lost & run.lives_count)
        replay.add(frames, actions, seen.rewards, cut, seen.terminated | seen.truncated, seen.last_frames)
        updates_due = run.count(seen)

        # Prepare the next round's batches: drawn, stacked, and valued by the target network.
        run.prepared = []
        if updates_due:
            batch = replay.sample(config.agent.batch_size * updates_due)
            run.prepared = agent.prepare(batch).split(config.agent.batch_size)

        run.finish_learning(learning)
        if run.passed(config.agent.target_update_steps):
            agent.update_target()

        # Look at it, save it.
        last = run.steps >= config.total_steps
        if (last or run.passed(config.log_every_steps)) and not run.log():
            return "diverged"
        if run.passed(config.evaluate_every_steps):
            run.evaluate(config.evaluation_episodes)
        if run.passed(config.checkpoint_every_steps):
            run.save()
    if run.stop_signal.number:
        return "stopped"
    return "score reached" if run.reached else "done"


def read_args(argv: list[str]) -> TrainConfig | ResumeArgs:
    """Read the command line: `--resume FOLDER`, or a preset's name and what differs from it."""
    prog = "python -m runs.train_dqn"
    if resumes(argv):
        return tyro.cli(ResumeArgs, args=argv, prog=prog)
    if argv and not argv[0].startswith("-") and argv[0] not in PRESETS:
        near = difflib.get_close_matches(argv[0], PRESETS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"no preset named '{argv[0]}'; {hint}Presets: {', '.join(PRESETS)}. Games go to --game")
    return tyro.extras.overridable_config_cli(
        PRESETS,
        args=argv,
        prog=prog,
        description="Train a DQN by a preset; --resume FOLDER goes on with a run.",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.SuppressFixed),
    )


def main(argv: list[str]) -> int:
    """Train; return 0 at the end of the run, 128 and its number when a signal stopped it, 3 when the loss diverged."""
    with refusing_bad_input():
        args = read_args(argv)
    if isinstance(args, TrainConfig) and args.check:
        from runs.check import check

        return check(args)
    with refusing_bad_input():
        from runs.dqn_run import new_run, resumed_run

        run = new_run(args) if isinstance(args, TrainConfig) else resumed_run(args)
    run.stop_signal.listen()
    with run.display:
        ended = train(run)
        run.finish(ended)
    return run.exit_code(ended)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
