"""What a task learns from comes batch by batch."""

import numpy as np
import pytest
import torch

from perception.datasets import SPLITS, Dataset


def numbered(count: int) -> Dataset:
    """Return pictures of one pixel, which is their number; seven of ten are learnt from."""
    order = np.random.default_rng(0).permutation(count)
    parts = np.split(order, [7 * count // 10, 8 * count // 10])
    splits = {name: np.sort(part) for name, part in zip(SPLITS, parts, strict=True)}
    pixels = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Dataset("numbers", 1, (1, 1), splits, lambda at: pixels[at], np.arange(count)[:, None], {})


@pytest.mark.parametrize("size", [6, 7, 100])
def test_each_pass_has_all_that_is_learnt_from_once_in_another_order(size: int) -> None:
    data = numbered(60)
    batches = 42 // min(size, 42)
    passes = []
    for epoch in range(3):
        seen = [data.batch(epoch * batches + place, size, 5, "cpu") for place in range(batches)]
        for images, targets in seen:
            assert torch.equal(images.flatten(), targets.flatten().to(torch.uint8))
        passes.append(torch.cat([targets.flatten() for _, targets in seen]).tolist())
        assert sorted(passes[-1]) == data.splits["train"].tolist()
    if batches > 1:
        assert passes[0] != passes[1] != passes[2]
        other = [data.batch(place, size, 6, "cpu")[1].flatten().tolist() for place in range(batches)]
        assert [number for part in other for number in part] != passes[0]
        assert torch.equal(data.batch(0, size, 5, "cpu")[1].flatten(), torch.tensor(passes[0][:size]))


def test_a_digest_tells_every_change_of_a_small_data_set() -> None:
    def digest(pixel: int = -1, target: int = -1, moved: bool = False) -> int:
        data = numbered(60)
        pixels, targets = np.arange(60, dtype=np.uint8).reshape(-1, 1, 1, 1), np.arange(60)[:, None]
        if pixel >= 0:
            pixels[pixel] += 100
        if target >= 0:
            targets[target] += 100
        splits = dict(data.splits)
        if moved:
            splits["validation"], splits["test"] = splits["test"], splits["validation"]
        return Dataset("numbers", 1, (1, 1), splits, lambda at: pixels[at], targets, {}).digest()

    changed = [digest(moved=True), *(digest(pixel=i) for i in range(60)), *(digest(target=i) for i in range(60))]
    assert digest() == digest() == numbered(60).digest() and digest() not in changed
