"""Checkpoints of any run: folders that are whole or absent, of safetensors and JSON.

    checkpoints/<count>/config.json           configuration, shapes, versions, count
                        weights.safetensors   the network: all that using it needs
                        …                     what going on needs; the run that writes it knows
    checkpoints/latest                        the name of the newest one

A checkpoint is written under another name, synced and renamed, then `latest` is replaced: whenever the machine stops,
the last good one is left. No file is a pickle, so that opening a stranger's checkpoint runs no code.
"""

import json
import os
import shutil
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from perception.backbones import BACKBONES, adapt_channels, with_prefix
from runs import machine
from runs.config import to_json

PARTIAL = ".partial"
Config = TypeVar("Config")


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another kind; the message says which and what to do."""


class CheckpointWriter:
    """Writes the checkpoints of one run, and folders with weights alone; warns of what cannot be written."""

    def __init__(self, run_folder: Path, kept: int, unit: str, say: Callable[[str], None]) -> None:
        """Write below `run_folder`; keep the newest `kept`, which are counted in `unit`s; warn through `say`."""
        self.folder = run_folder / "checkpoints"
        self._run_folder, self._kept, self._unit, self._say = run_folder, kept, unit, say
        self.previous: Path | None = None
        """The newest one; set it when a run is resumed."""

    def save(self, count: int, write: Callable[[Path], None]) -> Path | None:
        """Write the checkpoint named `count` and return its folder; `write` fills the folder that it is given.

        Where that fails, warn and return None; the last good one stays.
        """
        try:
            return self._save(count, write)
        except OSError as error:
            self._say(
                f"warning: no checkpoint at {self._unit} {count:,} ({error.strerror or error}); the last good one "
                f"stays, training goes on. Make room or give permission in {self._run_folder}"
            )
            return None

    def keep(self, name: str, write: Callable[[Path], None]) -> bool:
        """Replace the folder `name` in the run's folder, which `write` fills; return whether that could be done.

        Where it could not, warn; the old one stays.
        """
        try:
            replace_weights(self._run_folder, name, write)
        except OSError as error:
            self._say(f"warning: could not keep '{self._run_folder / name}' ({error.strerror or error})")
            return False
        return True

    def _save(self, count: int, write: Callable[[Path], None]) -> Path:
        target, partial = self.folder / str(count), self.folder / f".{count}{PARTIAL}"
        if self.previous == target:  # saved at this very count before; to displace it would risk it
            return target
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(f".*{PARTIAL}"):
            shutil.rmtree(leftover)
        try:
            partial.mkdir()
            write(partial)
            sync(partial)
            if target.exists():  # left by a stop between the two renames below, and not named by `latest`
                shutil.rmtree(target)
            partial.rename(target)
            sync(self.folder)
            replace_text(self.folder / "latest", target.name)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self.previous = target
        self._delete_old()
        return target

    def _delete_old(self) -> None:
        for old in sorted(_checkpoints_in(self.folder))[: -self._kept]:
            folder = self.folder / str(old)
            if folder != self.previous:
                gone = self.folder / f".{old}-old{PARTIAL}"
                folder.rename(gone)
                shutil.rmtree(gone)


def replace_weights(folder: Path, name: str, write: Callable[[Path], None]) -> None:
    """Replace the weights-only folder `name` in a run's folder; `write` fills the folder that it is given.

    Raises:
        OSError: it could not be written; the folder that was there stays.
    """
    partial, old, target = folder / f".{name}{PARTIAL}", folder / f".{name}-old", folder / name
    restore_weights(folder, name)
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    partial.mkdir()
    write(partial)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def restore_weights(folder: Path, name: str) -> None:
    """Put the folder `name` back in its place where `replace_weights` was killed between its two renames."""
    old, target = folder / f".{name}-old", folder / name
    if old.exists() and not target.exists():
        old.rename(target)


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint folder that `path` is, or the newest one of the run folder that it is.

    Raises:
        CheckpointError: there is none.
    """
    if (path / "weights.safetensors").exists():
        return path
    latest = path / "checkpoints" / "latest"
    if latest.exists():
        return path / "checkpoints" / latest.read_text().strip()
    if path.is_file():
        pickles = "; pickles are refused and never opened, because they run code"
        raise CheckpointError(
            f"'{path}' is a file. A checkpoint is a folder with config.json and weights.safetensors: give that"
            + pickles * (path.suffix in (".pt", ".pth", ".pkl", ".zip"))
        )
    if not path.exists():
        raise CheckpointError(f"there is nothing at '{path}'; give a checkpoint folder or a run folder")
    raise CheckpointError(f"'{path}' holds no checkpoint yet: no weights.safetensors, and no checkpoints/latest")


def newest_checkpoint(run_folder: Path) -> Path:
    """Return the newest checkpoint of the run that is to go on.

    Raises:
        CheckpointError: there is none, or the folder is a checkpoint itself.
    """
    checkpoint = find_checkpoint(run_folder)
    if checkpoint == run_folder:
        raise CheckpointError(
            f"'{run_folder}' is a checkpoint, or weights alone, and is not resumed itself: give --resume its run's "
            "folder"
        )
    return checkpoint


