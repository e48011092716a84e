"""What a run of one of SB3's algorithms holds: SB3 has the loop, we have the games, the numbers and the checkpoints."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule

from agents.sb3 import ALGORITHMS, SB3Player, SideBySide, extractor_kwargs, fit_to_states, layers_of, weights_of
from envs.atari import GAMES
from envs.episodes import Episodes
from envs.games import frames_a_step, make_games
from perception.backbones import BACKBONES
from perception.diagnostics import faults
from runs import machine
from runs.checkpoints import CheckpointError
from runs.config import ResumeArgs, SB3Config
from runs.evaluate import evaluate
from runs.folders import was_evaluated
from runs.perception_checkpoints import make_backbone
from runs.run import Run, misfit, new_wandb_id, refuse_finished, resumed, settled
from runs.sb3_checkpoints import FORMAT, load_config, write_sb3
from runs.tracking import SB3_METRICS

SB3_REPLAY_STEPS = 100_000
STATES_STEPS, STATES_EVERY_STEPS = 400, 8  # of random play, that a layer over a pretrained backbone is fitted to
TOLD = {
    "train/learning_rate": "learning_rate",
    "train/loss": "loss",
    "train/value_loss": "value_loss",
    "train/policy_gradient_loss": "policy_loss",
    "train/policy_loss": "policy_loss",
    "train/entropy_loss": "entropy_loss",
    "rollout/ep_rew_mean": "return",
    "rollout/ep_len_mean": "episode_length",
    "rollout/exploration_rate": "epsilon",
    "time/fps": "steps_per_second",
}
"""SB3's names of metrics, and ours."""


