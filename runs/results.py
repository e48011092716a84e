"""What runs of agents came to, read from their folders and put into groups that differ in the seed alone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.config import EnvConfig
from perception.backbones import BACKBONES
from runs.checkpoints import load_json
from runs.config import SB3Config, TrainConfig, from_json, to_json, train_config
from runs.curves import read_curve
from runs.statistics import Points

# What names a run, watches it or keeps it; where it ran is told with its machine.
NO_SETTINGS = {
    "preset",
    "game",
    "seed",
    "run_name",
    "tracked",
    "num_threads",
    "diagnostics",
    "check",
    "checkpoint_every_steps",
    "checkpoints_kept",
    "log_every_steps",
    "evaluation_video_steps",
}
TOLD = {"mean", "std", "human_normalized", "episodes", "epsilon", "steps", "final"}  # of an evaluation
NAMED_DIFFERENCES = 3  # more than these make no name


@dataclass(frozen=True)
class Result:
    """What one run came to."""

    folder: Path
    config: TrainConfig | SB3Config
    versions: dict[str, str]
    """Of its machine and packages."""
    evaluation: dict[str, Any]
    """Its last one, as `runs.evaluate` tells it, and `steps`."""
    over_steps: Points
    over_seconds: Points
    """Evaluation scores on its way."""

    @property
    def env(self) -> EnvConfig:
        """Its game and rules."""
        return self.config.env

    @property
    def algorithm(self) -> str:
        """What learnt."""
        return self.config.algorithm if isinstance(self.config, SB3Config) else "dqn"

    @property
    def score(self) -> float:
        """Mean raw score of its last evaluation."""
        return float(self.evaluation["mean"])

    @property
    def seconds(self) -> float:
        """Wall clock up to the last evaluation."""
        return self.over_seconds[0][-1]

    @property
    def finished(self) -> bool:
        """Whether its last evaluation is that of its end."""
        return bool(self.evaluation["final"])

    def settings(self) -> dict[str, Any]:
        """Return all that runs of one group have in common, by option."""
        plain = to_json(self.config)
        name = f"SB3's {self.algorithm}" if isinstance(self.config, SB3Config) else self.algorithm
        flat = {"algorithm": name} | plain.pop("env", {}) | plain.pop("agent", {}) | plain | {"algorithm": name}
        settings = {name: value for name, value in flat.items() if name not in NO_SETTINGS}
        for name in ("backbone", "backbone_source"):
            if settings.get(name) is not None and settings[name] not in BACKBONES:
                settings[name] = self._eye(settings[name])
        if auxiliary := settings.get("auxiliary"):
            settings["auxiliary"] = _in_words(**auxiliary)
        return settings

    def _eye(self, source: str) -> str:
        """Return the path of an eye's run without the seed, with which the folders of an eye for each seed end."""
        path = Path(source)
        if path.name == "best":
            path = path.parent
        elif path.parent.name == "checkpoints":
            path = path.parent.parent
        return re.sub(rf"-s?{self.config.seed}$", "", str(path))


def _in_words(task: str | None, data: str | None, weight: float, batch_size: int) -> str:
    """Return what is learnt beside play; where a recording lies says nothing of it."""
    if task is None:
        return "none"
    return f"{task}{' of ' + Path(data).name if data else ''}, weight {weight:g}, {batch_size} images"


@dataclass(frozen=True)
class Setting:
    """Runs that differ in game and seed alone."""

    name: str
    options: dict[str, Any]
    games: dict[str, list[Result]]
    """Its runs by game."""

    @property
    def results(self) -> list[Result]:
        """All of its runs."""
        return [result for results in self.games.values() for result in results]


def read_result(folder: Path) -> Result:
    """Read what a run of an agent left.

    Raises:
        ValueError: it is no such run, is damaged, or has no evaluation yet.
    """
    if not (folder / "config.json").exists() or not (folder / "metrics.csv").exists():
        raise ValueError(f"'{folder}' is no run: give folders with config.json and metrics.csv")
    about = load_json(folder / "config.json")
    plain = about.get("config", {})
    if "task" in plain:
        raise ValueError(f"'{folder}' is a perception run; a report is of agents. Its own figures are in test.json")
    if not (folder / "evaluation.json").exists():
        raise ValueError(f"'{folder}' has no evaluation yet: leave it out, or let it run on")
    evaluation = load_json(folder / "evaluation.json")
    if missing := sorted(TOLD - evaluation.keys()):
        raise ValueError(f"'{folder}/evaluation.json' lacks {', '.join(missing)}: it is damaged, or of another version")
    try:
        config = from_json(SB3Config, plain) if "algorithm" in plain else train_config(plain)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'{folder}/config.json': {error}") from error
    over_steps, over_seconds = (read_curve(folder, over, "evaluation_score")[:2] for over in ("steps", "seconds"))
    versions = {name: str(value) for name, value in about.get("versions", {}).items()}
    return Result(folder, config, versions, evaluation, over_steps, over_seconds)


def settings_of(results: Sequence[Result]) -> list[Setting]:
    """Put runs into groups by their settings, and name each by what it does otherwise than the others."""
    groups: list[tuple[dict[str, Any], dict[str, list[Result]]]] = []
    for result in sorted(results, key=lambda result: (result.env.game, result.config.seed)):
        options = result.settings()
        games = next((games for other, games in groups if other == options), None)
        if games is None:
            groups.append((options, games := {}))
        games.setdefault(result.env.game, []).append(result)
    every = [options for options, _ in groups]
    algorithms = list(dict.fromkeys(options["algorithm"] for options in every))
    settings = []
    for place, (options, games) in enumerate(groups):
        # Another algorithm has other options; its name says so.
        akin = [other for other in every if other["algorithm"] == options["algorithm"]]
        differing = [name for name in differences(akin) if name != "algorithm"]
        if len(differing) > NAMED_DIFFERENCES:
            words = [chr(ord("A") + place) if len(groups) <= 26 else f"setting {place + 1}"]
        else:
            words = [f"{name} {shown(options[name])}" for name in differing]
        if len(algorithms) > 1 or not words:
            words.insert(0, options["algorithm"])
        settings.append(Setting(", ".join(words), options, games))
    return settings


def differences(every: Sequence[dict[str, Any]]) -> list[str]:
    """Return the options that all have, and not all have with the same value."""
    shared = [name for name in every[0] if all(name in options for options in every)]
    return [name for name in shared if any(options[name] != every[0][name] for options in every)]


def shown(value: Any) -> str:
    """Return an option's value as a person writes it."""
    return f"{value:,}" if type(value) is int else f"{value:g}" if isinstance(value, float) else str(value)
