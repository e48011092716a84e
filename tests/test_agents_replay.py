"""Replay against a slow twin that keeps every stack, driven by made-up episodes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.replay import FrameReplay
from envs.atari import make_atari
from envs.config import EnvConfig
from runs.machine import resident_memory

SIZE, STACK = (2, 3), 4


@dataclass
class Twin:
    """Keeps, for one environment, all that it ever showed, and works transitions out one by one."""

    stacks: list[np.ndarray] = field(default_factory=list)  # what was acted on
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    cut: list[bool] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    reached: list[np.ndarray] = field(default_factory=list)  # what came after, before any reset

    def transition(self, start: int, n_steps: int, discount: float, clip: bool):
        total, factor, at = 0.0, 1.0, start
        while True:
            reward = float(np.sign(self.rewards[at])) if clip else self.rewards[at]
            total += factor * reward
            factor *= discount
            if self.cut[at]:
                return self.stacks[start], self.actions[start], total, 0.0, None
            if self.truncated[at] or at - start + 1 == n_steps:
                return self.stacks[start], self.actions[start], total, factor, self.reached[at]
            at += 1


def play(replay: FrameReplay, endings: list[list[str]], seed: int) -> tuple[list[Twin], list[list[int]]]:
    """Play the endings of each environment's steps; return the twins, and the ring's row of each step."""
    rng = np.random.default_rng(seed)
    num_envs = len(endings)
    twins, rows = [Twin() for _ in range(num_envs)], [[] for _ in range(num_envs)]
    written = [0] * num_envs

    def fresh() -> np.ndarray:
        return np.concatenate(
            [np.zeros((STACK - 1, *SIZE), np.uint8), rng.integers(1, 256, (1, *SIZE), dtype=np.uint8)]
        )

    stacks = [fresh() for _ in range(num_envs)]
    for step in range(len(endings[0])):
        shown = np.stack([stack[-1] for stack in stacks])
        actions = rng.integers(0, 5, num_envs)
        rewards = rng.normal(size=num_envs).astype(np.float32)
        after = [np.concatenate([s[1:], rng.integers(1, 256, (1, *SIZE), dtype=np.uint8)]) for s in stacks]
        happened = [endings[env][step] for env in range(num_envs)]
        cut = np.array([h in ("over", "life") for h in happened])
        ended = np.array([h in ("over", "truncated") for h in happened])
        replay.add(shown, actions, rewards, cut, ended, np.stack([a[-1] for a in after]))
        for env, twin in enumerate(twins):
            twin.stacks.append(stacks[env])
            twin.actions.append(int(actions[env]))
            twin.rewards.append(float(rewards[env]))
            twin.cut.append(bool(cut[env]))
            twin.truncated.append(happened[env] == "truncated")
            twin.reached.append(after[env])
            rows[env].append(written[env])
            written[env] += 2 if happened[env] == "truncated" else 1
        stacks = [fresh() if ended[env] else after[env] for env in range(num_envs)]
    return twins, rows


@pytest.mark.parametrize("game", ["breakout", "pong"])
def test_it_holds_what_the_environment_showed(game: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a real one, added as `runs.train_dqn` does: over lost lives, ends and truncated episodes."""
    monkeypatch.setattr("envs.atari.MAX_FRAMES_PER_EPISODE", 4 * 130)
    monkeypatch.setattr("envs.episodes.ALE_SEEDS_EVERY_STEPS", 150)
    games, replay = make_atari(EnvConfig(game), 2, seed=0), FrameReplay(1_000, 2)
    rng, happened = np.random.default_rng(0), {"life": 0, "over": 0, "truncated": 0}
    kept: list[list[Any]] = [[], []]
    for _ in range(400):
        shown, actions, counts = games.frames.copy(), rng.integers(games.num_actions, size=2), replay.rows_written()
        seen = games.step(actions)
        cut, ended = seen.terminated | seen.life_lost, seen.terminated | seen.truncated
        replay.add(shown[:, -1], actions, seen.rewards, cut, ended, seen.last_frames)
        for name, which in (("life", seen.life_lost), ("over", seen.terminated), ("truncated", seen.truncated)):
            happened[name] += int(which.sum())
        for env, steps in enumerate(kept):
            reached = np.concatenate([shown[env, 1:], seen.last_frames[env : env + 1]])
            steps.append((int(counts[env]), shown[env], int(actions[env]), seen.rewards[env], cut[env], reached))
    for env, steps in enumerate(kept):
        counts = torch.tensor([step[0] for step in steps[:-1]])
        batch = replay.transitions(torch.full_like(counts, env), counts)
        for index, (_, stack, action, reward, cut, reached) in enumerate(steps[:-1]):
            np.testing.assert_array_equal(batch.frames_tm1[index], stack)
            assert (batch.a_tm1[index], batch.r_t[index]) == (action, np.sign(reward))
            assert (batch.discount_t[index] == 0) == cut
            if not cut:
                np.testing.assert_array_equal(batch.frames_t[index], reached)
    assert happened["truncated"] > 1 and (game == "pong" or min(happened.values()) > 1), happened


