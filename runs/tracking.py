"""Where a run's numbers go: `metrics.csv` always, Weights & Biases or TensorBoard besides.

The names of all metrics are here, once. In brackets what SB3 and CleanRL call the same thing.
"""

import csv
import importlib
import io
import os
from pathlib import Path
from typing import Any

from runs import machine
from runs.config import TrainConfig, to_json

# Losing the tracker must not lose the run, or hold it up: W&B's own waits are minutes.
WAIT_SECONDS = 20

METRICS = {
    "steps": "agent decisions so far (SB3 time/total_timesteps, CleanRL global_step)",
    "frames": "emulator frames so far, four a step",
    "updates": "gradient steps so far (SB3 train/n_updates)",
    "episodes": "whole games so far (SB3 time/episodes)",
    "seconds": "wall clock since the run began, stops not counted (SB3 time/time_elapsed)",
    "return": "mean raw score of the games that ended since the last row (SB3 rollout/ep_rew_mean, CleanRL "
    "charts/episodic_return)",
    "episode_length": "their mean length in steps (SB3 rollout/ep_len_mean, CleanRL charts/episodic_length)",
    "epsilon": "share of random actions (SB3 rollout/exploration_rate, CleanRL charts/epsilon)",
    "learning_rate": "of the optimizer (SB3 train/learning_rate)",
    "loss": "mean Huber loss since the last row (SB3 train/loss, CleanRL losses/td_loss)",
    "td_error": "mean absolute TD error since the last row",
    "q": "mean value of the actions learnt from (CleanRL losses/q_values)",
    "gradient_norm": "mean global norm before clipping",
    "held_out_q": "mean greatest value over a fixed set of states (Mnih et al. 2013, figure 2)",
    "replay_fill": "share of the replay that is filled",
    "memory_gb": "resident memory of this process, 10^9 bytes",
    "steps_per_second": "since the last row (SB3 time/fps, CleanRL charts/SPS)",
    "updates_per_second": "since the last row",
    "evaluation_score": "mean raw score of an evaluation (SB3 eval/mean_reward)",
    "evaluation_score_std": "its standard deviation over games",
    "evaluation_human_normalized": "0 plays as the random agent, 1 as the human",
}


class Tracker:
    """Takes rows of metrics by name; a name that `METRICS` lacks is a mistake and raises KeyError."""

    def __init__(self, folder: Path, config: TrainConfig, wandb_id: str, resumed_at: int | None) -> None:
        """Open the run's files in `folder`; after a resume, cut `metrics.csv` back to step `resumed_at`."""
        self._csv = folder / "metrics.csv"
        if resumed_at is None:
            self._csv.write_text(_csv_line(METRICS))
        else:
            _cut_back(self._csv, resumed_at)
        self._wandb: Any = None
        self._tensorboard: Any = None
        self.messages: list[str] = []
        tracking = config.tracked.tracking
        if tracking == "wandb":
            self._wandb = _start_wandb(folder, config, wandb_id, self.messages)
        elif tracking == "tensorboard":
            self._tensorboard = _start_tensorboard(folder / "tensorboard", resumed_at)

    def log(self, row: dict[str, float]) -> None:
        """Write one row; metrics it lacks stay empty in the CSV."""
        for name in row:
            METRICS[name]
        with self._csv.open("a") as file:
            file.write(_csv_line(row.get(name, "") for name in METRICS))
        if self._wandb is not None:
            self._wandb.log(row)
        if self._tensorboard is not None:
            for name, value in row.items():
                self._tensorboard.add_scalar(name, value, int(row["steps"]))
            self._tensorboard.flush()

    def log_video(self, path: Path, steps: int) -> None:
        """Send an MP4 along; it stays on disk whatever the tracker."""
        if self._wandb is not None:
            wandb = importlib.import_module("wandb")
            self._wandb.log({"steps": steps, "evaluation_video": wandb.Video(str(path), format="mp4")})

    def close(self) -> None:
        """Finish writing."""
        if self._wandb is not None:
            self._wandb.finish()
        if self._tensorboard is not None:
            self._tensorboard.close()


def _csv_line(values: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _cut_back(path: Path, steps: int) -> None:
    """Drop the rows that were written after the checkpoint, and a last line that a kill cut short."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else [_csv_line(METRICS)]
    kept = [line for line in lines[1:] if line.endswith("\n") and float(line.split(",", 1)[0]) <= steps]
    path.write_text("".join([lines[0], *kept]))


def _start_wandb(folder: Path, config: TrainConfig, run_id: str, messages: list[str]) -> Any:
    """Start or go on with the run `run_id`: online when logged in, else offline; never ask and never wait for long."""
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb
    import wandb.errors

    tracked = config.tracked
    options: dict[str, Any] = {
        "project": tracked.wandb_project,
        "entity": tracked.wandb_entity,
        "group": tracked.wandb_group or f"{config.preset}-{config.env.game}",
        "tags": list(tracked.wandb_tags),
        "name": config.run_name,
        "id": run_id,
        "resume": "allow",
        "dir": str(folder),
        "config": to_json(config) | {"versions": machine.versions()},
        "settings": wandb.Settings(
            console="off", init_timeout=WAIT_SECONDS, login_timeout=WAIT_SECONDS, finish_timeout=WAIT_SECONDS
        ),
    }
    try:
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
        run = wandb.init(mode=mode, **options)  # type: ignore[arg-type]
    except wandb.errors.Error as error:
        # No network, a wrong key, a changed server: the run is worth more than its log.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        messages.append(f"warning: W&B cannot be used ({reason}): logging offline")
        mode = "offline"
        os.environ.pop("WANDB_API_KEY", None)
        wandb.teardown()  # or the run's id counts as in use
        run = wandb.init(mode="offline", **options)
    if mode == "offline":
        messages.append(f"W&B logs offline; to send it: wandb sync '{folder / 'wandb'}'/offline-run-*-{run_id}")
    run.define_metric("steps")
    run.define_metric("*", step_metric="steps")
    return run


def _start_tensorboard(folder: Path, resumed_at: int | None) -> Any:
    try:
        tensorboard = importlib.import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise ValueError("TensorBoard is not installed: pip install 'saccade[tensorboard]'") from error
    return tensorboard.SummaryWriter(str(folder), purge_step=resumed_at)
