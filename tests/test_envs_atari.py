"""ALE's vector environment under our settings, against Gymnasium's own wrappers and on its own."""

import hashlib

import ale_py
import gymnasium
import numpy as np
import pytest
from ale_py import roms
from ale_py.env import AtariEnv
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from envs.atari import (
    FRAME_SKIP,
    GAMES,
    MAX_FRAMES_PER_EPISODE,
    STICKY,
    TWO_PLAYERS_ONLY,
    make_atari,
    vector_env,
)
from envs.config import EnvConfig, Protocol
from envs.episodes import Episodes, series_seed
from envs.games import Screen, make_games


def test_the_games_are_all_that_ale_ships() -> None:
    assert len(GAMES) == 104 and set(GAMES) | set(TWO_PLAYERS_ONLY) == set(roms.get_all_rom_ids())


@pytest.mark.parametrize("games", [GAMES[::8], pytest.param(GAMES, marks=pytest.mark.slow)], ids=["some", "all"])
def test_every_game_starts(games: tuple[str, ...]) -> None:
    for game in games:
        one = make_atari(EnvConfig(game), 1, seed=0)
        assert one.frames.shape == (1, 4, 84, 84) and one.num_actions == len(one.action_names())
        one.step(np.array([0]))
        one.close()


@pytest.mark.parametrize("game", ["pong", "breakout", "ms_pacman"])
def test_frames_and_rewards_equal_gymnasiums_wrappers(game: str) -> None:
    """Without no-ops, FIRE and sticky actions, which the two draw differently."""
    vector = AtariVectorEnv(
        game, 1, noop_max=0, use_fire_reset=False, repeat_action_probability=0.0, reward_clipping=False, num_threads=1
    )
    single = AtariEnv(game, frameskip=1, repeat_action_probability=0.0, full_action_space=False)
    wrapped = FrameStackObservation(
        AtariPreprocessing(single, noop_max=0, frame_skip=4, grayscale_obs=True), 4, padding_type="zero"
    )
    rng = np.random.default_rng(1)
    ours, theirs = vector.reset(seed=3)[0][0], wrapped.reset(seed=3)[0]
    for step in range(400):
        np.testing.assert_array_equal(ours, theirs, err_msg=f"step {step}")
        action = int(rng.integers(vector.single_action_space.n))  # type: ignore[attr-defined]
        stacks, rewards, terminated, truncated, _ = vector.step(np.array([action]))
        theirs, reward, over, cut, _ = wrapped.step(action)
        ours = stacks[0]
        assert (rewards[0], terminated[0], truncated[0]) == (reward, over, cut)
        if over:
            break


def test_a_fixed_sequence_of_frames_has_its_hash() -> None:
    """Resizing that changes would change what is learned. Pinned for ale-py 0.12.1."""
    games = make_atari(EnvConfig("breakout"), 2, seed=7)
    rng, digest = np.random.default_rng(7), hashlib.sha256(games.frames.tobytes())
    for _ in range(300):
        games.step(rng.integers(games.num_actions, size=2))
        digest.update(games.frames.tobytes())
    if ale_py.__version__ != "0.12.1":
        pytest.skip(f"pinned for ale-py 0.12.1, this is {ale_py.__version__}")
    assert digest.hexdigest()[:16] == "f0066367d70c99f1"


def test_classic_presses_fire_and_waits_up_to_30_frames() -> None:
    env = vector_env(EnvConfig("breakout"), 1)
    frames = [int(env.reset(seed=s)[1]["episode_frame_number"][0]) for s in range(100)]
    # FIRE takes one frame, then come the no-ops.
    assert min(frames) >= 1 and max(frames) <= 31 and len(set(frames)) >= 20
    # The ball is in play without the agent's pressing anything: Breakout waits for FIRE before it serves.
    env.reset(seed=1)
    lives = [int(env.step(np.array([0]))[4]["lives"][0]) for _ in range(60)]
    assert lives[-1] < 5
    env = vector_env(EnvConfig("breakout", protocol="v5"), 1)
    assert int(env.reset(seed=1)[1]["episode_frame_number"][0]) == 0
    lives = [int(env.step(np.array([0]))[4]["lives"][0]) for _ in range(60)]
    assert lives[-1] == 5


@pytest.mark.parametrize(("protocol", "sticky"), [("classic", False), ("v5", True)])
def test_sticky_actions(protocol: str, sticky: bool) -> None:
    """Two games with as many no-ops and the same actions stay together, unless actions stick."""
    env = vector_env(EnvConfig("breakout", protocol=protocol), 8)  # type: ignore[arg-type]
    starts: dict[int, list[int]] = {}
    for first in range(0, 32, 8):
        begun = env.reset(seed=np.arange(first, first + 8))[1]["episode_frame_number"]
        for seed, frame in enumerate(begun.tolist(), start=first):
            starts.setdefault(frame, []).append(seed)
    one, two = max(starts.values(), key=len)[:2]
    env.reset(seed=np.array([one, two] * 4))
    rng, differed = np.random.default_rng(0), False
    for _ in range(60):
        stacks = env.step(np.full(8, rng.integers(4)))[0]
        differed |= not np.array_equal(stacks[0], stacks[1])
    assert differed == sticky
    # As Gymnasium's own have it.
    name = "ALE/Breakout-v5" if sticky else "BreakoutNoFrameskip-v4"
    assert STICKY[protocol] == gymnasium.spec(name).kwargs["repeat_action_probability"]


