"""The README's Python lines run, and its commands name what exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_lines_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(code.replace("100_000", "1_000"), names)
    assert names["step"] == 199
    assert names["model"].num_timesteps >= 1_000  # type: ignore[attr-defined]


def test_commands_and_files_it_names_exist() -> None:
    for module in set(re.findall(r"python -m (runs[.\w]*)", README)):
        path = ROOT / (module.replace(".", "/") + ".py")
        assert path.exists() or (ROOT / module / "__main__.py").exists(), module
    for path in set(re.findall(r"`((?:runs|tests|agents|perception|envs)/[\w/]+\.py)`", README)):
        assert (ROOT / path).exists(), path
    images = re.findall(r'src="([^"]*)"', README)
    assert images
    for image in images:
        assert (ROOT / image).exists(), image


def test_the_pretrained_agent_is_small() -> None:
    assert sum(file.stat().st_size for file in (ROOT / "runs" / "pretrained" / "pong").iterdir()) < 4 * 2**20
