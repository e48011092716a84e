"""Data sets for perception: recordings of games, folders of pictures, digits, and data sets by their public names."""

import importlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from envs.labels.captions import captions
from envs.labels.games import LABELS
from envs.labels.reading import input_mask, screen_mask, variables
from perception.captioning import UNKNOWN, encode, vocabulary
from perception.classification import UNSEEN
from perception.gan import NEIGHBOURS
from runs.frames import labels_of, open_columns, read_card, split_of, stacks

LOW_ENTROPY_NATS = 0.3  # a variable that tells less is left out, as AtariARI does (Anand et al. 2019, section 5)
PICTURE_KINDS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".tif", ".tiff"}
SPLITS = ("train", "validation", "test")
OWN_DATA = {
    "segmentation": "images/ and masks/",
    "captioning": "pictures and captions.json (COCO's) or captions.jsonl (file and text a line)",
}
MEASURED = 1_000  # pictures of validation and test that what a gan draws is measured beside
NEEDS = {task: f"a recording, or a folder with {own}" for task, own in OWN_DATA.items()} | {"contrast": "a recording"}


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
    step later."""
    names: dict[str, list[str]]
    """Of each output the names of its values; of masks `classes` alone; of captions `words`, and a `game`."""
    recorded: bool = False
    """Whether it is a recording of a game."""

    def take(self, at: NDArray[np.int64], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Return images and targets of items on a device."""
        return torch.from_numpy(self.images(at)).to(device), torch.from_numpy(self.targets[at]).to(device)

    def batch(self, number: int, size: int, seed: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Return the images and targets of batch `number`; each pass goes through training in another order."""
        train = self.splits["train"]
        size = min(size, len(train))
        epoch, place = divmod(number, len(train) // size)
        order = np.random.default_rng([seed, epoch]).permutation(train)
        return self.take(np.sort(order[place * size : (place + 1) * size]), device)

    def pixels(self) -> list[int]:
        """Return how many pixels of the training masks each class has."""
        masks = self.targets[self.splits["train"]]
        return np.bincount(masks.ravel(), minlength=len(self.names["classes"])).tolist()

    def truth(self, split: str) -> Tensor:
        """Return the targets of a split."""
        return torch.from_numpy(self.targets[self.splits[split]])

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
            return replace(self, targets=numbers[self.targets], names=names)
        if missing := [name for name in names if name not in self.names]:
            raise DatasetError(f"{self.name} does not tell {', '.join(missing)}, which the checkpoint was trained on")
        columns = []
        for name, values in names.items():
            place = {value: i for i, value in enumerate(values)}
            numbers = np.array([place.get(value, UNSEEN) for value in self.names[name]] + [UNSEEN])
            columns.append(numbers[self.targets[:, list(self.names).index(name)]])  # UNSEEN is the last one
        return replace(self, targets=np.stack(columns, axis=1), names=names)


@dataclass(frozen=True)
class _Computed:
    """Targets that are made when they are asked for."""

    make: Callable[[NDArray[np.int64]], NDArray[Any]]

    def __getitem__(self, at: NDArray[np.int64]) -> NDArray[Any]:
        return self.make(at)


class DatasetError(ValueError):
    """A data set is missing, damaged or does not suit the task; the message says which and what to do."""


def open_dataset(task: str, data: str, game: str | None, size: int, seed: int) -> Dataset:
    """Return the data set that `data` names: a recording, a folder of pictures, `digits`, or a public name.

    Args:
        task: what it is for, which says what its targets are.
        data: a folder or a name.
        game: of a recording of several games.
        size: height and width that pictures are brought to; recordings are 84×84.
        seed: of a split that nobody made beforehand.

    Raises:
        ValueError: it cannot be read, or does not suit the task.
    """
    found = _open(task, data, game, size, seed)
    if task == "gan":
        few = {name: at[:: -(-len(at) // MEASURED)] for name, at in found.splits.items() if name != "train"}
        if min(map(len, few.values())) <= NEIGHBOURS:
            raise DatasetError(
                f"'{data}' has too few pictures to measure a gan by: validation and test need {NEIGHBOURS + 1}"
            )
        found = replace(found, splits=found.splits | few, targets=np.zeros((len(found.targets), 1), np.int64))
    return found


def _open(task: str, data: str, game: str | None, size: int, seed: int) -> Dataset:
    folder = Path(data)
    if (folder / "card.json").exists():
        return _recording(task, folder, game)
    if game is not None:
        raise DatasetError(f"--game goes with a recording, and '{data}' is none")
    if task in ("segmentation", "captioning", "contrast") and not (folder.is_dir() and task in OWN_DATA):
        raise DatasetError(
            f"'{data}' is no {'folder' if task in OWN_DATA else 'recording'}: {task} takes {NEEDS[task]}"
        )
    if folder.is_dir():
        readers = {
            "classification": _class_folder,
            "segmentation": _mask_folder,
            "captioning": _caption_folder,
            "autoencoding": _picture_folder,
            "gan": _picture_folder,
        }
        return readers[task](folder, size, seed)
    labelled = task == "classification"
    pictures = _digits(size, seed) if data == "digits" else _public(data, size, seed, labelled)
    return pictures if labelled else _themselves(pictures)


def _recording(task: str, folder: Path, game: str | None) -> Dataset:
    """Return a recorded game: stacks of four frames, and its variables or masks."""
    card = read_card(folder)
    game = str(game or card["games"][0])
    if game == "all":
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
    if missing := [name for name in SPLITS if len(splits[name]) == 0]:
        raise DatasetError(f"'{folder}' has no whole episode of {game} for {missing[0]}: record more --steps")
    labels = labels_of(card, game)
    if task == "classification":
        known = variables(labels, np.asarray(columns["memory"]))
        targets, names = _outputs({name: column.astype(np.int64) for name, column in known.items()}, splits["train"])
    elif task == "captioning":
        if not labels.phrases:
            raise DatasetError(f"there are no captions of {game}; games that have some: {', '.join(LABELS)}")
        first = np.diff(episodes, prepend=-1) > 0
        said = captions(labels.phrases, variables(labels, np.asarray(columns["memory"])), first)
        targets, names = _sentences(said, splits["train"])
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


def _sentences(captions: list[str], train: NDArray[np.int64]) -> tuple[NDArray[np.int64], dict[str, list[str]]]:
    """Number the words that the training split's captions have."""
    words = vocabulary([captions[i] for i in train])
    return encode(captions, words), {"words": words}


def _digits(size: int, seed: int) -> Dataset:
    """Return scikit-learn's 1,797 handwritten digits, 8×8 enlarged to `size`."""
    import cv2
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    small = (np.asarray(pixels).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC) for image in small])[:, None]
    return _pictures("digits", images, np.asarray(classes), [str(i) for i in range(10)], None, seed)


