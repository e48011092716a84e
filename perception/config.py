"""What can be chosen about a dream, and how a choice is refused. Imports no torch, so that `--help` is quick."""

from collections.abc import Iterable
from dataclasses import dataclass


class ConfigError(Exception):
    """A value cannot be meant; the message says what to do. No ValueError: those tyro tells in words of its own."""


def require(checks: Iterable[tuple[bool, str]]) -> None:
    """Raise ConfigError with the message of the first check that does not hold."""
    for holds, message in checks:
        if not holds:
            raise ConfigError(message)


@dataclass(frozen=True)
class Ascent:
    """How a picture is changed to raise a score."""

    updates: int = 200
    """Gradient steps; DeepDream makes as many over all its sizes together."""
    learning_rate: float = 0.05
    """Step size of Adam, on the pixels' logits."""
    dream_rate: float = 0.004
    """DeepDream's step in place of it: the mean change of a pixel, as a share of its range."""
    jitter: int = 3
    """Pixels by which the picture is moved at most, anew at each update (Mordvintsev et al. 2015)."""
    smoothness: float = 1.0
    """Weight of the total variation of what was changed, beside a gradient of the score whose root mean square is 1."""
    sparsity: float | None = None
    """Likewise of the absolute change: above 1, only pixels whose gradient exceeds the mean one so often change. 0 when
    not given; of what is drawn into a game's still screen, 2."""
    octaves: int = 3
    """Layers that the change is the sum of, each half as fine as the one before; of DeepDream, sizes."""
    noise: float = 0.5
    """Standard deviation, in logits, of what each layer starts from. A ReLU that is shut passes no gradient on."""

    def __post_init__(self) -> None:
        """Raise ConfigError, in words that say what to do, where a value cannot be meant."""
        bounds = (("updates", 1), ("octaves", 1), ("jitter", 0), ("smoothness", 0), ("sparsity", 0))
        given = ((name, getattr(self, name), least) for name, least in bounds)
        require(
            (value is None or value >= least, f"--{name} {value} must be at least {least}")
            for name, value, least in given
        )
        rates = (("--learning-rate", self.learning_rate), ("--dream-rate", self.dream_rate))
        require((rate > 0, f"{name} {rate} must be above 0") for name, rate in rates)
