import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from commands import environment, refused, run
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import envs.pixels  # noqa: F401  (registers Catch)
from agents.sb3 import BackboneExtractor, SideBySide, as_sb3_dqn, extractor_kwargs, fit_to_states
from envs.atari import vector_env
from envs.config import EnvConfig
from envs.games import make_games
from perception.backbones import BACKBONES
from runs.agent_checkpoints import load_agent, load_config, load_weights, make_agent
from runs.perception_checkpoints import make_backbone

PRETRAINED = Path("runs/pretrained/pong")


def catches(count: int, steps: int | None = None) -> SyncVectorEnv:
    make = [lambda: gymnasium.make("saccade/Catch-v0", max_episode_steps=steps)] * count
    return SyncVectorEnv(make, autoreset_mode=AutoresetMode.DISABLED)


def test_the_exported_agent_acts_the_same_without_ours(tmp_path: Path) -> None:
    """1,000 frames of Pong; a process that cannot import any room of ours chooses the same actions."""
    config, about = load_config(PRETRAINED)
    agent = make_agent(replace(config, precision="float32"), about["shapes"], "cpu")
    load_weights(PRETRAINED, agent)
    games, frames, rng = make_games(config.env, 8, seed=5), [], np.random.default_rng(0)
    for _ in range(125):
        frames.append(games.frames.copy())
        actions = agent.act(games.frames).numpy()
        games.step(np.where(rng.random(8) < 0.1, rng.integers(games.num_actions, size=8), actions))
    games.close()
    np.save(tmp_path / "frames.npy", np.concatenate(frames))
    run("runs.export", str(PRETRAINED), str(tmp_path / "agent.zip"), "--to", "sb3")
    program = (
        "import sys\n"
        "for room in ('agents', 'envs', 'perception', 'runs'): sys.modules[room] = None\n"
        "import numpy as np\n"
        "from stable_baselines3 import DQN\n"
        "model = DQN.load('agent.zip', device='cpu')\n"
        "np.save('actions.npy', model.predict(np.load('frames.npy'), deterministic=True)[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "actions.npy"), agent.act(np.concatenate(frames)).numpy())
    assert "new .zip" in refused("runs.export", str(PRETRAINED), str(tmp_path / "agent.zip"), "--to", "sb3")


def test_what_plain_sb3_has_no_place_for_is_refused() -> None:
    agent, _ = load_agent(PRETRAINED, "cpu")
    with pytest.raises(ValueError, match="NatureCNN without dueling"):
        as_sb3_dqn(agent.weights() | {"head.value.bias": torch.zeros(1)}, (84, 84), 4)


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN])
def test_a_backbone_under_any_algorithm(algorithm: type[PPO | A2C | DQN], freeze: bool, tmp_path: Path) -> None:
    """It starts as it was given, frozen it stays so, and SB3 saves and loads it."""
    torch.manual_seed(0)
    backbone = BACKBONES["nature"](4)  # type: ignore[call-arg]
    envs = SideBySide(catches(2), seed=0)
    steps = {"learning_starts": 8, "buffer_size": 64} if algorithm is DQN else {"n_steps": 8}
    model = algorithm("CnnPolicy", envs, policy_kwargs=extractor_kwargs(backbone, freeze=freeze), seed=0, **steps)  # type: ignore[arg-type]
    policy = model.q_net if isinstance(model, DQN) else model.policy
    eye = policy.features_extractor
    assert isinstance(eye, BackboneExtractor)
    for name, weight in eye.backbone.state_dict().items():
        assert torch.equal(weight, backbone.state_dict()[name]), name
    model.learn(64)
    same = [torch.equal(weight, backbone.state_dict()[name]) for name, weight in eye.backbone.state_dict().items()]
    assert all(same) == freeze
    model.save(tmp_path / "model.zip")
    again = algorithm.load(tmp_path / "model.zip", env=SideBySide(catches(2), seed=1), device="cpu")
    frames = envs.reset()
    assert np.array_equal(again.predict(frames, deterministic=True)[0], model.predict(frames, deterministic=True)[0])
    again.learn(16, reset_num_timesteps=False)
    assert again.num_timesteps > 64


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_a_layer_is_fitted_to_states(algorithm: type[PPO | DQN]) -> None:
    """Before the cut each unit has mean 0 and spread 1 over them; a target network is as the one that it follows."""
    _, backbone = make_backbone(str(PRETRAINED), 4)
    small = {"buffer_size": 64} if algorithm is DQN else {"n_steps": 8}
    model = algorithm("CnnPolicy", SideBySide(catches(2), seed=0), policy_kwargs=extractor_kwargs(backbone), **small)  # type: ignore[arg-type]
    states = np.random.default_rng(0).integers(0, 256, (40, 4, 84, 84), dtype=np.uint8)
    fit_to_states(model, states)
    networks = [model.q_net, model.q_net_target] if isinstance(model, DQN) else [model.policy]
    for network in networks:
        eye = network.features_extractor
        assert isinstance(eye, BackboneExtractor) and eye.hidden is not None
        with torch.no_grad():
            seen = eye.hidden(eye.backbone(torch.from_numpy(states) / 255)[-1].flatten(1))
        torch.testing.assert_close(seen.mean(dim=0), torch.zeros(512), atol=1e-3, rtol=0)
        torch.testing.assert_close(seen.std(dim=0), torch.ones(512), atol=1e-3, rtol=0)