def _pictures(
    name: str,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64],
    names: list[str],
    belongs: NDArray[np.str_] | None,
    seed: int,
) -> Dataset:
    """Return pictures (N, C, H, W) in memory, split as `belongs` says or, class by class, 7 : 1 : 2."""
    if belongs is None:
        belongs = np.full(len(images), "train     ")
        for value in range(len(names)):
            members = np.random.default_rng([seed, value]).permutation(np.flatnonzero(classes == value))
            belongs[members[: round(0.2 * len(members))]] = "test"
            belongs[members[round(0.2 * len(members)) : round(0.3 * len(members))]] = "validation"
        belongs = np.char.strip(belongs)
    splits = {split: np.flatnonzero(belongs == split) for split in SPLITS}
    if missing := [split for split in SPLITS if len(splits[split]) == 0]:
        raise DatasetError(f"'{name}' has no pictures for {missing[0]}: there are only {len(images)}")
    channels, height, width = images.shape[1:]
    targets = classes.astype(np.int64)[:, None]
    return Dataset(name, channels, (height, width), splits, lambda at: images[at], targets, {"class": names})


def read_picture(source: Any, size: int, grey: bool = False) -> NDArray[np.uint8]:
    """Return a picture (3, size, size), or (1, size, size) in grey.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        picture = source if isinstance(source, Image.Image) else Image.open(source)
        picture = picture.convert("L" if grey else "RGB").resize((size, size), Image.Resampling.BILINEAR)
    except (OSError, UnidentifiedImageError) as error:
        raise DatasetError(f"'{source}' cannot be read as a picture: {error}") from error
    pixels = np.asarray(picture)
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _class_folder(folder: Path, size: int, seed: int) -> Dataset:
    """Return pictures in a folder per class; or in such folders below train/, test/ and perhaps validation/."""
    parts = {child.name: child for child in folder.iterdir() if child.is_dir()}
    made = "train" in parts and "test" in parts
    roots = {split: parts[split] for split in SPLITS if split in parts} if made else {"": folder}
    files = [
        (split, file.parent.name, file)
        for split, root in roots.items()
        for file in sorted(root.glob("*/*"))
        if file.suffix.lower() in PICTURE_KINDS
    ]
    names = sorted({name for _, name, _ in files})
    if len(names) < 2:
        raise DatasetError(f"'{folder}' needs a folder of pictures for each of at least two classes")
    images = np.stack([read_picture(file, size) for _, _, file in files])
    classes = np.array([names.index(name) for _, name, _ in files])
    belongs = np.array([split for split, _, _ in files])
    return _pictures(folder.name, images, classes, names, _with_validation(belongs, seed) if made else None, seed)


def _picture_folder(folder: Path, size: int, seed: int) -> Dataset:
    """Return all pictures in a folder and in those below it, split as train/ and test/ say if they are there."""
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return _themselves(_class_folder(folder, size, seed))
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURE_KINDS)
    splits = _drawn_splits(len(files), folder, seed)
    images = np.stack([read_picture(file, size) for file in files])
    return Dataset(folder.name, 3, (size, size), splits, lambda at: images[at], images, {})


def _themselves(data: Dataset) -> Dataset:
    """Return pictures whose targets they are themselves."""
    return replace(data, targets=data.images(np.arange(len(data.targets))), names={})


def _with_validation(belongs: NDArray[np.str_], seed: int) -> NDArray[np.str_]:
    """Set a tenth of the training split apart for validation, unless somebody has."""
    if "validation" in belongs:
        return belongs
    train = np.random.default_rng(seed).permutation(np.flatnonzero(belongs == "train"))
    belongs = belongs.astype("<U10")
    belongs[train[: max(1, len(train) // 10)]] = "validation"
    return belongs


def _mask_folder(folder: Path, size: int, seed: int) -> Dataset:
    """Return images/ with masks/ of the same names, whose pixels are class numbers; names may stand in classes.json."""
    files = sorted(f for f in (folder / "images").glob("*") if f.suffix.lower() in PICTURE_KINDS)
    if not files:
        raise DatasetError(f"'{folder}' needs pictures in images/ and, under the same names, masks/ of class numbers")
    masks = []
    for file in files:
        found = [folder / "masks" / f"{file.stem}{kind}" for kind in (file.suffix, ".png")]
        mask = next((path for path in found if path.exists()), None)
        if mask is None:
            raise DatasetError(f"'{file}' has no mask: '{found[-1]}' is missing")
        try:
            picture = Image.open(mask).resize((size, size), Image.Resampling.NEAREST)
        except (OSError, UnidentifiedImageError) as error:
            raise DatasetError(f"'{mask}' cannot be read as a picture: {error}") from error
        if picture.mode not in ("L", "P", "1"):
            raise DatasetError(f"'{mask}' is {picture.mode}: a mask has one channel, of class numbers")
        masks.append(np.asarray(picture).astype(np.uint8))
    targets = np.stack(masks)
    count = int(targets.max()) + 1
    names = [f"class {i}" for i in range(count)]
    if (folder / "classes.json").exists():
        names = list(json.loads((folder / "classes.json").read_text()))
        if len(names) < count:
            raise DatasetError(f"'{folder / 'classes.json'}' names {len(names)} classes, the masks have {count}")
    images = np.stack([read_picture(file, size) for file in files])
    splits = _drawn_splits(len(files), folder, seed)
    return Dataset(folder.name, 3, (size, size), splits, lambda at: images[at], targets, {"classes": names})


def _drawn_splits(count: int, folder: Path, seed: int) -> dict[str, NDArray[np.int64]]:
    """Draw which of a folder's pictures belong to each split, 7 : 1 : 2."""
    order = np.random.default_rng(seed).permutation(count)
    parts = np.split(order, [round(0.7 * count), round(0.8 * count)])
    if min(map(len, parts)) == 0:
        raise DatasetError(f"'{folder}' has {count} pictures: too few for training, validation and test")
    return {name: np.sort(part) for name, part in zip(SPLITS, parts, strict=True)}


