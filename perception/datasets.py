"""What a task learns from: images with what is true of them, in three splits."""

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.captioning import UNKNOWN, encode, vocabulary
from perception.classification import UNSEEN

SPLITS = ("train", "validation", "test")
DIGEST_ITEMS = 256  # of each split, whose images are looked at


class DatasetError(ValueError):
    """A data set is missing, damaged or does not suit the task; the message says which and what to do."""


@dataclass(frozen=True)
class Dataset:
    """Images with what is true of them. `images(at)` is uint8 (B, C, H, W)."""

    name: str
    channels: int
    size: tuple[int, int]
    splits: dict[str, NDArray[np.int64]]
    """Which items belong to train, validation and test."""
    images: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
    targets: Any
    """(N, outputs) int64 of classification, UNSEEN where training never shows the value; (N, H, W) uint8 masks; (N, T)
    int64 words of captions; (N, 1 to 3, H, W) pictures of autoencoding, or frames and masks; of contrast the images a
    step later; of gan (N, 1) zeros."""
    names: dict[str, list[str]]
    """Of each output the names of its values; of masks `classes` alone; of captions `words`, and a `game`."""
    recorded: bool = False
    """Whether it is a recording of a game."""
    references: NDArray[np.int64] | None = None
    """(N, K, T): where pictures have several captions, all of an item's picture, and empty ones up to K."""
    _order: dict[tuple[int, int], NDArray[np.int64]] = field(default_factory=dict, repr=False, compare=False)

    def take(self, at: NDArray[np.int64], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Return images and targets of items on a device."""
        return torch.from_numpy(self.images(at)).to(device), torch.from_numpy(self.targets[at]).to(device)

    def batch(self, number: int, size: int, seed: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Return the images and targets of batch `number`; each pass goes through training in another order."""
        train = self.splits["train"]
        size = min(size, len(train))
        epoch, place = divmod(number, len(train) // size)
        if (order := self._order.get((seed, epoch))) is None:
            order = np.random.default_rng([seed, epoch]).permutation(train)
            self._order.clear()
            self._order[seed, epoch] = order
        return self.take(np.sort(order[place * size : (place + 1) * size]), device)

    def pixels(self) -> list[int]:
        """Return how many pixels of the training masks each class has."""
        masks, count = self.targets[self.splits["train"]], len(self.names["classes"])
        return np.bincount(masks.ravel(), minlength=count)[:count].tolist()

    def digest(self) -> int:
        """Return a number that is another one where a split has other items, or where one that is looked at differs.

        Those are `DIGEST_ITEMS` from all over each split: of a data set that is not large, all.
        """
        parts = []
        for at in self.splits.values():
            some = at[:: -(-len(at) // DIGEST_ITEMS)]
            parts += [at, self.images(some), self.targets[some]]
        return functools.reduce(lambda crc, part: zlib.crc32(np.ascontiguousarray(part).data, crc), parts, 0)

    def truth(self, split: str) -> Tensor:
        """Return the targets of a split; of captions all that a picture has, (B, K, T), where it has several."""
        told = self.targets if self.references is None else self.references
        return torch.from_numpy(told[self.splits[split]])

    def numbered_as(self, names: dict[str, list[str]]) -> "Dataset":
        """Return it with the outputs and the numbers of classes that a network was trained on.

        Raises:
            DatasetError: an output is missing, or the masks' classes are others.
        """
        if "classes" in names or not names:
            if names and self.names != names:
                raise DatasetError(f"the classes of {self.name} are not those of the checkpoint")
            return self
        if "words" in names:
            if names.get("game") != self.names.get("game"):
                raise DatasetError(f"{self.name} is not what the checkpoint's captions are about: {names.get('game')}")
            number = {word: i for i, word in enumerate(names["words"])}
            numbers = np.array([number.get(word, UNKNOWN) for word in self.names["words"]])
            references = None if self.references is None else numbers[self.references]
            return replace(self, targets=numbers[self.targets], references=references, names=names)
        if missing := [name for name in names if name not in self.names]:
            raise DatasetError(f"{self.name} does not tell {', '.join(missing)}, which the checkpoint was trained on")
        columns = []
        for name, values in names.items():
            place = {value: i for i, value in enumerate(values)}
            numbers = np.array([place.get(value, UNSEEN) for value in self.names[name]] + [UNSEEN])
            columns.append(numbers[self.targets[:, list(self.names).index(name)]])  # UNSEEN is the last one
        return replace(self, targets=np.stack(columns, axis=1), names=names)


def sentences(captions: list[str], train: NDArray[np.int64]) -> tuple[NDArray[np.int64], dict[str, list[str]]]:
    """Number the words that the training split's captions have."""
    words = vocabulary([captions[i] for i in train])
    return encode(captions, words), {"words": words}