def settings(config: SB3Config) -> dict[str, Any]:
    """Return what the algorithm gets: the values of SB3's zoo for Atari, one update of a DQN for 4 steps."""
    given = config.learning_rate
    if config.algorithm == "ppo":
        rate, clip = (given, 0.1) if given else (LinearSchedule(2.5e-4, 0.0, 1.0), LinearSchedule(0.1, 0.0, 1.0))
        shared = {"n_steps": 128, "batch_size": 256, "n_epochs": 4, "ent_coef": 0.01}
        return shared | {"learning_rate": rate, "clip_range": clip}
    if config.algorithm == "a2c":
        return {"learning_rate": given or 7e-4, "ent_coef": 0.01, "vf_coef": 0.25}
    return {
        "buffer_size": SB3_REPLAY_STEPS,
        "learning_rate": given or 1e-4,
        "learning_starts": min(100_000, config.total_steps // 100),
        "target_update_interval": 1_000,
        "train_freq": max(1, 4 // config.num_envs),
        "gradient_steps": max(1, config.num_envs // 4),
        "exploration_fraction": 0.1,
        "exploration_final_eps": 0.01,
    }


def random_states(games: Episodes, seed: int) -> NDArray[np.uint8]:
    """Play at random; return states (N, C, H, W) from all along the way."""
    rng, states = np.random.default_rng(seed), []
    for step in range(STATES_STEPS):
        games.step(rng.integers(games.num_actions, size=games.num_envs))
        if step % STATES_EVERY_STEPS == 0:
            states.append(games.frames.copy())
    return np.concatenate(states)


class SB3Run(Run[SB3Config]):
    """A run, new or resumed."""

    command, metrics, format = "runs.train_sb3", SB3_METRICS, FORMAT

    def __init__(self, config: SB3Config, wandb_id: str, checkpoint: Path | None = None) -> None:
        """Set everything up; with `checkpoint`, go on from there as SB3 does: the games and a DQN's replay start anew.

        Raises:
            ValueError: something cannot be meant, does not fit together, or cannot be read or written.
        """
        super().__init__(config, wandb_id)
        games = make_games(config.env, config.num_envs, config.seed)
        # SB3 shows its learners clipped rewards of Atari's games and, of the classic ones, lives as episodes.
        if config.algorithm == "dqn":
            needed = 2 * SB3_REPLAY_STEPS * games.frames[0].nbytes  # each state, and the one after it, as whole stacks
            machine.check_memory(needed, "runs.train_dqn keeps each frame once, and takes an eighth")
        classic = config.protocol == "classic"
        self.envs = SideBySide(games.envs, config.seed, cut_at_lost_life=classic, clip_rewards=config.game in GAMES)
        source = config.backbone if checkpoint is None else load_config(checkpoint)[1]["backbone"]
        self.backbone_name, backbone = make_backbone(source, games.frames.shape[1])
        algorithm = ALGORITHMS[config.algorithm]
        self.model: BaseAlgorithm
        if checkpoint is None:
            policy = extractor_kwargs(backbone, freeze=config.freeze)
            if config.algorithm == "a2c":
                policy |= {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}}
            shared = {"policy_kwargs": policy, "seed": config.seed, "device": config.device}
            self.model = algorithm("CnnPolicy", self.envs, **settings(config), **shared)  # type: ignore[arg-type]
            if source not in BACKBONES:
                fit_to_states(self.model, random_states(games, config.seed))
        else:
            if not (checkpoint / "model.zip").exists():
                raise CheckpointError(f"'{checkpoint}' has no model.zip, which SB3 goes on from")
            try:
                self.model = algorithm.load(checkpoint / "model.zip", env=self.envs, device=config.device)
            except (TypeError, RuntimeError, KeyError) as error:
                raise misfit(checkpoint, error) from error
            self.envs.seed(config.seed + self.steps)  # other games than those that the run began with
            if isinstance(self.model, DQN):  # its replay is empty again
                self.model.learning_starts = settings(config)["learning_starts"] + self.steps
        self.diverged = False
        self._episodes, self._words = 0, ""
        self._open(checkpoint)

    def _load(self, checkpoint: Path) -> None:
        state = load_config(checkpoint)[1]
        self._episodes, self._seconds = state["episodes"], state["seconds"]

    @property
    def steps(self) -> int:
        """Agent decisions so far."""
        return self.model.num_timesteps

    def train(self) -> str:
        """Let SB3 learn; return why it ended: `done`, `stopped` or `diverged`."""
        config = self.config
        self._begin(
            f"{config.algorithm} on {config.game} ({config.protocol}), {self.backbone_name}"
            f"{', frozen' if config.freeze else ''}, {config.num_envs} environments, {config.device}"
        )
        self.model.set_logger(Logger(None, [_Rows(self)]))
        if self.steps < config.total_steps:
            try:
                self.model.learn(config.total_steps - self.steps, callback=_Around(self), reset_num_timesteps=False)
            except ValueError as error:
                if "nan" not in str(error):  # torch's distributions print the logits that they refuse
                    raise
                self._diverge()
        if self.diverged or not self.is_sound():
            return "diverged"
        return "stopped" if self.stop_signal.number else "done"

    def count(self, infos: list[dict[str, Any]]) -> None:
        """Count a step of every environment, which left these infos."""
        self._episodes += sum("episode" in info for info in infos)
        self.display.update(self.steps)

    def passed(self, period_steps: int, since_steps: int) -> bool:
        """Whether a multiple of `period_steps` was come to since `since_steps`; never for 0."""
        return period_steps > 0 and self.steps // period_steps > since_steps // period_steps

    def log(self, told: dict[str, Any]) -> None:
        """Write a row of what SB3 tells."""
        row = {ours: float(told[theirs]) for theirs, ours in TOLD.items() if theirs in told}
        if not all(math.isfinite(row.get(name, 0.0)) for name in ("loss", "value_loss", "policy_loss")):
            self._diverge()
            return
        self._tracker.log(self._row() | {"memory_gb": round(machine.resident_memory() / 1e9, 3)} | row)
        if "loss" in row or "value_loss" in row:
            self._diagnose()
        if "return" in row:
            self.display.update(self.steps, f"return {row['return']:.1f}{self._words}", row.get("steps_per_second"))

    def _is_finite(self) -> bool:
        return all(bool(weight.isfinite().all()) for weight in weights_of(self.model).values())

    def is_sound(self) -> bool:
        """Whether the weights are numbers; where they are not, the run ends. SB3 tells of a loss a rollout later."""
        if not self._is_finite():
            self._diverge()
        return not self.diverged

    def _diverge(self) -> None:
        if self.diverged:
            return
        self.diverged = True
        self.display.say(
            "error: the loss is not a finite number any more; the last good checkpoint stays. Take another algorithm "
            "or seed, or a backbone that is not frozen"
        )

    def _diagnose(self) -> None:
        """Write how each layer does with what is seen now, and warn once of what is out of bounds."""
        layers = layers_of(self.model, self.envs.shown)
        self._tracker.log_layers(self.steps, layers)
        self.display.warn(f"step {self.steps:,}", faults(layers))

    def evaluate(self, episodes: int, *, final: bool = False) -> None:
        """Score the agent over whole games."""
        config = self.config
        result = evaluate(SB3Player(self.model), config.env, episodes, config.evaluation_epsilon, config.seed)
        self._words = f"  score {result['mean']:.2f}"
        self._log_evaluation(self._row(), result)
        self._write_evaluation(result, final=final)

    def save(self) -> None:
        """Write a checkpoint; where that fails, warn and go on with the last good one in place."""
        about = {"steps": self.steps, "episodes": self._episodes, "seconds": self.seconds()}
        about |= {"wandb_id": self._wandb_id, "backbone": self.backbone_name}
        self._save_checkpoint(lambda to: write_sb3(to, self.model, self.config, about))

    def finish(self, ended: str) -> None:
        """Save and score what there is, close everything, and say how to go on."""
        if ended != "diverged":
            self.save()
        if ended == "done":
            self.evaluate(3 * self.config.evaluation_episodes, final=True)
        if ended != "diverged":
            self.display.say(self.how_to_go_on(ended))
        self._tracker.close()
        self.envs.close()

    def _row(self) -> dict[str, float]:
        return {
            "steps": self.steps,
            "frames": self.steps * frames_a_step(self.config.env),
            "episodes": self._episodes,
            "seconds": self.seconds(),
        }


class _Rows(KVWriter):
    """Takes what SB3 logs."""

    def __init__(self, run: SB3Run) -> None:
        self._run = run

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:  # noqa: ARG002
        self._run.log(key_values)

    def close(self) -> None:
        """Nothing is open."""


class _Around(BaseCallback):
    """Counts steps, and looks and saves between SB3's rollouts, when no experience is half taken."""

    def __init__(self, run: SB3Run) -> None:
        super().__init__()
        self._run, self._since_steps = run, run.steps

    def _on_rollout_start(self) -> None:
        run, config = self._run, self._run.config
        evaluation = run.passed(config.evaluate_every_steps, self._since_steps)
        checkpoint = run.passed(config.checkpoint_every_steps, self._since_steps)
        self._since_steps = run.steps
        if (evaluation or checkpoint) and not run.is_sound():
            return
        if evaluation:
            run.evaluate(config.evaluation_episodes)
        if checkpoint:
            run.save()

    def _on_step(self) -> bool:
        self._run.count(self.locals["infos"])
        return not self._run.stop_signal.number and not self._run.diverged


def new_run(config: SB3Config) -> SB3Run:
    """Set up a run from nothing, with what `auto` means here settled.

    Raises:
        ValueError: something about it cannot be meant.
    """
    config = settled(config, config.group)
    config = replace(config, num_threads=config.num_threads or machine.usable_cores())
    return SB3Run(config, new_wandb_id())


def resumed_run(args: ResumeArgs) -> SB3Run:
    """Set up the run in a folder as it was at its newest checkpoint.

    Raises:
        ValueError: there is no checkpoint, it is damaged, the run is finished or alive, or the device is absent.
    """
    config, wandb_id, checkpoint = resumed(args, load_config)
    refuse_finished(checkpoint, "step", args.total_steps, config.total_steps, was_evaluated(args.resume))
    config = replace(config, total_steps=args.total_steps or config.total_steps)
    return SB3Run(config, wandb_id, checkpoint)
