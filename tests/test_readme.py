"""The README's Python lines run, and its commands are understood and name what exists."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import tyro

from runs.commands import options

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_lines_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(code.replace("100_000", "1_000"), names)
    assert names["step"] == 199
    assert names["model"].num_timesteps >= 1_000  # type: ignore[attr-defined]


def commands() -> list[str]:
    """Return the commands in the README, as they are given in a shell."""
    quoted = (" ".join(text.split()) for text in re.findall(r"`((?:python -m )?runs\.[^`]*)`", README))
    # A bare name tells of a command, and gives none; `…` is more of the same.
    return sorted({text.removeprefix("python -m ").replace("…", "") for text in quoted if " " in text})


@pytest.mark.parametrize("command", commands())
def test_a_command_is_understood(command: str) -> None:
    module, *argv = shlex.split(command.replace("seed S", "seed 0"))
    command_module = importlib.import_module(module)
    if "--help" in argv:
        with pytest.raises(SystemExit, match="0"):
            command_module.read_args(argv)
    elif hasattr(command_module, "read_args"):
        read = command_module.read_args(argv)
        assert module != "runs.search" or read[1] == []  # what it would pass on
    else:
        tyro.cli(options(command_module.main), args=argv)


def test_the_files_it_names_exist() -> None:
    for path in set(re.findall(r"`((?:runs|tests|agents|perception|envs)/[\w/]+\.py)`", README)):
        assert (ROOT / path).exists(), path
    images = re.findall(r'src="([^"]*)"', README)
    assert images
    for image in images:
        assert (ROOT / image).exists(), image


def test_the_pretrained_agent_is_small() -> None:
    assert sum(file.stat().st_size for file in (ROOT / "runs" / "pretrained" / "pong").iterdir()) < 4 * 2**20