happenings = st.sampled_from(["on"] * 6 + ["over", "life", "truncated"])


@settings(max_examples=150, deadline=None)
@given(data=st.data(), num_envs=st.integers(1, 3), n_steps=st.integers(1, 4), capacity=st.integers(9, 40))
def test_every_sampled_transition_is_the_twins(data: st.DataObject, num_envs: int, n_steps: int, capacity: int) -> None:
    length = data.draw(st.integers(capacity // 2 + n_steps, 3 * capacity))
    endings = [data.draw(st.lists(happenings, min_size=length, max_size=length)) for _ in range(num_envs)]
    clip = data.draw(st.booleans())
    replay = FrameReplay(
        capacity * num_envs, num_envs, frame_shape=SIZE, stack=STACK, discount=0.9, n_steps=n_steps, clip_rewards=clip
    )
    twins, rows = play(replay, endings, seed=length)
    if not replay.can_sample():
        return
    first, last = replay._first_start(), replay._last_start()
    for env, twin in enumerate(twins):
        starts = [s for s, row in enumerate(rows[env]) if first[env] <= row < last[env]]
        if not starts:
            continue
        at = torch.tensor([rows[env][s] for s in starts])
        batch = replay.transitions(torch.full_like(at, env), at)
        for i, start in enumerate(starts):
            stack, action, total, discount, reached = twin.transition(start, n_steps, 0.9, clip)
            np.testing.assert_array_equal(batch.frames_tm1[i].numpy(), stack)
            assert batch.a_tm1[i] == action
            assert batch.r_t[i] == pytest.approx(total, abs=1e-5)
            assert batch.discount_t[i] == pytest.approx(discount, abs=1e-6)
            if reached is not None:
                np.testing.assert_array_equal(batch.frames_t[i].numpy(), reached)
    # What sampling draws are steps of the twins too, never the row of a last frame.
    drawn = replay.sample(64)
    known = {stack.tobytes() for twin in twins for stack in twin.stacks}
    assert all(drawn.frames_tm1[i].numpy().tobytes() in known for i in range(64))


def filled(num_envs: int = 2, rows: int = 30, steps: int = 100) -> FrameReplay:
    replay = FrameReplay(rows * num_envs, num_envs, frame_shape=SIZE, stack=STACK, n_steps=2)
    rng = np.random.default_rng(0)
    endings = [list(rng.choice(["on"] * 8 + ["over", "truncated"], steps)) for _ in range(num_envs)]
    play(replay, endings, seed=0)
    return replay


def test_sampling_is_uniform_over_all_whole_windows() -> None:
    replay = FrameReplay(24, 2, frame_shape=SIZE, stack=STACK)
    play(replay, [["on"] * 12, ["on"] * 12], seed=1)
    frames = replay.sample(22_000).frames_tm1[:, -1].flatten(1)
    _, counts = frames.unique(dim=0, return_counts=True)
    assert len(counts) == 22  # the newest row of each ring has no next frame yet
    assert counts.min() > 850 and counts.max() < 1150  # 1,000 ± 5 σ


def test_same_seed_same_batches() -> None:
    one, two = filled(), filled()
    for a, b in zip(one.sample(32), two.sample(32), strict=True):
        assert torch.equal(a, b)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 60), min_size=1, max_size=5), most=st.integers(1, 40))
def test_segments_bring_back_the_same_replay(cuts: list[int], most: int) -> None:
    replay, copy = (FrameReplay(60, 2, frame_shape=SIZE, stack=STACK, n_steps=3) for _ in range(2))
    segments, done = [], replay.rows_written()
    rng = np.random.default_rng(len(cuts))
    for steps in cuts:
        play(replay, [list(rng.choice(["on", "on", "truncated", "over"], steps)) for _ in range(2)], seed=steps)
        replay._next_age[:] = 0
        while (done < replay.rows_written()).any():
            segments.append(replay.segment(done, most))
            done = segments[-1]["stop"].numpy()
    copy.load_state_dict(replay.state_dict())
    for segment in segments:
        copy.load_segment(segment)
    if replay.can_sample():
        for a, b in zip(replay.sample(64), copy.sample(64), strict=True):
            assert torch.equal(a, b)


def test_a_ring_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        FrameReplay(28, 4, frame_shape=SIZE, stack=4, n_steps=3)


def test_memory_is_taken_as_it_fills_and_a_million_steps_fit() -> None:
    assert FrameReplay.bytes_needed(1_000_000, (84, 84)) <= 7.2e9

    before = resident_memory()
    replay = FrameReplay(1_000_000, 8)  # 7 GB of addresses
    assert resident_memory() - before < 50e6
    frames, none = np.full((8, 84, 84), 7, np.uint8), np.zeros(8, np.bool_)
    for _ in range(500):
        replay.add(frames, np.zeros(8, np.int64), np.zeros(8, np.float32), none, none, frames)
    assert 0.9 < (resident_memory() - before) / (4000 * (84 * 84 + 7)) < 1.6
