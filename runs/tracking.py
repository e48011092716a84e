"""Where a run's numbers go: `metrics.csv` always, Weights & Biases or TensorBoard besides.

The names of all metrics are here, once. In brackets what SB3 and CleanRL call the same thing.
"""

import contextlib
import csv
import dataclasses
import importlib.util
import io
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perception.diagnostics import Layer
from runs import machine
from runs.checkpoints import replace_text, sync
from runs.commands import first_line
from runs.config import SB3Config, Tracking, TrainConfig, to_json
from runs.folders import whole_rows
from runs.perception_config import PerceptionConfig

# Losing the tracker must not lose the run, or hold it up: W&B's own waits are minutes.
WAIT_SECONDS = 20
WANDB, TENSORBOARD = "W&B", "TensorBoard"

LAYER_FIELDS = [field.name for field in dataclasses.fields(Layer)]

# What every run tells, beside its own counts.
_SHARED = {
    "seconds": "wall clock since the run began, stops not counted (SB3 time/time_elapsed)",
    "learning_rate": "of the optimizer (SB3 train/learning_rate)",
    "gradient_norm": "mean global norm before clipping",
    "memory_gb": "resident memory of this process, 10^9 bytes",
    "updates_per_second": "since the last row",
}
DQN_METRICS = {
    "steps": "agent decisions so far (SB3 time/total_timesteps, CleanRL global_step)",
    "frames": "emulator frames so far: of Atari's games four a step",
    "updates": "gradient steps so far (SB3 train/n_updates)",
    "episodes": "whole games so far (SB3 time/episodes)",
    **_SHARED,
    "return": "mean raw score of the games that ended since the last row (SB3 rollout/ep_rew_mean, CleanRL "
    "charts/episodic_return)",
    "episode_length": "their mean length in steps (SB3 rollout/ep_len_mean, CleanRL charts/episodic_length)",
    "epsilon": "share of random actions (SB3 rollout/exploration_rate, CleanRL charts/epsilon)",
    "loss": "mean Huber loss since the last row (SB3 train/loss, CleanRL losses/td_loss)",
    "td_error": "mean absolute TD error since the last row",
    "q": "mean value of the actions learnt from (CleanRL losses/q_values)",
    "held_out_q": "mean greatest value over a fixed set of states (Mnih et al. 2013, figure 2)",
    "replay_fill": "share of the replay that is filled",
    "replay_age_steps": "mean age of what is held in the replay, in steps",
    "overestimation": "how far greatest values of recent states lie above the returns that followed (van Hasselt et "
    "al. 2016, figure 3)",
    "steps_per_second": "since the last row (SB3 time/fps, CleanRL charts/SPS)",
    "auxiliary_loss": "mean loss of the task learnt beside play",
    "backbone_gradient_norm": "mean norm of the agent's gradient on the backbone, before the task's joins it",
    "auxiliary_gradient_norm": "mean norm of the task's gradient there, before it is weighed",
    "auxiliary_score": "the task's metric on the validation split: mIoU, weighted F1, share of true facts",
    "evaluation_score": "mean raw score of an evaluation (SB3 eval/mean_reward)",
    "evaluation_score_std": "its standard deviation over games",
    "evaluation_human_normalized": "0 plays as the random agent, 1 as the human",
}
SB3_METRICS = {
    **{name: DQN_METRICS[name] for name in ("steps", "frames", "episodes", "seconds", "learning_rate", "memory_gb")},
    "return": "mean raw score of the last 100 games (SB3 rollout/ep_rew_mean)",
    "episode_length": "their mean length in steps (SB3 rollout/ep_len_mean)",
    "epsilon": "share of random actions of a DQN (SB3 rollout/exploration_rate)",
    "steps_per_second": "since the start or the resume, evaluations included (SB3 time/fps)",
    "loss": "of the last update (SB3 train/loss)",
    "value_loss": "of the critic (SB3 train/value_loss)",
    "policy_loss": "of the actor (SB3 train/policy_gradient_loss, of A2C train/policy_loss)",
    "entropy_loss": "minus the mean entropy of the actions (SB3 train/entropy_loss)",
    **{name: about for name, about in DQN_METRICS.items() if name.startswith("evaluation_")},
}
PERCEPTION_METRICS = {
    "updates": "gradient steps so far",
    "epochs": "passes over the training split so far",
    **_SHARED,
    "loss": "mean training loss since the last row",
    "loss_gap": "how far the validation loss lies above the training loss",
    "validation_loss": "mean loss over the validation split; the following are of it too",
    "accuracy": "share of answers that are right; of masks, of pixels",
    "f1_weighted": "F1 weighted by class size, a mean over the outputs",
    "f1_macro": "F1, a mean over classes and outputs",
    "miou": "mean intersection over union of the classes",
    "psnr": "peak signal to noise ratio of what came back, dB",
    "ssim": "structural similarity of it (Wang et al. 2004)",
    "bleu4": "BLEU of up to four words in a row (Papineni et al. 2002)",
    "facts_true": "share of the facts in a sentence, its own and the true one's, that both have",
    "bleu4_shuffled": "BLEU against other pictures' sentences",
    "facts_true_shuffled": "share of true facts of other pictures",
    "frechet": "Fréchet distance of what is drawn from what is real, in one judge's features",
    "precision": "share of what is drawn that is near something real in them (Kynkäänniemi et al. 2019)",
    "recall": "share of what is real that is near something drawn",
    "modes": "classes that the judge surely sees in what is drawn",
    "sure": "share of what is drawn that the judge is sure of",
    "d_real": "mean probability of being real that the discriminator gives to what is; 1/2 in equilibrium",
    "d_drawn": "mean probability that it gives to what is drawn",
    "value": "of the game, E log D(x) + E log(1 - D(G(z))); - log 4 in equilibrium (Goodfellow et al. 2014, theorem 1)",
}


