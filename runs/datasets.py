"""Data sets for perception: recordings of games, and pictures."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.labels.captions import captions
from envs.labels.games import LABELS
from envs.labels.reading import input_mask, screen_mask, variables
from perception.classification import UNSEEN
from perception.datasets import SPLITS, Dataset, DatasetError, sentences
from perception.gan import NEIGHBOURS
from runs.frames import EPISODES_NEEDED, labels_of, open_columns, read_card, split_of, stacks
from runs.picture_sets import open_pictures

LOW_ENTROPY_NATS = 0.3  # a variable that tells less is left out, as AtariARI does (Anand et al. 2019, section 5)
MEASURED = 1_000  # pictures of validation and test that what a gan draws is measured beside


@dataclass(frozen=True)
class _Computed:
    """Targets that are made when they are asked for."""

    make: Callable[[NDArray[np.int64]], NDArray[Any]]

    def __getitem__(self, at: NDArray[np.int64]) -> NDArray[Any]:
        return self.make(at)


def open_dataset(task: str, data: str, game: str | None, size: int, split_seed: int = 0) -> Dataset:
    """Return the data set that `data` names: a recording, a folder of pictures, `digits`, or a public name.

    Args:
        task: what it is for, which says what its targets are.
        data: a folder or a name.
        game: of a recording of several games.
        size: height and width that pictures are brought to; recordings are 84×84.
        split_seed: of a split of pictures that nobody made beforehand.

    Raises:
        ValueError: it cannot be read, or does not suit the task.
    """
    found = _open(task, data, game, size, split_seed)
    if task == "gan":
        few = {name: at[:: -(-len(at) // MEASURED)] for name, at in found.splits.items() if name != "train"}
        if min(map(len, few.values())) <= NEIGHBOURS:
            raise DatasetError(
                f"'{data}' has too few pictures to measure a gan by: validation and test need {NEIGHBOURS + 1}"
            )
        found = replace(found, splits=found.splits | few, targets=np.zeros((len(found.targets), 1), np.int64))
    return found


def _open(task: str, data: str, game: str | None, size: int, split_seed: int) -> Dataset:
    if (Path(data) / "card.json").exists():
        return _recording(task, Path(data), game)
    if game is not None:
        raise DatasetError(f"--game goes with a recording, and '{data}' is none")
    return open_pictures(task, data, size, split_seed)


def _recording(task: str, folder: Path, game: str | None) -> Dataset:
    """Return a recorded game: stacks of four frames, and its variables or masks."""
    card = read_card(folder)
    game = str(game or card["games"][0])
    if game == "all":
        if task == "classification" and len(card["games"]) < 2:
            raise DatasetError(f"'{folder}' is of {card['games'][0]} alone: to tell games apart needs more of them")
        return _several(task, [_recording("gan", folder, each) for each in card["games"]])
    if game not in card["games"]:
        raise DatasetError(f"'{folder}' has no {game}, but {', '.join(card['games'])}")
    steps = card["done"][game][0]
    if steps < card["steps"]:
        raise DatasetError(f"'{folder}' is recorded up to step {steps:,} of {game} only: run its command again first")
    columns = open_columns(folder, game, card["steps"])
    frames, episodes = columns["frames"], np.asarray(columns["episodes"])
    belongs = split_of(episodes)
    splits = {name: np.flatnonzero(belongs == name) for name in SPLITS}
    if episodes[-1] + 1 < EPISODES_NEEDED:
        raise DatasetError(
            f"'{folder}' has {episodes[-1] + 1} of the {EPISODES_NEEDED} episodes of {game} that training, validation "
            "and test need at least: record more --steps, into another --out"
        )
    labels = labels_of(card, game)
    if task == "classification":
        known = variables(labels, np.asarray(columns["memory"]))
        targets, names = _outputs({name: column.astype(np.int64) for name, column in known.items()}, splits["train"])
    elif task == "captioning":
        if not labels.phrases:
            raise DatasetError(f"there are no captions of {game}; games that have some: {', '.join(LABELS)}")
        first = np.diff(episodes, prepend=-1) > 0
        said = captions(labels.phrases, variables(labels, np.asarray(columns["memory"])), first)
        targets, names = sentences(said, splits["train"])
        names["game"] = [game]
    elif task == "contrast":
        goes_on = np.append(episodes[1:], -1) == episodes
        splits = {name: at[goes_on[at]] for name, at in splits.items()}
        targets, names = _Computed(lambda at: stacks(frames, episodes, at + 1)), {}
    elif task == "gan":
        targets, names = np.zeros((steps, 1), np.int64), {}
    else:
        pairs = zip(columns["screens"], columns["memory"], strict=True)
        targets = np.stack([input_mask(screen_mask(labels, screen, memory)) for screen, memory in pairs])
        names = {"classes": list(labels.names)}
        if task == "autoencoding":
            targets = np.stack([frames, targets], axis=1)
    return Dataset(game, 4, (84, 84), splits, lambda at: stacks(frames, episodes, at), targets, names, True)


def _several(task: str, games: list[Dataset]) -> Dataset:
    """Return the pictures of several games side by side; of a classification, with the game as their class."""
    starts = np.cumsum([0] + [len(game.targets) for game in games])

    def images(at: NDArray[np.int64]) -> NDArray[np.uint8]:
        of, result = np.searchsorted(starts, at, side="right") - 1, np.empty((len(at), 4, 84, 84), np.uint8)
        for i, game in enumerate(games):
            result[of == i] = game.images(at[of == i] - starts[i])
        return result

    splits = {
        split: np.concatenate([game.splits[split] + start for game, start in zip(games, starts, strict=False)])
        for split in SPLITS
    }
    classes = np.repeat(np.arange(len(games)), np.diff(starts))[:, None]
    known = [game.name for game in games]
    names = {"class": known} if task == "classification" else {}
    return Dataset("+".join(known), 4, (84, 84), splits, images, classes, names, recorded=True)


def _outputs(
    columns: dict[str, NDArray[np.int64]], train: NDArray[np.int64]
) -> tuple[NDArray[np.int64], dict[str, list[str]]]:
    """Number the values of each variable that training shows; leave out those that hardly ever change."""
    targets, names = [], {}
    for name, column in columns.items():
        values, counts = np.unique(column[train], return_counts=True)
        share = counts / counts.sum()
        if -(share * np.log(share)).sum() >= LOW_ENTROPY_NATS:
            place = np.searchsorted(values, column).clip(max=len(values) - 1)
            targets.append(np.where(values[place] == column, place, UNSEEN))
            names[name] = [str(value) for value in values]
    if not targets:
        raise DatasetError("no variable changes enough to be learnt: record more --steps")
    return np.stack(targets, axis=1), names
