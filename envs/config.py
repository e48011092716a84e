"""What can be chosen about a game."""

from dataclasses import dataclass
from typing import Literal

Protocol = Literal["classic", "v5"]


@dataclass(frozen=True)
class EnvConfig:
    """Which game, under which rules."""

    game: str = "pong"
    """An Atari game (`python -m runs.games` lists them), `catch`, or the id of a Gymnasium environment with pixels."""
    protocol: Protocol = "classic"
    """`classic`: no sticky actions, up to 30 no-ops, FIRE at reset, a lost life ends the learner's return.
    `v5`: sticky actions 0.25, nothing else (Machado et al. 2018)."""
    full_action_space: bool = False
    """All 18 actions in place of those the game uses."""
    mode: int | None = None
    """Game mode, by the cartridge's number; the default one when not given."""
    difficulty: int | None = None
    """Difficulty switch, by the cartridge's number; the default one when not given."""