class Tracker:
    """Takes rows of metrics by name; a name that it was not told of is a mistake and raises KeyError."""

    def __init__(
        self,
        folder: Path,
        metrics: dict[str, str],
        config: TrainConfig | PerceptionConfig | SB3Config,
        wandb_id: str,
        resumed_at: int | None,
        say: Callable[[str], None],
    ) -> None:
        """Open the run's files in `folder`; after a resume, cut `metrics.csv` back to where that was.

        The first of `metrics` is what the run counts by. What there is to tell goes to `say`.
        """
        self._say, self._is_full = say, False
        self._folder, self._csv, self._layers = folder, folder / "metrics.csv", folder / "layers.csv"
        self._metrics, self._count = metrics, next(iter(metrics))
        self._sends_checkpoints = config.tracked.wandb_checkpoints
        if resumed_at is None:
            self._csv.write_text(_csv_line(metrics))
        else:
            _cut_back(self._csv, list(metrics), resumed_at)
            if self._layers.exists():
                _cut_back(self._layers, [self._count, "layer", *LAYER_FIELDS], resumed_at)
        self._id, self._trackers = wandb_id, dict[str, Any]()
        tracking = config.tracked.tracking
        if tracking == "wandb":
            run = self._trackers[WANDB] = _start_wandb(folder, _about(config, wandb_id), say)
            run.define_metric(self._count)
            run.define_metric("*", step_metric=self._count)
        elif tracking == "tensorboard":
            self._trackers[TENSORBOARD] = _start_tensorboard(folder / "tensorboard", resumed_at)

    def log(self, row: dict[str, float]) -> None:
        """Write one row; metrics it lacks stay empty in the CSV."""
        for name in row:
            self._metrics[name]
        self._append(self._csv, _csv_line(row.get(name, "") for name in self._metrics))
        self._send(WANDB, lambda run: run.log(row))

        def add(writer: Any) -> None:
            for name, value in row.items():
                writer.add_scalar(name, value, int(row[self._count]))
            writer.flush()

        self._send(TENSORBOARD, add)

    def sync(self) -> None:
        """Wait until what was written so far is on disk.

        Raises:
            OSError: it could not be written.
        """
        for path in (self._csv, self._layers):
            if path.exists():
                sync(path)

    def _send(self, tracker: str, send: Callable[[Any], object]) -> None:
        """Let `send` have W&B's run or TensorBoard's writer, where that is in use; when it fails, go on without it."""
        if tracker not in self._trackers:
            return
        try:
            send(self._trackers[tracker])
        except Exception as error:
            del self._trackers[tracker]
            later = f". To send what it has so far: wandb sync '{self._folder}'/wandb/*run-*-{self._id}"
            self._say(
                f"warning: {tracker} failed ({str(error) or type(error).__name__}) and gets nothing more; training "
                f"goes on, and '{self._csv}' has every row" + later * (tracker == WANDB)
            )

    def _append(self, path: Path, lines: str) -> None:
        """Add lines to a file, all or none; where there is no room, warn once and go on."""
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("a") as file:
                file.write(lines)
        except OSError as error:
            with contextlib.suppress(OSError):  # a disk that is gone takes no half of a line either
                os.truncate(path, size)
            if not self._is_full:
                self._say(f"warning: could not write to '{path}' ({error.strerror or error}); training goes on")
            self._is_full = True

    def log_layers(self, count: int, layers: Mapping[str, Layer]) -> None:
        """Write how each layer does to `layers.csv`, a line a layer."""
        rows = {name: dataclasses.astuple(layer) for name, layer in layers.items()}
        lines = [[count, name, *("" if math.isnan(v) else v for v in values)] for name, values in rows.items()]
        head = [] if self._layers.exists() else [[self._count, "layer", *LAYER_FIELDS]]
        self._append(self._layers, "".join(map(_csv_line, [*head, *lines])))
        told = {
            f"layers/{name}/{field}": value
            for name, values in rows.items()
            for field, value in zip(LAYER_FIELDS, values, strict=True)
            if not math.isnan(value)
        }
        self._send(WANDB, lambda run: run.log({self._count: count} | told))
        self._send(TENSORBOARD, lambda writer: [writer.add_scalar(name, value, count) for name, value in told.items()])

    def log_file(self, name: str, path: Path, count: int) -> None:
        """Send an MP4 or a picture along; it stays on disk whatever the tracker."""

        def send(run: Any) -> None:
            wandb = importlib.import_module("wandb")
            sent = wandb.Video(str(path), format="mp4") if path.suffix == ".mp4" else wandb.Image(str(path))
            run.log({self._count: count, name: sent})

        self._send(WANDB, send)

    def log_episodes(self, scores: list[float], lengths_steps: list[int], count: int) -> None:
        """Send the table of an evaluation's games along; the scores stay in `evaluation.json` whatever the tracker."""

        def send(run: Any) -> None:
            rows = [list(row) for row in zip(range(len(scores)), scores, lengths_steps, strict=True)]
            columns = ["episode", "score", "length_steps"]
            table = importlib.import_module("wandb").Table(columns=columns, data=rows)
            run.log({self._count: count, "evaluation_episodes": table})

        self._send(WANDB, send)

    def close(self) -> None:
        """Finish writing; send the checkpoints along where that was asked for."""
        if self._sends_checkpoints:
            self._send(WANDB, self._send_checkpoints)
        self._send(WANDB, lambda run: run.finish())
        self._send(TENSORBOARD, lambda writer: writer.close())

    def _send_checkpoints(self, run: Any) -> None:
        """Send the weights and the configuration of the best and of the newest checkpoint, as two versions."""
        best, newest = self._folder / "best", self._folder / "checkpoints" / "latest"
        folders = {"best": best} if best.exists() else {}
        if newest.exists():
            name = newest.read_text().strip()
            folders[f"{self._count}-{name}"] = newest.with_name(name)
        for alias, folder in folders.items():
            files = [folder / "config.json", folder / "weights.safetensors"]
            _send_files(run, f"checkpoint-{run.id}", "model", files, alias)