def test_rewards_are_raw_and_a_lost_life_is_no_end() -> None:
    games = make_atari(EnvConfig("breakout"), 4, seed=0)
    rng, lost, ended, rewards = np.random.default_rng(0), 0, 0, set()
    for _ in range(1500):
        seen = games.step(rng.integers(games.num_actions, size=4))
        lost += int(seen.life_lost.sum())
        ended += len(seen.episodes)
        rewards |= set(seen.rewards.tolist())
        assert not (seen.life_lost & (seen.terminated | seen.truncated)).any()
    assert ended > 3 and 3 * ended < lost <= 4 * ended + 4 * 4
    # Ms. Pac-Man's dots are worth ten: clipped rewards would be one.
    pacman = make_atari(EnvConfig("ms_pacman"), 2, seed=0)
    assert max(float(pacman.step(rng.integers(9, size=2)).rewards.max()) for _ in range(200)) >= 10


def test_truncation_comes_at_108000_frames_with_its_last_frame() -> None:
    assert (FRAME_SKIP, MAX_FRAMES_PER_EPISODE) == (4, 108_000)
    cut, whole = (
        Episodes(
            AtariVectorEnv(
                "pong", 2, max_num_frames_per_episode=frames, num_threads=1, noop_max=0, use_fire_reset=False
            ),
            seed=0,
        )
        for frames in (400, 108_000)
    )
    for _ in range(99):
        assert not cut.step(np.array([0, 0])).truncated.any()
        whole.step(np.array([0, 0]))
    seen, goes_on = cut.step(np.array([0, 0])), whole.step(np.array([0, 0]))
    assert seen.truncated.all() and not seen.terminated.any() and not goes_on.truncated.any()
    # ALE leaves the very last frame out of the maximum when an episode ends: what moves is drawn once, not twice.
    assert (seen.last_frames != goes_on.last_frames).mean() < 0.005
    assert (seen.last_frames != cut.frames[:, -1]).mean() > 0.005
    assert (cut.frames[:, :3] == 0).all()  # the next episode's first stack
    assert [e.length_steps for e in seen.episodes] == [100, 100]


@pytest.mark.parametrize(
    ("game", "protocol"),
    # Yars' Revenge keeps some of its memory over a reset: an episode is not what the one before it was not.
    [("breakout", "v5"), ("breakout", "classic"), ("yars_revenge", "classic")],
)
def test_a_series_is_its_seed_and_its_actions(game: str, protocol: Protocol, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.episodes.ALE_SEEDS_EVERY_STEPS", 400)
    config = EnvConfig(game, protocol=protocol)
    games = make_games(config, 3, seed=5)
    rng, ended = np.random.default_rng(5), 0
    for _ in range(950):
        ended += len(games.step(rng.integers(4, size=3)).episodes)
    state = games.state_dict()
    assert ended > sum(state["series"]) > 0 and max(map(len, state["actions"])) < 950
    again = make_games(config, 3, seed=5)
    again.load_state_dict(state)
    np.testing.assert_array_equal(games.frames, again.frames)
    for _ in range(300):
        actions = rng.integers(4, size=3)
        one, two = games.step(actions), again.step(actions)
        np.testing.assert_array_equal(games.frames, again.frames)
        assert one.episodes == two.episodes and (one.life_lost == two.life_lost).all()
    assert again.state_dict() == games.state_dict()


def test_seeds_differ_between_environments_and_series() -> None:
    seeds = {series_seed(seed, env, series) for seed in range(5) for env in range(10) for series in range(20)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**31 for seed in seeds)


def test_the_colour_screen_shows_the_same_episode() -> None:
    config = EnvConfig("breakout", protocol="v5")
    games = make_games(config, 1, seed=3)
    screen, other = (Screen(config, games, seed) for seed in (3, 4))
    assert screen.show().shape == (210, 160, 3)

    def seen(played: Episodes | None) -> tuple[int, float, int]:
        assert played is not None
        return int(played._lives[0]), float(played._scores[0]), int(played._lengths[0])

    rng = np.random.default_rng(0)
    ended, differs = 0, False
    while not ended:
        action = int(rng.integers(4))
        ended = len(games.step(np.array([action])).episodes)
        for each in (screen, other):
            each.step(action)
        assert seen(screen._twin) == seen(games)
        differs |= seen(other._twin) != seen(games)
    assert differs  # of another seed's episode that would have been noticed


def test_modes_and_difficulties() -> None:
    plain = make_games(EnvConfig("freeway"), 1, seed=0)
    other = make_games(EnvConfig("freeway", mode=4, difficulty=1), 2, seed=0)
    assert other.frames.shape == (2, 4, 84, 84) and other.num_actions == plain.num_actions
    for _ in range(60):
        plain.step(np.array([0]))
        other.step(np.array([0, 0]))
    assert not np.array_equal(plain.frames[0, -1], other.frames[0, -1])
    with pytest.raises(ValueError, match="mode or difficulty"):
        make_games(EnvConfig("freeway", mode=99), 1, seed=0)
    # FIRE was pressed, so that the ball flies, and is lost where nobody moves.
    breakout = make_games(EnvConfig("breakout", mode=4), 1, seed=0)
    assert any(breakout.step(np.array([0])).life_lost.any() for _ in range(300))


def test_full_action_space() -> None:
    assert make_games(EnvConfig("pong"), 1, seed=0).num_actions == 6
    assert make_games(EnvConfig("pong", full_action_space=True), 1, seed=0).num_actions == 18


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no game named 'pongg'; nearest: pong"):
        make_games(EnvConfig("pongg"), 1, seed=0)
    with pytest.raises(ValueError, match="two players only"):
        make_games(EnvConfig("joust"), 1, seed=0)


def test_gymnasiums_own_registration_takes_our_agents_stacks() -> None:
    env = gymnasium.make_vec("ALE/Pong-v5", num_envs=1)
    assert isinstance(env, AtariVectorEnv) and env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert env.single_observation_space.shape == (4, 84, 84)