def _caption_folder(folder: Path, size: int, seed: int) -> Dataset:
    """Return pictures with captions, from captions.json as COCO has it or captions.jsonl; one may have several."""
    try:
        if (folder / "captions.json").exists():
            coco = json.loads((folder / "captions.json").read_text())
            files = {image["id"]: image["file_name"] for image in coco["images"]}
            pairs = [(files[entry["image_id"]], entry["caption"]) for entry in coco["annotations"]]
        else:
            lines = (folder / "captions.jsonl").read_text().splitlines()
            pairs = [(entry["file"], entry["text"]) for entry in map(json.loads, lines)]
        if not all(isinstance(part, str) for pair in pairs for part in pair):
            raise TypeError("file names and captions must be text")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"'{folder}' needs {OWN_DATA['captioning']}: {error!r}") from error
    names, of = np.unique([file for file, _ in pairs], return_inverse=True)
    parts = _drawn_splits(len(names), folder, seed)
    pictures = np.stack([read_picture(folder / file, size) for file in names.tolist()])
    splits = {name: np.flatnonzero(np.isin(of, part)) for name, part in parts.items()}
    targets, words = _sentences([caption for _, caption in pairs], splits["train"])
    return Dataset(folder.name, 3, (size, size), splits, lambda at: pictures[of[at]], targets, words)


