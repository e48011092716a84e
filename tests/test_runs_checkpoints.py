"""What holds for the files of every checkpoint."""

from pathlib import Path

import torch

from runs.checkpoints import load_tensors, save_tensors


def test_a_header_of_any_length_is_read(tmp_path: Path) -> None:
    """The file begins with its header's length, whose bytes may be those that a pickle begins with."""
    lengths = set()
    for letters in range(500, 600):
        path = tmp_path / f"{letters}.safetensors"
        save_tensors(path, {"a" * letters: torch.ones(1)})
        lengths.add(path.read_bytes()[:2])
        assert load_tensors(path)["a" * letters] == 1
    assert b"\x80\x02" in lengths
