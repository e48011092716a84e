"""Data sets of pictures: folders of one's own, digits, and data sets by their public names."""

import importlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perception.captioning import PAD
from perception.datasets import SPLITS, Dataset, DatasetError, sentences
from perception.segmentation import VOID
from runs.commands import first_line

CALLED = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
PICTURE_KINDS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".tif", ".tiff"}


FOLDERS = {
    "segmentation": "images/ and masks/",
    "captioning": "pictures and captions.json (COCO's) or captions.jsonl (file and text a line)",
}
"""What a folder holds for the tasks that need more than pictures."""


def open_pictures(task: str, data: str, size: int, seed: int) -> Dataset:
    """Return the pictures, brought to `size`, that a folder's path, `digits` or a public name means.

    Raises:
        DatasetError: they cannot be read, or do not suit the task.
    """
    folder = Path(data)
    if task == "contrast":
        raise DatasetError(f"'{data}' is no recording: contrast takes a recording")
    if task in FOLDERS and not folder.is_dir():
        raise DatasetError(f"'{data}' is no folder: {task} takes a recording, or a folder with {FOLDERS[task]}")
    if folder.is_dir():
        readers = {"classification": _class_folder, "segmentation": _mask_folder, "captioning": _caption_folder}
        return readers.get(task, _picture_folder)(folder, size, seed)
    labelled = task == "classification"
    pictures = _digits(size, seed) if data == "digits" else _public(data, size, seed, labelled)
    return pictures if labelled else _themselves(pictures)


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
        belongs = _split_by_class(classes, seed)
    splits = _splits_of(belongs, name)
    channels, height, width = images.shape[1:]
    targets = classes.astype(np.int64)[:, None]
    return Dataset(name, channels, (height, width), splits, lambda at: images[at], targets, {"class": names})


def _split_by_class(classes: NDArray[np.int64], seed: int) -> NDArray[np.str_]:
    """Return which split each picture belongs to, drawn class by class, 7 : 1 : 2."""
    belongs = np.full(len(classes), "train", "<U10")
    for value in np.unique(classes).tolist():
        members = np.random.default_rng([seed, value]).permutation(np.flatnonzero(classes == value))
        belongs[members[: round(0.2 * len(members))]] = "test"
        belongs[members[round(0.2 * len(members)) : round(0.3 * len(members))]] = "validation"
    return belongs


def _splits_of(belongs: NDArray[np.str_], name: str) -> dict[str, NDArray[np.int64]]:
    """Return the places of each split's pictures; raise DatasetError where one has none."""
    splits = {split: np.flatnonzero(belongs == split) for split in SPLITS}
    if missing := [split for split in SPLITS if len(splits[split]) == 0]:
        raise DatasetError(f"'{name}' has no pictures for {missing[0]}: there are only {len(belongs)}")
    return splits


def read_picture(source: Any, size: int, grey: bool = False) -> NDArray[np.uint8]:
    """Return a picture (3, size, size), or (1, size, size) in grey.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        picture = in_eight_bits(source if isinstance(source, Image.Image) else Image.open(source))
        picture = picture.convert("L" if grey else "RGB").resize((size, size), Image.Resampling.BILINEAR)
    except (OSError, Image.DecompressionBombError) as error:
        raise DatasetError(f"'{source}' cannot be read as a picture: {error}") from error
    pixels = np.asarray(picture)
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def in_eight_bits(picture: Image.Image) -> Image.Image:
    """Return a picture of 8 bits a channel; Pillow's own conversion cuts 16 bits off at 255.

    Raises:
        OSError: its numbers have 32 bits, and nobody says what white is.
    """
    if picture.mode in ("I", "F"):
        raise OSError(f"it has 32 bits a pixel (mode {picture.mode}): save it with 8 or 16")
    if not picture.mode.startswith("I;16"):
        return picture
    return Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))


def _class_folder(folder: Path, size: int, seed: int) -> Dataset:
    """Return pictures in a folder per class; or in such folders below those of `_made_splits`."""
    made = _made_splits([child.name for child in folder.iterdir() if child.is_dir()])
    roots = {split: folder / name for split, name in made.items()} or {"": folder}
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
    """Return all pictures in a folder and in those below it, split as `_made_splits` are if they are there.

    Else each folder is split by itself, so that pictures which `_class_folder` reads too are in the same split there;
    all together where the folders are too small for that.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURE_KINDS)
    if made := _made_splits([child.name for child in folder.iterdir() if child.is_dir()]):
        split_of = {name: split for split, name in made.items()}
        files = [file for file in files if file.relative_to(folder).parts[0] in split_of]
        belongs = np.array([split_of[file.relative_to(folder).parts[0]] for file in files], "<U10")
        belongs = _with_validation(belongs, seed)
    else:
        within = [file.relative_to(folder).parent for file in files]
        folders = sorted(set(within), key=lambda path: (len(path.parts) != 1, path))
        belongs = _split_by_class(np.array([folders.index(path) for path in within], np.int64), seed)
    small = not made and not set(SPLITS) <= set(belongs.tolist())
    splits = _drawn_splits(len(files), folder, seed) if small else _splits_of(belongs, folder.name)
    images = np.stack([read_picture(file, size) for file in files])
    return Dataset(folder.name, 3, (size, size), splits, lambda at: images[at], images, {})


def _themselves(data: Dataset) -> Dataset:
    """Return pictures whose targets they are themselves."""
    return replace(data, targets=data.images(np.arange(len(data.targets))), names={})