def send_report(page: str, files: Sequence[Path], title: str, project: str) -> list[str]:
    """Send a report to the W&B project `PROJECT` or `ENTITY/PROJECT`; return what there is to say of it.

    The HTML `page` can be read there; the files, of one folder, are an artifact.
    """
    entity, _, name = project.rpartition("/")
    messages: list[str] = []
    about = {"project": name, "entity": entity or None, "job_type": "report", "name": title}
    run = _start_wandb(files[0].parent, about | {"id": secrets.token_hex(4)}, messages.append)
    wandb = importlib.import_module("wandb")
    run.log({"report": wandb.Html(io.StringIO(page), inject=False)})
    _send_files(run, f"report-{run.id}", "report", files, "report")
    try:
        run.finish()
    except TimeoutError as error:
        folder = files[0].parent / "wandb"
        messages.append(
            f"warning: W&B has not got all of it ({error}); to send it: wandb sync '{folder}'/*run-*-{run.id}"
        )
    return messages


def _send_files(run: Any, name: str, kind: str, files: Sequence[Path], alias: str) -> None:
    artifact = importlib.import_module("wandb").Artifact(name, type=kind)
    for file in files:
        artifact.add_file(str(file))
    run.log_artifact(artifact, aliases=[alias])


def _csv_line(values: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _cut_back(path: Path, metrics: list[str], count: int) -> None:
    """Drop the rows that were written after the checkpoint, and a last line that a kill cut short."""
    kept = [row for row in whole_rows(path) if _count_of(row) <= count]
    replace_text(path, _csv_line(metrics) + "".join(_csv_line(row.get(name, "") for name in metrics) for row in kept))


def _count_of(row: Mapping[str, str]) -> float:
    """Return the count that a row begins with; infinity for what a power cut left in its place."""
    try:
        return float(next(iter(row.values())))
    except (TypeError, ValueError):
        return math.inf


def _about(config: TrainConfig | PerceptionConfig | SB3Config, run_id: str) -> dict[str, Any]:
    """Return what W&B is told of a run at its start."""
    tracked = config.tracked
    return {
        "project": tracked.wandb_project,
        "entity": tracked.wandb_entity,
        "group": tracked.wandb_group or config.group,
        "tags": list(tracked.wandb_tags),
        "name": config.run_name,
        "id": run_id,
        "resume": "allow",
        "config": to_json(config) | {"versions": machine.versions()},
    }


def _start_wandb(folder: Path, about: dict[str, Any], say: Callable[[str], None]) -> Any:
    """Start or go on with a run below `folder`: online when logged in, else offline; never ask and never wait long."""
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb
    import wandb.errors

    settings = wandb.Settings(
        console="off",
        init_timeout=WAIT_SECONDS,
        login_timeout=WAIT_SECONDS,
        finish_timeout=WAIT_SECONDS,
        finish_timeout_raises=True,
    )
    options = about | {"dir": str(folder), "settings": settings}
    try:
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
        run = wandb.init(mode=mode, **options)  # type: ignore[arg-type]
    except wandb.errors.Error as error:
        # No network, a wrong key, a changed server: the run is worth more than its log.
        say(f"warning: W&B cannot be used ({first_line(error)}): logging offline")
        mode = "offline"
        os.environ.pop("WANDB_API_KEY", None)
        wandb.teardown()  # or the run's id counts as in use
        run = wandb.init(mode="offline", **options)
    if mode == "offline":
        say(f"W&B logs offline; to send it: wandb sync '{folder / 'wandb'}'/offline-run-*-{about['id']}")
    return run


def need_tracker(tracking: Tracking) -> None:
    """Raise ValueError where the tracker is not installed; ask before there is a folder."""
    if tracking == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise ValueError("TensorBoard is not installed: pip install 'saccade[tensorboard]'")


def _start_tensorboard(folder: Path, resumed_at: int | None) -> Any:
    tensorboard = importlib.import_module("torch.utils.tensorboard")
    return tensorboard.SummaryWriter(str(folder), purge_step=None if resumed_at is None else resumed_at + 1)