def read_config(
    checkpoint: Path, expected: str, parse: Callable[[dict[str, Any]], Config]
) -> tuple[Config, dict[str, Any]]:
    """Return a checkpoint's configuration, which `parse` makes, and all that its `config.json` says.

    Raises:
        CheckpointError: it is missing, damaged, not of the format `expected`, or of another version of this program.
    """
    about = load_json(checkpoint / "config.json")
    found = about.get("format")
    if found != expected:
        kinds = {
            "saccade-dqn-1": "an agent's",
            "saccade-perception-1": "a perception task's",
            "saccade-sb3-1": "an SB3 agent's",
        }
        if found in kinds:
            raise CheckpointError(f"'{checkpoint}' is {kinds[found]} checkpoint; this needs {kinds[expected]}")
        raise CheckpointError(
            f"'{checkpoint}' has the format {found!r}, this program reads {expected!r}; "
            "open it with the version that wrote it"
        )
    try:
        return parse(about["config"]), about
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"'{checkpoint}/config.json': {error}") from error


def write_about(folder: Path, format: str, config: Any, about: dict[str, Any]) -> None:
    """Write the `config.json` of a checkpoint or run: its format, versions, configuration, and what else is told."""
    plain = {"format": format, "versions": machine.versions(), "config": to_json(config)}
    save_json(folder / "config.json", plain | about)


def refuse_strange_module(checkpoint: Path, game: str) -> None:
    """Refuse a game that is named `module:Id`, as Gymnasium imports it, unless the module is an installed package's.

    Raises:
        CheckpointError: to make the game would run code that may have come with the checkpoint.
    """
    module, colon, _ = game.partition(":")
    top = module.partition(".")[0]
    if colon and (top not in packages_distributions() or Path(top).exists() or Path(f"{top}.py").exists()):
        raise CheckpointError(
            f"'{checkpoint}' plays '{game}', which would run the module {module}: if you trust it, install its package "
            "and start this in a folder that has none of that name"
        )


def format_of(path: Path) -> str | None:
    """Return the format of a checkpoint folder, or of a run folder's newest checkpoint.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    found = load_json(find_checkpoint(path) / "config.json").get("format")
    return found if isinstance(found, str) else None


def load_backbone_weights(source: str, in_channels: int) -> tuple[str, dict[str, Tensor]]:
    """Return the name and the weights, for images of `in_channels` channels, of the backbone in any checkpoint.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if not Path(source).exists():
        raise CheckpointError(f"--backbone '{source}' is neither a checkpoint nor one of {', '.join(BACKBONES)}")
    checkpoint = find_checkpoint(Path(source))
    about = load_json(checkpoint / "config.json")
    name = about.get("backbone") or about.get("config", {}).get("agent", {}).get("backbone")
    weights = load_tensors(checkpoint / "weights.safetensors")
    weights = fold_spectral_norm({key: value.float() for key, value in with_prefix(weights, "backbone.").items()})
    if not weights or not isinstance(name, str):
        raise CheckpointError(f"'{checkpoint}' has no backbone that this program knows")
    return name, adapt_channels(weights, in_channels)


def fold_spectral_norm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights as they act: what spectral normalisation divides by (Miyato et al. 2018) divided by."""
    plain = {name: value for name, value in weights.items() if ".parametrizations." not in name}
    for name, weight in weights.items():
        layer, found, _ = name.partition(".parametrizations.weight.original")
        if found:
            u, v = (weights[f"{layer}.parametrizations.weight.0.{vector}"] for vector in ("_u", "_v"))
            plain[f"{layer}.weight"] = weight / (u @ weight.flatten(1) @ v)
    return plain


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors, contiguous, and sync them to disk.

    Raises:
        OSError: it could not be written.
    """
    path.touch()
    mode = path.stat().st_mode  # safetensors leaves its files to their owner alone
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(mode)
    sync(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors.

    Raises:
        CheckpointError: the file is missing, cut short, a pickle, or no safetensors at all.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)  # of safetensors the length of a header, which may be anything, and its first brace
        if start[8:] != b"{" and start[:2] in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"):
            raise CheckpointError(f"'{path}' is a pickle under another name: refused, since opening one runs code")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"'{path}' cannot be read (missing, cut short or damaged): {error}") from error


def save_json(path: Path, value: Any) -> None:
    """Write JSON, in one stroke, and sync it to disk."""
    replace_text(path, json.dumps(value, indent=1))


def load_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' cannot be read (missing, cut short or damaged): {error}") from error


def replace_text(path: Path, text: str) -> None:
    """Write a small file, or replace it, in one stroke, and sync it to disk."""
    partial = path.with_name(f".{path.name}{PARTIAL}.txt")
    partial.write_text(text)
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def _checkpoints_in(folder: Path) -> list[int]:
    return [int(child.name) for child in folder.iterdir() if child.name.isdigit()]


def link(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system has no such links."""
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
        sync(target)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