def _made_splits(names: Sequence[str]) -> dict[str, str]:
    """Return which of `names` is which split, where somebody has made a training split and one to test on, else {}.

    Validation may be called val or valid. Where there is no test split, validation is that.
    """
    found = {split: name for split, called in CALLED.items() for name in called if name in names}
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    return found if {"train", "test"} <= set(found) else {}


def _with_validation(belongs: NDArray[np.str_], seed: int) -> NDArray[np.str_]:
    """Set a tenth of the training split apart for validation, unless somebody has."""
    if "validation" in belongs:
        return belongs
    train = np.random.default_rng(seed).permutation(np.flatnonzero(belongs == "train"))
    belongs = belongs.astype("<U10")
    belongs[train[: max(1, len(train) // 10)]] = "validation"
    return belongs


def _mask_folder(folder: Path, size: int, seed: int) -> Dataset:
    """Return images/ with masks/ of the same names, whose pixels are class numbers; names may stand in classes.json.

    255 is no class but what nobody labelled, as in VOC and Cityscapes; of masks in black and white it is class 1.
    """
    files = sorted(f for f in (folder / "images").glob("*") if f.suffix.lower() in PICTURE_KINDS)
    if not files:
        raise DatasetError(f"'{folder}' needs pictures in images/ and, under the same names, masks/ of class numbers")
    masks = []
    for file in files:
        found = [folder / "masks" / f"{file.stem}{kind}" for kind in (".png", file.suffix)]
        mask = next((path for path in found if path.exists()), None)
        if mask is None:
            raise DatasetError(f"'{file}' has no mask: '{found[0]}' is missing")
        if mask.suffix.lower() in (".jpg", ".jpeg"):
            raise DatasetError(f"'{mask}' is a JPEG, which changes class numbers: save masks as PNG")
        try:
            picture = Image.open(mask).resize((size, size), Image.Resampling.NEAREST)
        except (OSError, Image.DecompressionBombError) as error:
            raise DatasetError(f"'{mask}' cannot be read as a picture: {error}") from error
        if picture.mode not in ("L", "P", "1"):
            raise DatasetError(f"'{mask}' is {picture.mode}: a mask has one channel, of class numbers")
        masks.append(np.asarray(picture).astype(np.uint8))
    targets = np.stack(masks)
    if set(np.unique(targets)) == {0, VOID}:  # black and white
        targets //= VOID
    count = int(targets[targets != VOID].max(initial=0)) + 1
    names = [f"class {i}" for i in range(count)]
    if (folder / "classes.json").exists():
        try:
            names = json.loads((folder / "classes.json").read_text())
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise TypeError('it must be as ["sky", "sea"]')
        except (ValueError, TypeError) as error:
            raise DatasetError(f"'{folder / 'classes.json'}' cannot be read as a list of names: {error}") from error
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
        raise DatasetError(f"'{folder}' needs {FOLDERS['captioning']}: {error!r}") from error
    names, of = np.unique([file for file, _ in pairs], return_inverse=True)
    parts = _drawn_splits(len(names), folder, seed)
    pictures = np.stack([read_picture(folder / file, size) for file in names.tolist()])
    splits = {name: np.flatnonzero(np.isin(of, part)) for name, part in parts.items()}
    targets, words = sentences([caption for _, caption in pairs], splits["train"])
    # Learnt from caption by caption; measured picture by picture, against all that it has.
    first = np.unique(of, return_index=True)[1]
    references = np.full((len(of), np.bincount(of).max(), targets.shape[1]), PAD, np.int64)
    for item, picture in enumerate(of):
        every = targets[of == picture]
        references[item, : len(every)] = every
    splits |= {name: np.intersect1d(splits[name], first) for name in ("validation", "test")}
    data = Dataset(folder.name, 3, (size, size), splits, lambda at: pictures[of[at]], targets, words)
    return replace(data, references=references)


def _public(name: str, size: int, seed: int, labelled: bool) -> Dataset:
    """Return a Hugging Face data set, by its name or as a parquet file; `labelled`, one that has labels."""
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
        raise DatasetError(f"the data set '{name}' cannot be loaded: {first_line(error)}") from error
    if "train" not in loaded:
        raise DatasetError(f"the data set '{name}' has no split called train, but {', '.join(loaded)}")
    first = loaded["train"][0]
    picture = next((key for key, value in first.items() if isinstance(value, Image.Image)), None)
    known_as = ("label", "labels", "fine_label", "class")
    label = next((key for key in known_as if isinstance(first.get(key), int | str)), None)
    if picture is None or (label is None and labelled):
        raise DatasetError(f"'{name}' has no pictures with labels; its columns are {', '.join(first)}")
    # Some test splits are published without labels, which are -1 there.
    labels = {split: [0] if label is None else loaded[split][label] for split in loaded}
    made = _made_splits([split for split in loaded if set(labels[split]) != {-1}])
    items = [(split, row) for split, called in (made or {"train": "train"}).items() for row in loaded[called]]
    if label is None:
        label, items = "class", [(split, {picture: row[picture], "class": "picture"}) for split, row in items]
    found = Counter(row[label] for _, row in items)
    named = getattr(loaded["train"].features.get(label), "names", None)
    names = list(named or [str(value) for value in sorted(found)])
    grey = first[picture].mode == "L"
    images = np.stack([read_picture(row[picture], size, grey) for _, row in items])
    values = {value: i for i, value in enumerate(sorted(found))}
    classes = np.array([row[label] if named else values[row[label]] for _, row in items])
    if (classes < 0).any():
        if labelled:
            raise DatasetError(f"'{name}' has pictures without a label among those with one")
        classes[classes < 0] = len(names)
    belongs = np.array([split for split, _ in items])
    return _pictures(name, images, classes, names, _with_validation(belongs, seed) if made else None, seed)
