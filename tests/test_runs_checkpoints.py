"""What holds for the files of every checkpoint."""

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import checkpoints
from runs.checkpoints import (
    CheckpointError,
    CheckpointWriter,
    load_tensors,
    refuse_strange_module,
    replace_weights,
    save_tensors,
)


def test_a_header_of_any_length_is_read(tmp_path: Path) -> None:
    """The file begins with its header's length, whose bytes may be those that a pickle begins with."""
    lengths = set()
    for letters in range(500, 600):
        path = tmp_path / f"{letters}.safetensors"
        save_tensors(path, {"a" * letters: torch.ones(1)})
        lengths.add(path.read_bytes()[:2])
        assert load_tensors(path)["a" * letters] == 1
    assert b"\x80\x02" in lengths


def test_whoever_may_read_other_files_may_read_weights(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    save_tensors(tmp_path / "weights", {"a": torch.ones(1)})
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_disk_that_is_full_is_told_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    said: list[str] = []
    writer = CheckpointWriter(tmp_path, 2, "step", said.append)
    small, large = ({"a": torch.zeros(size)} for size in (1, 100_000))
    assert writer.save(1, lambda to: save_tensors(to / "weights.safetensors", small)) is not None
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        assert writer.save(2, lambda to: save_tensors(to / "weights.safetensors", large)) is None
        assert not writer.keep("best", lambda to: save_tensors(to / "weights.safetensors", large))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "no checkpoint at step 2" in said[0] and "could not keep" in said[1]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()] == ["1"]


def test_a_checkpoint_is_on_disk_before_anything_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, done = CheckpointWriter(tmp_path, 2, "step", print), list[str]()
    sync, replace_text, rename = checkpoints.sync, checkpoints.replace_text, Path.rename

    def noted(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(path: Path, *rest: Any) -> Any:
            done.append(f"{what} {path.name}")
            return call(path, *rest)

        return run

    monkeypatch.setattr(checkpoints, "sync", noted("sync", sync))
    monkeypatch.setattr(checkpoints, "replace_text", noted("write", replace_text))
    monkeypatch.setattr(Path, "rename", noted("rename", rename))
    writer.save(7, lambda to: save_tensors(to / "weights.safetensors", {"a": torch.ones(1)}))
    order = ["sync weights.safetensors", "sync .7.partial", "rename .7.partial", "sync checkpoints", "write latest"]
    assert [step for step in done if step in order] == [*order, "sync checkpoints"]

    def fails(*_: Any) -> None:
        raise OSError("the machine stops here")

    monkeypatch.setattr(Path, "rename", fails)
    assert writer.save(8, lambda to: save_tensors(to / "weights.safetensors", {"a": torch.ones(1)})) is None
    assert checkpoints.find_checkpoint(tmp_path).name == "7"


def test_weights_that_were_being_replaced_come_back(tmp_path: Path) -> None:
    def write(text: str) -> None:
        def fill(to: Path) -> None:
            if text == "none":
                raise OSError("full")
            (to / "file").write_text(text)

        replace_weights(tmp_path, "best", fill)

    write("old")
    (tmp_path / "best").rename(tmp_path / ".best-old")  # as a kill leaves it
    with pytest.raises(OSError, match="full"):
        write("none")
    assert (tmp_path / "best" / "file").read_text() == "old"
    write("new")
    assert (tmp_path / "best" / "file").read_text() == "new" and not (tmp_path / ".best-old").exists()


@pytest.mark.parametrize("game", ["stranger.evil:X-v0", "evil:X-v0", "json:X-v0"])
def test_a_checkpoint_imports_nothing_that_came_with_it(
    game: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="would run the module"):
        refuse_strange_module(tmp_path, game)


def test_installed_packages_bring_games(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for game in ("pong", "CarRacing-v3", "gymnasium:CartPole-v1"):
        refuse_strange_module(tmp_path, game)
    Path("gymnasium").mkdir()
    with pytest.raises(CheckpointError, match="none of that name"):
        refuse_strange_module(tmp_path, "gymnasium:CartPole-v1")