def test_an_extractor_refuses_other_channels() -> None:
    backbone = BACKBONES["nature"](1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="looks at 1 channels"):
        BackboneExtractor(Box(0, 255, (4, 84, 84), np.uint8), backbone)


@pytest.mark.parametrize("steps", [1_000, 13])
def test_side_by_side_against_sb3s_own(steps: int) -> None:
    """The same games as under SB3's `DummyVecEnv`: frames, rewards, ends and last frames; whole ones, and cut short."""
    ours = SideBySide(catches(3, steps), seed=4)
    theirs = DummyVecEnv([lambda: gymnasium.make("saccade/Catch-v0", max_episode_steps=steps)] * 3)
    for env, seed in enumerate(ours.seed(4)):
        theirs._seeds[env] = seed
    rng, ended = np.random.default_rng(0), 0
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    for _ in range(60):
        actions = rng.integers(3, size=3)
        one, two = ours.step(actions), theirs.step(actions)
        for a, b in zip(one[:3], two[:3], strict=True):
            np.testing.assert_array_equal(a, b)
        for mine, its in zip(one[3], two[3], strict=True):
            assert ("terminal_observation" in mine) == ("terminal_observation" in its)
            if "terminal_observation" in mine:
                ended += 1
                np.testing.assert_array_equal(mine["terminal_observation"], its["terminal_observation"])
                assert mine["TimeLimit.truncated"] == its["TimeLimit.truncated"]
    assert ended > 5
    assert ours.env_is_wrapped(Monitor) == [True] * 3 and ours.env_is_wrapped(TimeLimit) == [False] * 3
    ours.close()


def test_games_that_hide_their_last_frames_are_refused() -> None:
    envs = SyncVectorEnv([lambda: gymnasium.make("saccade/Catch-v0")], autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(ValueError, match="hide the last frames"):
        SideBySide(envs, seed=0)


def test_a_lost_life_cuts_the_learners_return_alone() -> None:
    game = EnvConfig("ms_pacman")  # whose points come in tens
    envs = SideBySide(vector_env(game, 2), seed=0, cut_at_lost_life=True, clip_rewards=True)
    plain = SideBySide(vector_env(game, 2), seed=0)
    rng, cuts, ends, clipped, total = np.random.default_rng(0), 0, 0, np.zeros(2), np.zeros(2)
    envs.reset()
    plain.reset()
    while ends < 2:
        actions = rng.integers(9, size=2)
        _, rewards, ended, infos = envs.step(actions)
        _, points, over, _ = plain.step(actions)
        assert set(np.unique(rewards)) <= {0.0, 1.0}
        clipped += rewards
        total += points
        for env in np.flatnonzero(ended):
            assert infos[env]["terminal_observation"].shape == (4, 84, 84)
            assert over[env] == ("episode" in infos[env])
            cuts += not over[env]
            if over[env]:
                ends += 1
                assert infos[env]["episode"]["r"] == total[env] >= 10 * clipped[env] > 0
                clipped[env] = total[env] = 0
    assert cuts >= 2 * 2  # three lives a game, the last of which ends it
    envs.close()
    plain.close()
