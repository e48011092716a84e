"""`--check`: whole programs, on a sound set-up and on ones that are not."""

from pathlib import Path

import numpy as np
from commands import run
from PIL import Image


def table(*args: str, expect: int = 0) -> dict[str, str]:
    """Return the verdict of each check."""
    lines = [line.split("│") for line in run(*args, "--check", expect=expect).splitlines()]
    return {cells[1].strip(): cells[2].strip() for cells in lines if len(cells) > 3 and cells[1].strip()}


def test_an_agent(tmp_path: Path) -> None:
    found = table("runs.train_dqn", "catch", "--out", str(tmp_path / "run"))
    assert found == dict.fromkeys(("inputs", "initial values", "overfitting", "gradients"), "pass")
    assert not (tmp_path / "run").exists()
    # Too small a rate to learn anything by heart.
    assert table("runs.train_dqn", "catch", "--learning-rate", "1e-9", expect=1)["overfitting"] == "FAIL"


def test_perception(tmp_path: Path) -> None:
    train = ("runs.train_perception", "classification", "--num-threads", "1", "--backbone", "lenet")
    found = table(*train, "--data", "digits", "--out", str(tmp_path / "run"))
    assert found == dict.fromkeys(("inputs", "initial loss", "overfitting", "gradients"), "pass")
    assert not (tmp_path / "run").exists()
    for name in ("left", "right"):
        (tmp_path / "same" / name).mkdir(parents=True)
        for i in range(40):
            Image.fromarray(np.full((32, 32), 7, np.uint8)).save(tmp_path / "same" / name / f"{i}.png")
    found = table(*train, "--data", str(tmp_path / "same"), expect=1)
    assert found["inputs"] == found["overfitting"] == "FAIL"