def _public(name: str, size: int, seed: int, labelled: bool) -> Dataset:
    """Return a Hugging Face data set, by its name or as a parquet file; all of one class if not `labelled`."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise DatasetError(
            f"'{name}' is no folder here; data sets by name need the extra: pip install 'saccade[datasets]'"
        ) from error
    try:
        loaded = datasets.load_dataset("parquet", data_files=name) if name.endswith(".parquet") else None
        loaded = loaded or datasets.load_dataset(name)
    except Exception as error:  # whatever a library that reads a hundred formats over the network raises
        raise DatasetError(f"the data set '{name}' cannot be loaded: {str(error).splitlines()[0]}") from error
    items = [(split, row) for split in ("train", "validation", "test") if split in loaded for row in loaded[split]]
    first = items[0][1]
    picture = next((key for key, value in first.items() if isinstance(value, Image.Image)), None)
    label = next((key for key in ("label", "labels", "fine_label", "class") if key in first), None)
    if picture is None or (label is None and labelled):
        raise DatasetError(f"'{name}' has no pictures with labels; its columns are {', '.join(first)}")
    if not labelled:
        label, items = "class", [(split, {picture: row[picture], "class": "picture"}) for split, row in items]
    feature = loaded["train"].features.get(label)
    found = Counter(row[label] for _, row in items)
    names = list(feature.names) if hasattr(feature, "names") else [str(value) for value in sorted(found)]
    grey = first[picture].mode == "L"
    images = np.stack([read_picture(row[picture], size, grey) for _, row in items])
    values = {value: i for i, value in enumerate(sorted(found))}
    classes = np.array([row[label] if hasattr(feature, "names") else values[row[label]] for _, row in items])
    belongs = np.array([split for split, _ in items])
    made = "test" in belongs
    return _pictures(name, images, classes, names, _with_validation(belongs, seed) if made else None, seed)
