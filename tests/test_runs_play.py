import os
from typing import Any

import pytest
from commands import refused

from envs.config import EnvConfig
from envs.games import make_playable
from runs import play


@pytest.fixture
def pygame(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("DISPLAY", ":dummy")
    return pytest.importorskip("pygame")


def test_keys_mean_the_actions_they_name(pygame: Any) -> None:
    keys = play.keys_of(make_playable(EnvConfig("seaquest")))
    meanings = "noop fire up right left down upright upleft downright downleft upfire".split()
    for pressed, meaning in (
        ((" ",), "fire"), (("w",), "up"), (("w", "d"), "upright"), (("s", "a"), "downleft"), (("w", " "), "upfire"),
        ((pygame.K_UP,), "up"), ((pygame.K_DOWN, pygame.K_LEFT), "downleft"), ((pygame.K_UP, " "), "upfire"),
    ):  # fmt: skip
        by_number = {tuple(sorted(map(str, combination))): number for combination, number in keys.items()}
        assert meanings[by_number[tuple(sorted(map(str, pressed)))]] == meaning
    assert 0 not in keys.values() and set(keys.values()) == set(range(1, 18))


@pytest.mark.parametrize("held", ["a", "left", None])
def test_a_game_is_played_by_keys(
    held: str | None, pygame: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that is held down moves the paddle as its action does in the same game."""
    key = {"a": pygame.K_a, "left": pygame.K_LEFT, None: pygame.K_x}[held]
    ours, taken = [pygame.event.Event(pygame.KEYDOWN, key=key)], pygame.event.get
    monkeypatch.setattr(pygame.event, "get", lambda: [ours.pop()] if ours else taken())
    captions: list[str] = []
    monkeypatch.setattr(pygame.display, "set_caption", captions.append)
    assert play.main(play.PlayArgs("catch", episodes=1, seed=2)) == 0
    env, score = make_playable(EnvConfig("catch")), 0.0
    for seed in (2, None, None):  # the window is made, and the game begun, with a reset each
        env.reset(seed=seed)
    action, told = 0, []
    for _ in range(30):
        _, reward, *_ = env.step(action)
        score += float(reward)
        told.append(f"catch (classic): score {score:g}")
        action = 1 if held else 0
    assert captions == told
    assert capsys.readouterr().out.splitlines()[-1] == told[-1]


def test_what_cannot_be_played_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nearest: pong" in refused("runs.play", "pongg")
    assert "keys" in refused("runs.play", "CarRacing-v3")
    assert "--episodes" in refused("runs.play", "catch", "--episodes", "0")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert "no display" in refused("runs.play", "pong")
