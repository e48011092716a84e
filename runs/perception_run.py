"""What a run of perception holds, and what it does around the loop in `train_perception.py`."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from agents.schedules import warm_cosine
from agents.updates import load_optimizer, optimizer_tensors
from perception.datasets import Dataset
from perception.diagnostics import faults, health, worse_than_guessing
from perception.networks import LOWER_IS_BETTER, PerceptionNetwork, Task
from perception.pictures import contact_sheet, first_row
from runs import machine
from runs.checkpoints import CheckpointError, load_json, load_tensors, save_json, save_tensors
from runs.datasets import open_dataset
from runs.perception_checkpoints import (
    FORMAT,
    load_config,
    make_backbone,
    make_network,
    make_task,
    smallest_image,
    write_network,
)
from runs.perception_config import ADAM, ADAM_USUAL, DEFAULT_SPREAD, PerceptionConfig, PerceptionResumeArgs
from runs.run import Run, new_wandb_id, refuse_finished, resumed, settled
from runs.tracking import PERCEPTION_METRICS

CLIP_NORM = 1.0
PICTURES = 12  # of an evaluation
EARLY_UPDATES = (1, 10)  # when most goes wrong: looked at before the first row is due


class PerceptionRun(Run[PerceptionConfig]):
    """A run, new or resumed. `updates` is what it has done so far."""

    command, metrics, format, unit = "runs.train_perception", PERCEPTION_METRICS, FORMAT, "update"

    def __init__(self, config: PerceptionConfig, wandb_id: str, checkpoint: Path | None = None) -> None:
        """Set everything up; with `checkpoint`, as it was when that was written.

        `config.out`, `device`, `precision` and `num_threads` are settled by now.

        Raises:
            ValueError: something cannot be meant, does not fit together, or cannot be read or written.
        """
        super().__init__(config, wandb_id)
        torch.manual_seed(config.seed)
        # A resumed run has its weights with it, wherever they came from.
        about = None if checkpoint is None else load_config(checkpoint)[1]
        source = config.backbone if about is None else about["backbone"]
        size = config.image_size or max(32, smallest_image(source))
        self.data: Dataset = open_dataset(config.task, config.data, config.game, size, config.split_seed)
        if config.image_size and self.data.recorded:
            raise ValueError(f"--image-size is an option of pictures: '{config.data}' is a recording, of 84×84")
        if config.motion_weight and not self.data.recorded:
            raise ValueError(f"--motion-weight is an option of recordings: nothing moves in '{config.data}'")
        if config.split_seed and self.data.recorded and checkpoint is None:
            raise ValueError(f"--split-seed is an option of pictures: '{config.data}' is a recording, of episodes")
        variables = config.task == "classification" and "class" not in self.data.names
        if config.augmentation == "affine" and variables:
            raise ValueError(
                "--augmentation affine moves the picture and not where the variables say things are: use none"
            )
        if config.label_spread not in (0, DEFAULT_SPREAD) and not variables and config.task == "classification":
            raise ValueError(f"--label-spread is an option of a game's variables: '{config.data}' has classes")
        self.backbone_name, backbone = make_backbone(source, self.data.channels)
        self._pixels = self.data.pixels() if config.task == "segmentation" else None
        found = self._data_is = {
            "channels": self.data.channels,
            "size": list(self.data.size),
            "names": self.data.names,
            "pixels": self._pixels,
            "digest": self.data.digest(),
        }
        if about is not None and found != {name: about.get(name, found[name]) for name in found}:
            raise CheckpointError(f"'{config.data}' is not what it was when the run began: start a new one")
        self.task: Task = make_task(config, self.data.names, self._pixels)
        self.network = make_network(self.task, backbone, self.data.size, config).to(config.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rate, beta1 = ADAM.get(config.task, ADAM_USUAL)
        self.rate = config.learning_rate or rate
        """Of the optimizer, at its greatest."""
        betas = (beta1 if config.adam_beta1 is None else config.adam_beta1, 0.999)
        trained = list(self.network.trained())
        self.optimizer = torch.optim.AdamW(trained, self.rate, betas, weight_decay=config.weight_decay)
        pictures = config.task == "classification" and not self.data.recorded
        self._augmented = config.augmentation == "affine" or (config.augmentation == "auto" and pictures)
        self.updates = 0
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._batch: tuple[Tensor, Tensor]
        self._training_loss: float | None = None
        self._best = -math.inf
        self._last = ""
        self._open(checkpoint)

    def begin(self) -> None:
        """Open the tracker and say where the run lives."""
        config, sizes = self.config, {name: len(at) for name, at in self.data.splits.items()}
        self._begin(
            f"{config.task} of {self.data.name}, {sizes['train']:,} images to learn from, {sizes['validation']:,} to "
            f"choose by, {sizes['test']:,} to test; {self.backbone_name}{', frozen' if config.freeze else ''}, "
            f"{config.device} {config.precision}"
        )
        self._row_began, self._row_updates = time.monotonic(), self.updates

    def _is_finite(self) -> bool:
        # A gradient that is infinite makes weights that are no numbers, whatever the loss before it was.
        told = [*self._losses, *self._norms]
        return not told or bool(torch.stack(told).isfinite().all())

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """Return the next images uint8 (B, C, H, W) and targets."""
        return self.data.batch(self.updates, self.config.batch_size, self.config.seed, self.config.device)

    def learn(self, images: Tensor, targets: Tensor) -> None:
        """Make one gradient step."""
        # Every update draws from a generator of its own, so that a resumed run draws what the whole one would have.
        torch.manual_seed(self.config.seed * 1_000_003 + self.updates)
        rate = warm_cosine(self.updates, self.rate, self.config.total_updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        images = augment(images) if self._augmented else images
        with passes(self.config.precision, images.device):
            loss = self.task.loss(self.network, images, targets)
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.trained(), CLIP_NORM)
        self.optimizer.step()
        self._losses.append(loss.detach())
        self._norms.append(norm)
        self._batch = images, targets
        self.updates += 1
        due = self.passed(self.config.log_every_updates) or self.updates == self.config.total_updates
        if self.config.diagnostics and self.updates in EARLY_UPDATES and not due:
            self._diagnose(float(norm))
        self.display.update(self.updates)

    def passed(self, period_updates: int) -> bool:
        """Whether the last update is a multiple of `period_updates`; never for 0."""
        return period_updates > 0 and self.updates % period_updates == 0

    def log(self) -> bool:
        """Write a row of metrics; return False, having said so, when the loss is no longer a number."""
        losses, norms = torch.stack(self._losses).cpu(), torch.stack(self._norms).cpu()
        if not self._is_finite():
            self.display.say(
                "error: the loss is not a finite number any more; the last good checkpoint stays. "
                "Lower --learning-rate, then start again"
            )
            return False
        now = time.monotonic()
        rate = (self.updates - self._row_updates) / max(now - self._row_began, 1e-9)
        train = len(self.data.splits["train"])
        size = min(self.config.batch_size, train)
        self._tracker.log(
            {
                "updates": self.updates,
                "epochs": round(self.updates * size / train, 3),
                "seconds": self.seconds(),
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "gradient_norm": float(norms.mean()),
                "memory_gb": round(machine.resident_memory() / 1e9, 3),
                "updates_per_second": round(rate, 2),
                "loss": float(losses.mean()),
            }
        )
        self._training_loss, self._losses, self._norms = float(losses.mean()), [], []
        if self.config.diagnostics:
            self._diagnose(float(norms[-1]))
        self._row_began, self._row_updates = now, self.updates
        self.display.update(self.updates, f"loss {float(losses.mean()):.4f}{self._last}", rate)
        return True

    def _diagnose(self, norm: float) -> None:
        """Write how each layer does with the last batch, and warn of what is out of bounds; `norm` before clipping."""
        network, (images, targets) = self.network, self._batch
        clipped = max(1.0, norm / CLIP_NORM)
        weights = network.named_parameters()
        norms = {name: clipped * float(w.grad.norm()) for name, w in weights if w.grad is not None}
        network.eval()
        with passes(self.config.precision, images.device):
            layers = health(network, self.optimizer, norms, lambda: self.task.loss(network, images, targets))
        self._tracker.log_layers(self.updates, layers)
        self.display.warn(f"update {self.updates:,}", faults(layers))

    def evaluate(self) -> None:
        """Measure on the validation split, draw some of it, and keep the weights if they are the best."""
        answers, measured = measure_split(self.network, self.task, self.data, "validation", self.config)
        told = {name: value for name, value in measured.items() if name in PERCEPTION_METRICS and name != "loss"}
        row = {"updates": self.updates, "validation_loss": measured["loss"]} | told
        if self._training_loss is not None:
            row["loss_gap"] = measured["loss"] - self._training_loss
        self._tracker.log(row)
        seen_once = self.updates * self.config.batch_size >= len(self.data.splits["train"])
        if self.config.diagnostics and seen_once and self._training_loss is not None:
            guess = self.task.guess_loss(self.config.batch_size)
            worse = worse_than_guessing(self._training_loss, measured["loss"], guess)
            self.display.warn(f"update {self.updates:,}", {"guessing": worse} if worse else {})
        score = measured[self.task.metric] * (-1 if self.task.metric in LOWER_IS_BETTER else 1)
        self._last = f"  {self.task.metric} {abs(score):.3f}"
        picture = self.folder / "pictures" / f"{self.updates}.png"
        if self._write(picture, lambda to: self._draw("validation", answers, to)):
            self._tracker.log_file("validation_picture", picture, self.updates)
        warms_up = self.config.head == "vae-gan" and self.updates <= self.config.warm_up_updates
        about = self._about() | {"validation": measured}

        def write(folder: Path) -> None:
            write_network(folder, self.network, self.config, about)

        if score > self._best and not warms_up and self._checkpoints.keep("best", write):
            self._best = score

    def test(self) -> dict[str, Any]:
        """Measure the best weights, and a blind guess, on the test split; write a picture."""
        if (best := self.folder / "best" / "weights.safetensors").exists():
            self.network.load_state_dict(load_tensors(best))
        else:
            self.display.say("warning: no evaluation's weights could be kept as the best: those of the end are tested")
        answers, measured = measure_split(self.network, self.task, self.data, "test", self.config)
        result: dict[str, Any] = {"updates": self.updates, "test": measured}
        if self.config.baselines and self.task.metric not in LOWER_IS_BETTER:
            learnt_from = torch.from_numpy(self.data.targets[self.data.splits["train"]])
            guess = self.task.majority(learnt_from).expand_as(answers).to(answers.dtype)
            result["majority"] = self.task.measure(guess, self.data.truth("test"))
        self._write(self.folder / "test.png", lambda to: self._draw("test", answers, to))
        if self.config.task == "gan":
            self._write(self.folder / "over-time.png", self._draw_over_time)
        return result

    def keep(self, result: dict[str, Any]) -> None:
        """Write the test figures to `test.json`: with it the run is at its end; else `--resume` makes them again."""
        self._write(self.folder / "test.json", lambda path: save_json(path, result))

    def save(self) -> Path | None:
        """Write a checkpoint; where that fails, warn and go on with the last good one in place."""
        if not self._may_be_kept():
            return None

        def write(folder: Path) -> None:
            tensors = optimizer_tensors(self.optimizer)
            tensors |= {"losses": torch.tensor(self._losses), "norms": torch.tensor(self._norms)}
            save_tensors(folder / "learner.safetensors", tensors)
            told = {"best": self._best, "last": self._last, "training_loss": self._training_loss}
            save_json(folder / "state.json", {"seconds": self.seconds()} | told)
            write_network(folder, self.network, self.config, self._about())

        return self._save_checkpoint(write)

    def close(self) -> None:
        """Finish writing."""
        self._tracker.close()

    def _about(self) -> dict[str, Any]:
        about = {"updates": self.updates, "wandb_id": self._wandb_id, "backbone": self.backbone_name}
        return about | self._data_is

    def _draw(self, split: str, answers: Tensor, path: Path) -> None:
        """Draw images from all over a split with the answers to them."""
        chosen = np.linspace(0, len(answers) - 1, min(PICTURES, len(answers))).astype(np.int64)
        at = self.data.splits[split][chosen]
        targets = torch.from_numpy(self.data.targets[at])
        picture = self.task.picture(self.network, self.data.images(at), answers[chosen], targets)
        Image.fromarray(picture).save(path)

    def _draw_over_time(self, path: Path) -> None:
        """Draw what was made of the same latents at evaluations from all over the run, a row for each."""
        sheets = sorted((self.folder / "pictures").glob("*.png"), key=lambda path: int(path.stem))
        chosen = [sheets[int(i)] for i in np.linspace(0, len(sheets) - 1, min(PICTURES, len(sheets)))]
        rows = []
        for sheet in chosen:
            tiles = first_row(np.asarray(Image.open(sheet)))
            rows.append(list(zip(tiles, [f"{int(sheet.stem):,} updates"] + [""] * len(tiles), strict=False)))
        Image.fromarray(contact_sheet(rows, tile=84)).save(path)

    def _load(self, checkpoint: Path) -> None:
        self.network.load_state_dict(load_tensors(checkpoint / "weights.safetensors"))
        tensors, state = load_tensors(checkpoint / "learner.safetensors"), load_json(checkpoint / "state.json")
        kept = [list(tensors.pop(name).to(self.config.device)) for name in ("losses", "norms")]
        self._losses, self._norms = kept
        load_optimizer(self.optimizer, tensors)
        self.updates = int(checkpoint.name)
        self._seconds, self._best, self._last = state["seconds"], state["best"], state["last"]
        self._training_loss = state.get("training_loss")


def passes(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which forward passes have this precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@torch.inference_mode()
def answer_split(
    network: PerceptionNetwork, task: Task, data: Dataset, split: str, config: PerceptionConfig
) -> tuple[Tensor, float]:
    """Return what a network says of each image of a split, on the CPU, and its mean loss there.

    In batches as large as training's and from all over the split, since a contrast's loss is against its batch.
    """
    network.eval()
    torch.manual_seed(0)  # what a task draws at random here is the same each time
    device = next(network.parameters()).device
    found, losses, at = [], [], data.splits[split]
    places = torch.arange(len(at))
    batches = [places[i :: -(-len(at) // config.batch_size)] for i in range(-(-len(at) // config.batch_size))]
    for batch in batches:
        images, targets = data.take(at[batch.numpy()], device)
        with passes(config.precision, device):
            losses.append(float(task.loss(network, images, targets)) * len(images))
            found.append(task.answer(network, images).cpu())
    return torch.cat(found)[torch.cat(batches).argsort()], sum(losses) / len(at)


def measure_split(
    network: PerceptionNetwork, task: Task, data: Dataset, split: str, config: PerceptionConfig
) -> tuple[Tensor, dict[str, float]]:
    """Return what a network says of each image of a split, and the metrics of that, the loss first."""
    answers, loss = answer_split(network, task, data, split, config)
    if task.metric == "loss":
        return answers, {"loss": loss}
    return answers, {"loss": loss} | task.measure(answers, data.truth(split))


def augment(images: Tensor) -> Tensor:
    """Turn, move, scale and shear each of the images uint8 (B, C, H, W) a little; float in [0, 1] comes back.

    Up to 12 degrees, an eighth of the size, 15 % and 8 degrees (drawn from torch's own generator).
    """
    from kornia.augmentation import RandomAffine

    affine = RandomAffine(degrees=12.0, translate=(0.12, 0.12), scale=(0.85, 1.15), shear=8.0, p=1.0)
    return affine(images.float() / 255)


def new_run(config: PerceptionConfig) -> PerceptionRun:
    """Set up a run from nothing, with what `auto` means here settled.

    Raises:
        ValueError: something about it cannot be meant.
    """
    config = settled(config, config.group)
    config = replace(
        config,
        data=str(Path(config.data).absolute()) if Path(config.data).exists() else config.data,
        judge=config.judge and str(Path(config.judge).absolute()),
        precision=machine.choose_precision(config.precision, config.device),
        num_threads=config.num_threads or machine.usable_cores(),
    )
    return PerceptionRun(config, new_wandb_id())


def resumed_run(args: PerceptionResumeArgs) -> PerceptionRun:
    """Set up the run in a folder as it was at its newest checkpoint.

    Raises:
        ValueError: there is no checkpoint, it is damaged, the run is finished or alive, or the device is absent.
    """
    config, wandb_id, checkpoint = resumed(args, load_config)
    told = args.resume / "test.json"
    ended = told.exists() and load_json(told)["updates"] >= int(checkpoint.name)
    refuse_finished(checkpoint, "update", args.total_updates, config.total_updates, ended)
    config = replace(config, total_updates=args.total_updates or config.total_updates)
    return PerceptionRun(config, wandb_id, checkpoint)
