"""Segmentation: what each pixel shows."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from perception.backbones import Backbone, draw_weights
from perception.decoders import centred, enlarging, map_for
from perception.networks import PerceptionNetwork
from perception.pictures import Picture, beside, contact_sheet, hues, shown, with_legend

VOID = 255  # in a mask: a pixel that nobody labelled, which is neither learnt nor scored
SMALL_PIXELS = 16  # a class whose pixels in a picture are fewer, on average, is told about by itself


def enlarge(maps: Tensor, factor: int) -> Tensor:
    """Repeat each cell `factor` times in both directions."""
    return maps if factor == 1 else F.interpolate(maps, scale_factor=factor, mode="nearest")


class SkipHead(nn.Module):
    """Fully convolutional, with skips from the finest map up (Long et al. 2015; top-down as in Lin et al. 2017).

    Each map goes through a 1×1 convolution, and what is coarser is enlarged and added. The finest map's cells then say
    each of their own pixels: as many scores a cell as it has pixels, rearranged (Shi et al. 2016).
    """

    def __init__(self, backbone: Backbone, size: tuple[int, int], num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.size, self.strides = size, [stage.stride for stage in backbone.stages]
        self.laterals = nn.ModuleList(nn.Conv2d(stage.channels, width, kernel_size=1) for stage in backbone.stages)
        self.merge = nn.Conv2d(width, 2 * width, kernel_size=3, padding=1)
        self.scores = nn.Conv2d(2 * width, num_classes * self.strides[0] ** 2, kernel_size=1)
        draw_weights(self, linear_end=True)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Map a backbone's maps to logits (B, classes, H, W) of every pixel."""
        merged = self.laterals[-1](maps[-1])
        for i in range(len(maps) - 2, -1, -1):
            height, width = maps[i].shape[2:]
            coarser = centred(enlarge(merged, self.strides[i + 1] // self.strides[i]), height, width)
            merged = F.relu(coarser) + self.laterals[i](maps[i])
        scores = self.scores(F.relu(self.merge(F.relu(merged))))
        return centred(F.pixel_shuffle(scores, self.strides[0]), *self.size)


class DecoderHead(nn.Module):
    """From the coarsest map alone back to the pixels (SegNet: Badrinarayanan et al. 2017).

    SegNet's pooling indices have no place here, for not every backbone pools: transposed convolutions enlarge instead.
    """

    def __init__(self, backbone: Backbone, size: tuple[int, int], num_classes: int) -> None:
        super().__init__()
        self.size, self.map_size = size, map_for(size, backbone.stages[-1].stride)
        self.layers = enlarging(*backbone.stages[-1], num_classes)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Map a backbone's maps to logits (B, classes, H, W) of every pixel."""
        return centred(self.layers(centred(maps[-1], *self.map_size)), *self.size)


def segmentation_loss(logits: Tensor, masks: Tensor, class_weights: Tensor) -> Tensor:
    """Return the cross entropy () of pixels, each weighted by its class; weights of a batch sum to 1.

    Args:
        logits: (B, classes, H, W).
        masks: (B, H, W), classes, or VOID, which does not count.
        class_weights: (classes,).
    """
    return F.cross_entropy(logits, masks.long(), weight=class_weights, ignore_index=VOID)


def balanced_weights(pixels: Tensor) -> Tensor:
    """Return a weight for each class, (classes,), from its number of pixels (classes,): the root of median / frequency.

    The median frequency of Eigen & Fergus 2015 (section 6.3.2), but over all pictures, where theirs counts those that
    show the class; the root keeps a ball of four pixels from being painted over everything that may be one. A class
    without pixels has weight 0.
    """
    present = pixels > 0
    frequency = pixels.double() / pixels.sum()
    weights = (frequency[present].median() / frequency.clamp(min=1e-12)).sqrt()
    return torch.where(present, weights, 0).float()


def near(mask: Tensor) -> Tensor:
    """Return where a True of (B, H, W) is at most one pixel away, diagonals included."""
    return F.max_pool2d(mask[:, None].float(), kernel_size=3, stride=1, padding=1)[:, 0] > 0


class Segmentation:
    """The task: classes by name, the background first."""

    metric = "miou"  # the metric that says which checkpoint is best

    def __init__(self, names: list[str], pixels: Tensor) -> None:
        """`pixels` (classes,): how many each class has in the training split."""
        self.names = names
        self.class_weights = balanced_weights(pixels)

    def make_head(self, backbone: Backbone, size: tuple[int, int], kind: str, dropout: float) -> nn.Module:  # noqa: ARG002
        """Return a fresh head: `skips` or `decoder`."""
        return (SkipHead if kind == "skips" else DecoderHead)(backbone, size, len(self.names))

    def loss(self, network: PerceptionNetwork, images: Tensor, targets: Tensor) -> Tensor:
        """Return `segmentation_loss`."""
        logits = network(images).float()
        return segmentation_loss(logits, targets, self.class_weights.to(logits.device))

    def guess_loss(self, batch_size: int) -> float:  # noqa: ARG002
        """Return log C of C classes."""
        return math.log(len(self.names))

    def answer(self, network: PerceptionNetwork, images: Tensor) -> Tensor:
        """Return the likeliest class of each pixel, (B, H, W) uint8."""
        return network(images).argmax(dim=1).byte()

    def measure(self, answers: Tensor, targets: Tensor) -> dict[str, float]:
        """Return the mean IoU, each class's, and of small classes recall and precision within one pixel.

        IoU is taken over all pixels of all pictures together; a class that is neither there nor said does not count.
        Recall is the share of a class's pixels that have one said to be it next to them, precision the share of those
        said that have a true one.
        """
        from torchmetrics.functional.classification import multiclass_jaccard_index  # a second and a half

        known = targets != VOID
        answers = answers.where(known, VOID)
        counts = targets[known].bincount(minlength=len(self.names))
        said = answers[known].bincount(minlength=len(self.names))
        ious = multiclass_jaccard_index(answers[known], targets[known], len(self.names), average=None)
        found = {f"iou_{self.names[i]}": float(ious[i]) for i in range(len(self.names)) if counts[i] + said[i] > 0}
        result = {
            "miou": float(np.mean(list(found.values()))),
            "accuracy": float((answers == targets)[known].float().mean()),
        }
        for i in small_classes(targets, len(self.names)):
            truth, guess = targets == i, answers == i
            result[f"recall_{self.names[i]}"] = float((near(guess) & truth).sum() / counts[i])
            result[f"precision_{self.names[i]}"] = float((near(truth) & guess).sum() / said[i].clamp(min=1))
        return result | found

    def majority(self, targets: Tensor) -> Tensor:
        """Return the commonest class of each pixel's place, VOID being none, (H, W): what a blind guess says."""
        counts = torch.stack([(targets == i).sum(dim=0) for i in range(len(self.names))])
        return counts.argmax(dim=0).to(targets.dtype)

    def words(self, answer: Iterable[int]) -> str:
        """Say in words what there is, and of how many pixels."""
        pixels = np.bincount(np.asarray(answer), minlength=len(self.names))
        return ", ".join(f"{self.names[i]} {pixels[i]} px" for i in np.flatnonzero(pixels) if i) or "nothing"

    def picture(
        self,
        network: PerceptionNetwork,  # noqa: ARG002
        images: NDArray[np.uint8],
        answers: Tensor,
        targets: Tensor | None = None,
    ) -> Picture:
        """Draw images (B, C, H, W), below them what is said of each pixel and, where it is known, what is true.

        At the foot which colour is what.
        """
        colours = hues(len(self.names))
        kinds = [[(shown(image), "") for image in images], [(colours[answer], "said") for answer in answers.numpy()]]
        if targets is not None:
            colours = np.concatenate([colours, np.zeros((VOID + 1 - len(colours), 3), np.uint8)])
            kinds.append([(colours[mask], "true") for mask in targets.numpy()])
        meaning = {name: tuple(colour) for name, colour in zip(self.names, colours.tolist(), strict=False)}
        if targets is not None and (targets == VOID).any():
            meaning["not labelled"] = tuple(colours[VOID].tolist())
        return with_legend(contact_sheet(beside(*kinds)), list(meaning.items()))


def small_classes(masks: Tensor, count: int) -> list[int]:
    """Return which of `count` classes have fewer than SMALL_PIXELS in a mask (B, H, W) that shows them, on average."""
    pixels = masks.flatten().bincount(minlength=count)  # VOID lies beyond them
    pictures = [int((masks == value).flatten(1).any(dim=1).sum()) for value in range(count)]
    return [value for value in range(1, count) if 0 < pixels[value] < SMALL_PIXELS * pictures[value]]
