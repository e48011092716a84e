"""Who may import whom: runs → agents → perception, runs → envs, and nothing else."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"agents", "envs", "perception", "runs"}
OURS = {"perception": set[str](), "envs": set[str](), "agents": {"perception"}, "runs": ROOMS}
FORBIDDEN = {
    "envs": {"torch", "stable_baselines3", "wandb", "tyro", "rich"},
    "agents": {"ale_py", "wandb", "tyro", "rich"},
    "perception": {"ale_py", "gymnasium", "wandb", "tyro", "rich"},
    "runs": set[str](),
}
EVERYWHERE = {"torchvision", "pickle", "dill", "joblib", "moviepy", "cloudpickle"}
FILES = [path for room in sorted(ROOMS) for path in sorted((ROOT / room).glob("**/*.py")) if "out" not in path.parts]


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_stay_within_the_house_rules(path: Path) -> None:
    room, names = path.relative_to(ROOT).parts[0], imported_names(path)
    assert names & ROOMS - {room} <= OURS[room]
    assert not names & (FORBIDDEN[room] | EVERYWHERE)


def test_configs_and_presets_import_no_torch() -> None:
    configs = [f"{room}/config.py" for room in sorted(ROOMS)]
    for name in (*configs, "runs/presets.py", "runs/commands.py"):
        assert not imported_names(ROOT / name) & {"torch", "stable_baselines3", "safetensors", "wandb"}, name


def test_rooms_hold_a_docstring_only() -> None:
    for room in ROOMS:
        body = ast.parse((ROOT / room / "__init__.py").read_text()).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr)
