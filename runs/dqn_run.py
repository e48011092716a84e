"""What a run of DQN holds, and what it does around the loop in `train_dqn.py`: counts, numbers, scores, checkpoints."""

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents import diagnostics
from agents.dqn import DQN
from agents.replay import FrameReplay
from agents.schedules import linear
from agents.updates import PreparedBatch
from envs.episodes import Transition
from envs.games import frames_a_step, make_games
from perception.backbones import BACKBONES
from perception.diagnostics import faults as layer_faults
from runs import machine
from runs.agent_checkpoints import FORMAT, Segment, load_config, load_learner, make_agent, write_learner, write_weights
from runs.auxiliary import AuxiliaryTask
from runs.checkpoints import CheckpointError, load_backbone_weights
from runs.commands import first_line
from runs.config import ResumeArgs, TrainConfig
from runs.evaluate import evaluate
from runs.folders import was_evaluated
from runs.run import Run, new_wandb_id, refuse_finished, resumed, settled
from runs.tracking import DQN_METRICS
from runs.videos import record_video

HELD_OUT_STATES, STACK = 256, 4
DIAGNOSED_STATES = 64


class DQNRun(Run[TrainConfig]):
    """A run, new or resumed. `steps`, `updates` and `episodes` are what it has done so far."""

    command, metrics, format = "runs.train_dqn", DQN_METRICS, FORMAT

    def __init__(self, config: TrainConfig, wandb_id: str, checkpoint: Path | None = None) -> None:
        """Set everything up; with `checkpoint`, as it was when that was written.

        `config.out`, `device`, `precision` and `num_threads` are settled by now.

        Raises:
            ValueError: something cannot be meant, does not fit this machine, or cannot be read or written.
        """
        super().__init__(config, wandb_id)
        frame_shape, stack = (84, 84), STACK
        if config.device == "mps":
            raise ValueError("a DQN is not trained on mps, which lacks 64-bit numbers: use --device cpu")
        bytes_needed = FrameReplay.bytes_needed(config.agent.replay_capacity_steps, frame_shape)
        machine.check_memory(bytes_needed, device=config.device)
        self.games = make_games(config.env, config.num_envs, config.seed)
        self.lives_count = config.env.protocol == "classic"
        shapes = {"num_actions": self.games.num_actions, "frame_shape": frame_shape, "stack": stack}
        self._auxiliary = AuxiliaryTask(config, stack, frame_shape) if config.auxiliary.task else None
        beside = self._auxiliary.beside if self._auxiliary else None
        self.agent: DQN = make_agent(config, shapes, config.device, beside)
        self.replay = FrameReplay(
            config.agent.replay_capacity_steps,
            config.num_envs,
            frame_shape=frame_shape,
            stack=stack,
            discount=config.agent.discount,
            n_steps=config.agent.n_steps,
            clip_rewards=config.agent.clip_rewards,
            device=config.device,
            seed=config.seed,
        )
        self.steps = self.updates = self.episodes = 0
        self.reached = False
        """Whether an evaluation came to `stop_at_score`."""
        self.prepared: list[PreparedBatch] = []
        self._learned: list[Tensor] = []  # the numbers of each update since the last row, named in agent.learned
        self._held_out: Tensor | None = None
        self._target = diagnostics.TargetWatch()
        self._scores: list[float] = []  # of the games that ended since the last row
        self._lengths: list[int] = []
        self._best_score = -math.inf
        self._last_score: float | None = None
        self._last_return: float | None = None
        self._segments: list[Segment] = []  # where the newest checkpoint has the replay
        self._open(checkpoint)
        self._worker = ThreadPoolExecutor(1, "learner", machine.settle_thread, (config.num_threads,))

    def begin(self) -> None:
        """Open the tracker and say where the run lives."""
        config = self.config
        self._begin(
            f"{config.env.game} ({config.env.protocol}), {self.agent.num_actions} actions, "
            f"{config.num_envs} environments, {config.device} {config.precision}"
        )
        self._row_began, self._row_steps, self._row_updates = time.monotonic(), self.steps, self.updates

    def _is_finite(self) -> bool:
        return not self._learned or bool(torch.stack(self._learned).isfinite().all())

    def epsilon(self) -> float:
        """Share of random actions at this step: all while the replay warms up."""
        agent = self.config.agent
        if self.steps < agent.learning_starts_steps:
            return 1.0
        return linear(self.steps, agent.epsilon_start, agent.epsilon_end, agent.epsilon_steps)

    def start_learning(self) -> "Future[list[Tensor]]":
        """Let the learner's thread make an update with each prepared batch."""
        return self._worker.submit(self._learn, self.prepared, self.updates)

    def _learn(self, batches: list[PreparedBatch], update: int) -> list[Tensor]:
        """Make one update a batch; return the numbers of each, on the device. `update` is the first one's number."""
        if self._auxiliary is None:
            return self.agent.learn_each(batches)
        learned = []
        for number, batch in enumerate(batches, start=update):
            # Whatever a task draws at random, a resumed run draws as the whole one would have.
            torch.manual_seed(self.config.seed * 1_000_003 + number)
            shown = self._auxiliary.shown(number, batch)
            learned.append(torch.stack(list(self.agent.learn(batch, shown).values())))
        return learned

    def finish_learning(self, learning: "Future[list[Tensor]]") -> None:
        """Help with the updates until they are made; keep their numbers, without fetching them from the device."""
        self.agent.help_until(learning.done)
        learned = learning.result()
        self.updates += len(learned)
        self._learned += learned

    def count(self, seen: Transition) -> int:
        """Count a step of every environment; return how many updates are due for it."""
        agent, before = self.config.agent, self.steps
        self.steps += self.config.num_envs
        self.display.update(self.steps)
        self.episodes += len(seen.episodes)
        self._scores += [episode.score for episode in seen.episodes]
        self._lengths += [episode.length_steps for episode in seen.episodes]
        if self.steps < agent.learning_starts_steps or not self.replay.can_sample():
            return 0
        if self._held_out is None:
            self._held_out = self.replay.sample(HELD_OUT_STATES).frames_tm1
        return self.steps // agent.steps_per_update - before // agent.steps_per_update

    def passed(self, period_steps: int) -> bool:
        """Whether the last step came to or over a multiple of `period_steps`; never for 0."""
        return period_steps > 0 and self.steps // period_steps > (self.steps - self.config.num_envs) // period_steps

    def log(self) -> bool:
        """Write a row of metrics; return False, having saved what there is, when the loss is no longer a number."""
        names = self.agent.learned
        learned = torch.stack(self._learned).cpu() if self._learned else torch.zeros(0, len(names))
        bad = (~learned.isfinite().all(dim=1)).nonzero()
        if len(bad):
            self._save_diverged(self.updates - len(learned) + int(bad[0]) + 1)
            return False
        now = time.monotonic()
        elapsed = max(now - self._row_began, 1e-9)
        steps_per_second = (self.steps - self._row_steps) / elapsed
        row: dict[str, float] = {
            "steps": self.steps,
            "frames": self.steps * frames_a_step(self.config.env),
            "updates": self.updates,
            "episodes": self.episodes,
            "seconds": self.seconds(),
            "epsilon": self.epsilon(),
            "learning_rate": float(self.agent.optimizer.param_groups[-1]["lr"]),
            "replay_fill": len(self.replay) / (self.replay.rows * self.replay.num_envs),
            "replay_age_steps": len(self.replay) / 2,
            "memory_gb": round(machine.resident_memory() / 1e9, 3),
            "steps_per_second": round(steps_per_second, 1),
            "updates_per_second": round((self.updates - self._row_updates) / elapsed, 1),
        }
        if self._scores:
            self._last_return = row["return"] = sum(self._scores) / len(self._scores)
            row["episode_length"] = sum(self._lengths) / len(self._lengths)
        if len(learned):
            row |= dict(zip(names, learned.mean(dim=0).tolist(), strict=True))
        if self._held_out is not None:
            row["held_out_q"] = float(self.agent.q_values(self._held_out).amax(dim=1).mean())
            if self.config.diagnostics and len(learned):
                self._diagnose(self._held_out, row)
        self._tracker.log(row)
        self._scores, self._lengths, self._learned = [], [], []
        self._row_began, self._row_steps, self._row_updates = now, self.steps, self.updates
        self.display.update(self.steps, self._words(row), steps_per_second)
        return True

    def _diagnose(self, states: Tensor, row: dict[str, float]) -> None:
        """Write how each layer does, add to a row what followed the values, and warn once of what is out of bounds."""
        layers = diagnostics.layers_of(self.agent, states[:DIAGNOSED_STATES])
        self._tracker.log_layers(self.steps, layers)
        values = diagnostics.values_of(self.agent, self.replay, DIAGNOSED_STATES)
        if values is not None:
            row["overestimation"] = values.overestimation
        age, config = self._target.look(self.agent, self.updates), self.config.agent
        found = layer_faults(layers) | diagnostics.faults(
            values, age, config.target_update_steps / config.steps_per_update
        )
        self.display.warn(f"step {self.steps:,}", found)

    def _words(self, row: dict[str, float]) -> str:
        words = f"return {self._last_return:.1f}  " if self._last_return is not None else ""
        words += f"ε {row['epsilon']:.2f}"
        if "loss" in row:
            words += f"  loss {row['loss']:.4f}"
        return words + (f"  score {self._last_score:.2f}" if self._last_score is not None else "")

    def evaluate(self, episodes: int, *, final: bool = False) -> None:
        """Score the agent; keep its weights if they are the best; note whether `stop_at_score` is reached."""
        config = self.config
        result = evaluate(self.agent, config.env, episodes, config.evaluation_epsilon, config.seed)
        self._last_score = result["mean"]
        row: dict[str, float] = {"steps": self.steps, "seconds": self.seconds()}
        if self._auxiliary is not None:
            self._keep_auxiliary(self._auxiliary, row)
        self._log_evaluation(row, result)
        if config.evaluation_video_steps:
            self._keep_video(config.evaluation_video_steps)
        if result["mean"] > self._best_score and self._save_weights("best", {"evaluation": result}):
            self._best_score = result["mean"]
        self._write_evaluation(result, final=final)  # the last: where it is final, the run is at its end
        self.reached |= config.stop_at_score is not None and result["mean"] >= config.stop_at_score

    def _keep_video(self, most_steps: int) -> None:
        """Write a video of the start of a game; warn where that fails."""
        config, video = self.config, self.folder / "videos" / f"{self.steps}.mp4"
        try:
            video.parent.mkdir(exist_ok=True)
            record_video(self.agent, config.env, video, config.seed, 0.0, most_steps)
        except Exception as error:  # a full disk, or whatever an environment that somebody wrote raises when it draws
            self.display.say(f"warning: no video '{video}' ({first_line(error)}); training goes on")
            return
        self._tracker.log_file("evaluation_video", video, self.steps)

    def _keep_auxiliary(self, auxiliary: AuxiliaryTask, row: dict[str, float]) -> None:
        """Score the task learnt beside play; keep it, on the backbone as it is, in `auxiliary`."""
        backbone = self.agent.online.backbone
        score = auxiliary.score(backbone)
        if score is not None:
            row["auxiliary_score"] = score
        about = {"updates": self.updates, "wandb_id": self._wandb_id}
        self._checkpoints.keep("auxiliary", lambda to: auxiliary.write(to, backbone, about))

    def save(self) -> Path | None:
        """Write a checkpoint; where that fails, warn and go on with the last good one in place."""
        if not self._may_be_kept():
            return None
        tensors = {
            f"prepared.{i}.{name}": tensor
            for i, prepared in enumerate(self.prepared)
            for name, tensor in prepared._asdict().items()
        }
        if self._learned:
            tensors["learned"] = torch.stack(self._learned)
        if self._held_out is not None:
            tensors["held_out"] = self._held_out
        state = {
            "updates": self.updates,
            "episodes": self.episodes,
            "seconds": self.seconds(),
            "scores": self._scores,
            "lengths": self._lengths,
            "reached": self.reached,
            "games": self.games.state_dict(),
        }
        written: list[list[Segment]] = []

        def write(folder: Path) -> None:
            previous = self._checkpoints.previous
            written.append(write_learner(folder, self.agent, self.replay, tensors, state, previous, self._segments))
            write_weights(folder, self.config, self.agent, self._about())

        checkpoint = self._save_checkpoint(write)
        if checkpoint is not None and written:
            self._segments = written[-1]
        return checkpoint

    def finish(self, ended: str) -> None:
        """Save and score what there is, close everything, and say how to go on or where to look."""
        if ended != "diverged":
            self.save()  # before the games, which take long
        if ended in ("done", "score reached"):
            self.evaluate(self.config.final_evaluation_episodes, final=True)
        if ended != "diverged":
            self.display.say(self.how_to_go_on(ended))
        self._worker.shutdown()
        self._tracker.close()
        self.games.close()

    def _about(self) -> dict[str, Any]:
        return {"steps": self.steps, "wandb_id": self._wandb_id}

    def _save_weights(self, name: str, about: dict[str, Any]) -> bool:
        """Keep the agent's weights in the folder `name` of the run's; return whether that could be done."""
        about = self._about() | about
        return self._checkpoints.keep(name, lambda to: write_weights(to, self.config, self.agent, about))

    def _save_diverged(self, update: int) -> None:
        norms = self.agent.gradient_norms()
        largest = max(norms, key=lambda name: norms[name] if math.isfinite(norms[name]) else math.inf)
        self._save_weights("diverged", {"update": update, "gradient_norms": {k: str(v) for k, v in norms.items()}})
        self.display.say(
            f"error: the loss is not a finite number since update {update:,} (largest gradient: {largest}, norm "
            f"{norms[largest]:.3g}). What there is lies in '{self.folder / 'diverged'}'; the last good checkpoint "
            "stays. Lower --learning-rate, then start again or --resume"
        )

    def _load(self, checkpoint: Path) -> None:
        self.display.say(f"reading {checkpoint} and playing the open games again, up to where they were")
        tensors, state, self._segments = load_learner(checkpoint, self.agent, self.replay)
        device = self.agent.device
        while (prefix := f"prepared.{len(self.prepared)}.") + "q_t" in tensors:
            self.prepared.append(PreparedBatch(*(tensors[prefix + name].to(device) for name in PreparedBatch._fields)))
        if "learned" in tensors:
            self._learned = list(tensors["learned"].to(device))
        if "held_out" in tensors:
            self._held_out = tensors["held_out"].to(device)
        about = load_config(checkpoint)[1]
        self.steps, self.updates, self.episodes = about["steps"], state["updates"], state["episodes"]
        self._seconds, self._scores, self._lengths = state["seconds"], state["scores"], state["lengths"]
        self.reached = state.get("reached", False) and self.config.stop_at_score is not None
        if (self.folder / "best").exists():
            self._best_score = load_config(self.folder / "best")[1]["evaluation"]["mean"]
        if "series" not in state["games"]:
            raise CheckpointError(f"'{checkpoint}' is of an older version, which seeded games otherwise: start again")
        self.games.load_state_dict(state["games"])


