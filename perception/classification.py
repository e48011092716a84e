"""Classification: the value of each output. Labelled pictures have one, a game's variables several."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from perception.backbones import Backbone, draw_weights
from perception.networks import PerceptionNetwork
from perception.pictures import Picture, beside, contact_sheet, shown

UNSEEN = -1  # a value that training never showed: no class stands for it


class ClassificationHead(nn.Module):
    """Scores of every value of every output, side by side, from the coarsest map.

    Linear on the map as it is (a probe, as in Alain & Bengio 2017), or with a hidden layer between, whose input and
    units are dropped out at random in training (Srivastava et al. 2014).
    """

    def __init__(
        self, backbone: Backbone, size: tuple[int, int], class_counts: Sequence[int], hidden_units: int, dropout: float
    ) -> None:
        """`hidden_units` of 0 is a linear head; `size` is (H, W) of the images."""
        super().__init__()
        height, width = backbone.map_size(*size)
        features = backbone.stages[-1].channels * height * width
        layers: list[nn.Module] = [nn.Flatten()]
        if hidden_units:
            layers += [nn.Dropout(dropout), nn.Linear(features, hidden_units), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden_units or features, sum(class_counts)))
        draw_weights(self, linear_end=True)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Map a backbone's maps to logits (B, all outputs' classes)."""
        return self.layers(maps[-1])


def spread_labels(values: Sequence[float], spread: float) -> Tensor:
    """Return what is learnt in place of each value (V,): its row of (V, V), a bell over the values around it.

    Soft labels for numbers, with the squared distance (Díaz & Marathe 2019, equation 3): p(j | i) ∝
    exp(-(v_i - v_j)² / 2 spread²).
    """
    place = torch.tensor(values, dtype=torch.float64)
    return torch.softmax(-0.5 * ((place[:, None] - place[None]) / spread) ** 2, dim=1).float()


def classification_loss(logits: Tensor, targets: Tensor, labels: Sequence[Tensor]) -> Tensor:
    """Return the cross entropy (), a mean over the outputs and over the samples whose value is known.

    Args:
        logits: (B, all outputs' values).
        targets: (B, outputs) int64, the number of each output's value, or UNSEEN.
        labels: of each output (values, values), the probabilities to be learnt in place of each value.
    """
    losses = []
    for part, target, label in zip(logits.split([len(x) for x in labels], dim=1), targets.T, labels, strict=True):
        known = target != UNSEEN
        if known.any():
            losses.append(F.cross_entropy(part[known], label[target[known]]))
    return torch.stack(losses).mean() if losses else logits.sum() * 0


class Classification:
    """The task: outputs by name, each with the names of its values."""

    metric = "f1_weighted"  # the metric that says which checkpoint is best

    def __init__(self, outputs: dict[str, list[str]], spread: float = 0.0) -> None:
        """With a `spread` above 0 the values are numbers, and those near the true one are learnt with it."""
        self.outputs = outputs
        self.class_counts = [len(values) for values in outputs.values()]
        self._labels = [
            spread_labels([float(value) for value in values], spread) if spread else torch.eye(len(values))
            for values in outputs.values()
        ]

    def make_head(self, backbone: Backbone, size: tuple[int, int], kind: str, dropout: float) -> nn.Module:
        """Return a fresh head: `mlp` with 512 units between, or `linear`."""
        return ClassificationHead(backbone, size, self.class_counts, 512 if kind == "mlp" else 0, dropout)

    def loss(self, network: PerceptionNetwork, images: Tensor, targets: Tensor) -> Tensor:
        """Return `classification_loss`."""
        logits = network(images).float()
        return classification_loss(logits, targets, [label.to(logits.device) for label in self._labels])

    def guess_loss(self, batch_size: int) -> float:  # noqa: ARG002
        """Return the mean over outputs of log C, C values each."""
        return float(np.log(self.class_counts).mean())

    def answer(self, network: PerceptionNetwork, images: Tensor) -> Tensor:
        """Return the likeliest value of each output, (B, outputs) int64."""
        return torch.stack([part.argmax(dim=1) for part in network(images).split(self.class_counts, dim=1)], dim=1)

    def measure(self, answers: Tensor, targets: Tensor) -> dict[str, float]:
        """Return means over the outputs of accuracy and of F1, weighted by class size and macro; and each output's.

        A value that training never showed counts as a class of its own that is never hit. F1 is taken as in AtariARI
        (Anand et al. 2019, section 5).
        """
        from torchmetrics.functional.classification import multiclass_f1_score  # a second and a half

        rows: dict[str, list[float]] = {"accuracy": [], "f1_weighted": [], "f1_macro": []}
        for count, answer, target in zip(self.class_counts, answers.T, targets.T, strict=True):
            known = torch.where(target == UNSEEN, count, target)
            rows["accuracy"].append(float((answer == target).float().mean()))
            for average in ("weighted", "macro"):
                score = multiclass_f1_score(answer, known, count + 1, average=average)  # type: ignore[arg-type]
                rows[f"f1_{average}"].append(float(score))
        means = {name: float(np.mean(values)) for name, values in rows.items()}
        if len(self.outputs) == 1:
            return means
        return means | {f"f1_{name}": value for name, value in zip(self.outputs, rows["f1_weighted"], strict=True)}

    def majority(self, targets: Tensor) -> Tensor:
        """Return the commonest value of each output, (outputs,) int64: what a blind guess says."""
        known = [column[column != UNSEEN] for column in targets.T]
        return torch.stack([column.bincount().argmax() for column in known])

    def words(self, answer: Sequence[int]) -> str:
        """Say one picture's values in words."""
        named = zip(self.outputs.items(), answer, strict=True)
        words = [f"{name} {values[value] if value >= 0 else 'unseen'}" for (name, values), value in named]
        return ", ".join(words)

    def picture(
        self,
        network: PerceptionNetwork,  # noqa: ARG002
        images: NDArray[np.uint8],
        answers: Tensor,
        targets: Tensor | None = None,
    ) -> Picture:
        """Draw images (B, C, H, W) with what is said of each and, where it differs, what is true."""
        tiles = []
        for number, (image, answer) in enumerate(zip(images, answers.tolist(), strict=True)):
            words = self.words(answer)
            if targets is not None and (truth := targets[number].tolist()) != answer:
                words += f" (truly {self.words(truth)})"
            tiles.append((shown(image), words))
        return contact_sheet(beside(tiles, columns=8))
