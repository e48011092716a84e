"""Games that are no Atari: Catch, and any Gymnasium environment with pixels; and the score tables."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env

from envs.atari import GAMES
from envs.catch import BEST_RETURN, CELL, CELLS, Catch
from envs.config import EnvConfig
from envs.games import Screen, frames_a_step, make_games
from envs.pixels import make_pixels
from envs.scores import DQN_2013, DQN_2015, HUMAN_AND_RANDOM, PUBLISHED, human_normalized, published


def test_catch_is_a_gymnasium_environment() -> None:
    check_env(gymnasium.make("saccade/Catch-v0").unwrapped, skip_render_check=True)


def test_catch_pays_its_best_return_to_one_who_follows_the_ball() -> None:
    games = make_games(EnvConfig("catch"), 2, seed=0)
    scores: list[float] = []
    while len(scores) < 6:
        actions = []
        for frame in games.frames[:, -1, ::CELL, ::CELL]:
            ball, paddle = int(np.argwhere(frame == 255)[0][1]), int(np.argwhere(frame[-1] == 160)[0][0])
            actions.append(0 if ball == paddle else 1 if ball < paddle else 2)
        scores += [e.score for e in games.step(np.array(actions)).episodes]
    assert scores == [BEST_RETURN] * 6


def test_catch_punishes_standing_still() -> None:
    games = make_games(EnvConfig("catch"), 4, seed=0)
    scores = [e.score for _ in range(400) for e in games.step(np.zeros(4, np.int64)).episodes]
    assert np.mean(scores) < -3 and games.action_names() == ["stay", "left", "right"]
    assert Catch().render().shape == (CELLS * CELL, CELLS * CELL, 3)


def test_car_racing_and_its_replay() -> None:
    games = make_games(EnvConfig("CarRacing-v3"), 1, seed=0)
    assert games.frames.shape == (1, 4, 84, 84) and games.num_actions == 5
    rng = np.random.default_rng(0)
    for _ in range(30):
        games.step(rng.integers(5, size=1))
    assert len(np.unique(games.frames)) > 10
    again = make_games(EnvConfig("CarRacing-v3"), 1, seed=0)
    again.load_state_dict(games.state_dict())
    np.testing.assert_array_equal(games.frames, again.frames)
    assert Screen(EnvConfig("CarRacing-v3"), games, 0).show().ndim == 3


def test_environments_without_pictures_are_rendered() -> None:
    games = make_pixels("CartPole-v1", 2, seed=0)
    assert games.frames.shape == (2, 4, 84, 84) and games.num_actions == 2
    ended = [e for _ in range(80) for e in games.step(np.ones(2, np.int64)).episodes]
    assert ended and all(e.score == e.length_steps for e in ended)


@pytest.mark.parametrize(
    ("game", "message"),
    [("Pendulum-v1", "discrete"), ("NoSuchThing-v7", "cannot make"), ("catchh", "no game named")],
)
def test_what_cannot_be_played_is_refused(game: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_games(EnvConfig(game), 1, seed=0)


def test_atari_options_elsewhere_are_refused() -> None:
    with pytest.raises(ValueError, match="options of Atari games"):
        make_games(EnvConfig("catch", mode=1), 1, seed=0)
    with pytest.raises(ValueError, match="is of Atari games"):
        make_games(EnvConfig("catch", protocol="v5"), 1, seed=0)
    with pytest.raises(ValueError, match="give the game, say breakout, and a --protocol"):
        make_games(EnvConfig("ALE/Breakout-v5"), 1, seed=0)
    with pytest.raises(ValueError, match="has rules in its name"):  # whose own would be others than ours
        make_games(EnvConfig("BreakoutNoFrameskip-v4"), 1, seed=0)


class Strange(gymnasium.Env[np.ndarray, np.int64]):
    """Shows four channels from the first, as RGB and depth, or as stacks that are not padded with black."""

    observation_space = Box(0, 255, (4, 84, 84), np.uint8)
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self, actions: Discrete, render_mode: str | None = None) -> None:
        self.action_space, self.render_mode = actions, render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return np.full((4, 84, 84), 7, np.uint8), {}


@pytest.mark.parametrize(
    ("actions", "message"),
    [(Discrete(3), "black frames"), (Discrete(3, start=5), "from 0"), (Discrete(257), "at most 255")],
)
def test_what_the_replay_could_not_keep_is_refused(actions: Discrete, message: str) -> None:
    gymnasium.register("Strange-v0", lambda **options: Strange(actions, **options), disable_env_checker=True)
    try:
        with pytest.raises(ValueError, match=message):
            make_games(EnvConfig("Strange-v0"), 1, seed=0)
    finally:
        del gymnasium.registry["Strange-v0"]


class Bare(gymnasium.Env[np.ndarray, np.int64]):
    """Shows pictures, or numbers, and draws nothing."""

    action_space = Discrete(2)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.observation_space = Box(0, 255, shape, np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return np.full_like(self.observation_space.sample(), 90), {}


def test_an_environment_that_draws_nothing_is_shown_as_the_network_sees_it() -> None:
    gymnasium.register("Bare", "test_envs_games:Bare", kwargs={"shape": (64, 60, 3)})
    gymnasium.register("Blind-v0", "test_envs_games:Bare", kwargs={"shape": (5,)})
    try:
        config = EnvConfig("Bare")
        games = make_games(config, 1, seed=0)
        assert np.array_equal(Screen(config, games, 0).show(), np.full((84, 84, 3), 90))
        with pytest.raises(ValueError, match="cannot make 'Blind-v0'"):
            make_games(EnvConfig("Blind-v0"), 1, seed=0)
    finally:
        del gymnasium.registry["Bare"], gymnasium.registry["Blind-v0"]


def test_score_tables_name_games_that_exist() -> None:
    assert len(HUMAN_AND_RANDOM) == 57 and len(DQN_2013) == 7 and len(DQN_2015) == 49
    assert all(set(scores) <= set(GAMES) for scores in (HUMAN_AND_RANDOM, *(column.scores for column in PUBLISHED)))


def test_published_columns_are_of_one_algorithm_and_protocol() -> None:
    named = [(column.name, column.scores["pong"]) for column in published("dqn", "classic")]
    assert named == [("Mnih 2013", 20), ("Mnih 2015", 18.9), ("SB3 zoo", 20.602), ("CleanRL", 20.25)]
    assert [column.scores["pong"] for column in published("ppo", "classic")] == [20.989]
    assert published("dqn", "v5") == []


def test_a_step_of_ataris_games_is_four_frames() -> None:
    assert [frames_a_step(EnvConfig(game)) for game in ("pong", "catch", "CarRacing-v3")] == [4, 1, 1]


def test_human_normalized() -> None:
    assert human_normalized("pong", -20.7) == 0 and human_normalized("pong", 14.6) == 1
    assert human_normalized("breakout", 401.2) == pytest.approx(13.87, abs=0.01)
    assert human_normalized("catch", 3) is None