def new_run(config: TrainConfig) -> DQNRun:
    """Set up a run from nothing, with what `auto` means here settled.

    Raises:
        ValueError: something about it cannot be meant or does not fit this machine.
    """
    about = config.env.game if config.env.game == config.preset else f"{config.env.game}-{config.preset}"
    config = settled(config, about)
    agent, weights, recording = config.agent, None, config.auxiliary.data
    if agent.backbone not in BACKBONES:
        source, weights = load_backbone_weights(agent.backbone, STACK)
        agent = replace(agent, backbone=source)
    config = replace(
        config,
        agent=agent,
        auxiliary=replace(config.auxiliary, data=recording and str(Path(recording).absolute())),
        backbone_source=None if weights is None else config.agent.backbone,
        precision=machine.choose_precision(config.precision, config.device),
        num_threads=machine.choose_threads(config.num_threads, config.device),
    )
    run = DQNRun(config, new_wandb_id())
    if weights is not None:
        run.agent.load_backbone(weights)
    return run


def resumed_run(args: ResumeArgs) -> DQNRun:
    """Set up the run in a folder as it was at its newest checkpoint.

    Raises:
        ValueError: there is no checkpoint, it is damaged, the run is finished or alive, or the device is absent.
    """
    config, wandb_id, checkpoint = resumed(args, load_config)
    refuse_finished(checkpoint, "step", args.total_steps, config.total_steps, was_evaluated(args.resume))
    if args.total_steps:  # who asks for more steps wants them, whatever the score
        config = replace(config, total_steps=args.total_steps, stop_at_score=None)
    return DQNRun(config, wandb_id, checkpoint)
