import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv

from envs.config import EnvConfig
from envs.screens import EmulatedGame


@pytest.mark.parametrize("game", ["pong", "breakout", "seaquest"])
def test_frames_and_rewards_equal_ales_vector_environment(game: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without no-ops, FIRE and sticky actions, which the two draw differently."""
    vector = AtariVectorEnv(
        game, 1, noop_max=0, use_fire_reset=False, repeat_action_probability=0.0, reward_clipping=False, num_threads=1
    )
    monkeypatch.setitem(__import__("envs.screens").screens.STICKY, "v5", 0.0)
    ours = EmulatedGame(EnvConfig(game, protocol="v5"))
    ours.reset(3)
    rng, theirs = np.random.default_rng(0), vector.reset(seed=3)[0]
    step = 0
    for step in range(300):
        np.testing.assert_array_equal(ours.frames, theirs[0], err_msg=f"step {step}")
        action = int(rng.integers(len(ours.actions)))
        reward, over = ours.step(action)
        theirs, rewards, terminated, _, _ = vector.step(np.array([action]))
        assert (reward, over) == (rewards[0], terminated[0])
        if over:
            break
    assert step > 100


def test_an_episode_is_its_seed() -> None:
    game, seen = EmulatedGame(EnvConfig("breakout")), []
    for seed in (1, 2, 1):
        game.reset(seed)
        for _ in range(20):
            game.step(0)
        seen.append((game.screen.copy(), game.memory.copy()))
    assert all(np.array_equal(a, b) for a, b in zip(seen[0], seen[2], strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))


def test_the_screen_shows_the_lighter_of_two_frames() -> None:
    """Pong's ball moves every frame: where it was and where it is are both there, as in the input."""
    game = EmulatedGame(EnvConfig("pong"))
    game.reset(0)
    sizes = []
    for _ in range(150):
        game.step(0)
        sizes.append(int((game.screen[34:194] == 14).sum()))
    assert max(sizes) > 8  # a ball alone has 2×4 pixels
