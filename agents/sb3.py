"""Stable-Baselines3 and ours: a backbone under any of its algorithms, its `VecEnv` over any vector environment.

And the way back: an agent as a model that plain `stable_baselines3.DQN.load` plays.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from stable_baselines3 import A2C, PPO
from stable_baselines3 import DQN as SB3DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.nn import functional as F

from perception.backbones import Backbone
from perception.diagnostics import Layer, health

ALGORITHMS: dict[str, type[PPO | A2C | SB3DQN]] = {"ppo": PPO, "a2c": A2C, "dqn": SB3DQN}
_EYE = "features_extractor."


class BackboneExtractor(BaseFeaturesExtractor):
    """A backbone as the features extractor of any SB3 policy: its coarsest map, then a layer of ReLUs.

    SB3 scales images to [0, 1] itself, which a backbone takes as it is.
    """

    def __init__(
        self, observation_space: Box, backbone: Backbone, freeze: bool = False, hidden_units: int = 512
    ) -> None:
        """Take a copy of `backbone`; with `freeze` it stays as it is.

        Raises:
            ValueError: the observations are not (C, H, W) with as many channels as the backbone looks at.
        """
        channels, *size = observation_space.shape
        if channels != backbone.in_channels or len(size) != 2:
            raise ValueError(
                f"the backbone looks at {backbone.in_channels} channels, these observations are {(channels, *size)}: "
                "load it for as many, and give channels first"
            )
        height, width = backbone.map_size(*size)
        features = backbone.stages[-1].channels * height * width
        super().__init__(observation_space, hidden_units)
        self.backbone, self.frozen = copy.deepcopy(backbone), freeze
        if freeze:
            self.backbone.requires_grad_(False)
        self.hidden = nn.Linear(features, hidden_units)
        nn.init.orthogonal_(self.hidden.weight, math.sqrt(2))
        nn.init.zeros_(self.hidden.bias)

    def forward(self, observations: Tensor) -> Tensor:
        """Map (B, C, H, W) in [0, 1] to features (B, features_dim)."""
        wanted = observations.requires_grad or not self.frozen
        with torch.set_grad_enabled(torch.is_grad_enabled() and wanted):
            features = self.backbone(observations)[-1].flatten(1)
        return F.relu(self.hidden(features))

    @torch.no_grad()
    def fit_hidden(self, observations: Tensor) -> None:
        """Give each hidden unit mean 0 and spread 1 over observations (N, C, H, W) in [0, 1], before it is cut at 0.

        Most of what a trained eye shows is the same in every state, and would drown what is not: by orthogonal weights
        alone the features of segmentation's eye have a norm of 70 on Breakout, and differ by 3. Salimans & Kingma 2016,
        section 3.
        """
        seen = self.hidden(self.backbone(observations)[-1].flatten(1))
        spread = seen.std(dim=0).clamp(min=1e-6)
        self.hidden.bias.sub_(seen.mean(dim=0)).div_(spread)
        self.hidden.weight.div_(spread[:, None])

    def apply(self, fn: Any) -> "BackboneExtractor":  # noqa: ARG002
        """Do nothing: SB3's actor-critics draw an extractor's weights anew this way, also those that were given."""
        return self


def extractor_kwargs(backbone: Backbone, *, freeze: bool = False) -> dict[str, Any]:
    """Return the `policy_kwargs` that put a backbone under an SB3 algorithm's `CnnPolicy`."""
    given = {"backbone": backbone, "freeze": freeze}
    return {"features_extractor_class": BackboneExtractor, "features_extractor_kwargs": given}


def fit_to_states(model: BaseAlgorithm, states: NDArray[np.uint8]) -> None:
    """Fit a new model's layer over a pretrained backbone to states (N, C, H, W) of its game."""
    extractor = _acting(model).features_extractor
    assert isinstance(extractor, BackboneExtractor)
    extractor.fit_hidden(torch.from_numpy(states).to(model.device).float() / 255)
    if isinstance(model, SB3DQN):
        model.q_net_target.load_state_dict(model.q_net.state_dict())


class SideBySide(VecEnv):
    """Any `gymnasium.vector.VectorEnv` whose `reset` takes a `reset_mask`, as SB3 knows vector environments.

    An environment that ends is reset in the same step, with what it showed last in its info, as SB3 expects it. Whole
    games with raw rewards stand in `info["episode"]`, whatever the learner is shown.
    """

    def __init__(
        self, envs: VectorEnv[Any, Any, Any], seed: int, *, cut_at_lost_life: bool = False, clip_rewards: bool = False
    ) -> None:
        """`cut_at_lost_life` tells the learner that it ends there; `clip_rewards` shows it their sign alone.

        Raises:
            ValueError: the environments reset themselves in the step in which an episode ends.
        """
        assert isinstance(envs.single_action_space, Discrete)
        if envs.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP:
            raise ValueError("these environments hide the last frames of an episode: give them another autoreset_mode")
        self.envs = envs
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self.cut_at_lost_life, self.clip_rewards = cut_at_lost_life, clip_rewards
        self.shown: NDArray[np.uint8]
        """The newest observations (N, C, H, W)."""
        self.seed(seed)
        self._lives = np.zeros(envs.num_envs, np.int64)
        self._scores, self._lengths = np.zeros(envs.num_envs), np.zeros(envs.num_envs, np.int64)

    def reset(self) -> NDArray[np.uint8]:
        """Start an episode everywhere; return observations (N, C, H, W)."""
        given, self._given = self._given, None
        self.shown = self._reset(np.ones(self.num_envs, np.bool_), given).copy()
        return self.shown

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take an action (N,) for each environment."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step; return observations (N, C, H, W), rewards (N,), whether each ended (N,), and an info for each."""
        observations, rewards, terminated, truncated, info = self.envs.step(self._actions)
        over = terminated | truncated
        self._scores += rewards
        self._lengths += 1
        lives = np.asarray(info.get("lives", np.zeros(self.num_envs)), np.int64)
        lost = (lives < self._lives) & ~over & self.cut_at_lost_life
        self._lives = lives.copy()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for env in np.flatnonzero(over | lost).tolist():
            infos[env] = {
                "terminal_observation": observations[env].copy(),
                "TimeLimit.truncated": bool(truncated[env] and not terminated[env]),
            }
            if over[env]:
                infos[env]["episode"] = {"r": float(self._scores[env]), "l": int(self._lengths[env]), "t": 0.0}
        rewarded = np.sign(rewards) if self.clip_rewards else np.asarray(rewards)
        if over.any():
            observations = self._reset(over, None)
        self.shown = observations.copy()
        return self.shown, rewarded.astype(np.float32), over | lost, infos

    def _reset(self, mask: NDArray[np.bool_], seeds: Any) -> NDArray[np.uint8]:
        # Gymnasium's own vector environments want a list.
        seeds = seeds if seeds is None or not isinstance(self.envs, SyncVectorEnv | AsyncVectorEnv) else seeds.tolist()
        observations, info = self.envs.reset(seed=seeds, options={"reset_mask": mask})
        lives = np.asarray(info.get("lives", np.zeros(self.num_envs)), np.int64)
        self._lives = np.where(mask, lives, self._lives)
        self._scores[mask], self._lengths[mask] = 0.0, 0
        return observations

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the next `reset`; return each environment's seed."""
        seeds: list[int] = (np.random.SeedSequence(seed).generate_state(self.num_envs).astype(np.int64) >> 1).tolist()
        self._given: NDArray[np.int64] | None = np.array(seeds)
        return seeds

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the vector environment, once for each index."""
        return [getattr(self.envs, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: environments side by side have no attributes of their own."""
        raise NotImplementedError(f"{attr_name} cannot be set: these environments are one")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of the vector environment, once; return its result for each index."""
        return [getattr(self.envs, method_name)(*args, **kwargs)] * len(list(self._get_indices(indices)))

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return for each index whether it is Monitor that is asked for: `info["episode"]` is filled as it does."""
        return [wrapper_class is Monitor] * len(list(self._get_indices(indices)))


class SB3Player:
    """What SB3 trained, as our own agents are watched and scored."""

    def __init__(self, model: BaseAlgorithm) -> None:
        """Play as `model` does, now and as it goes on learning."""
        assert isinstance(model.action_space, Discrete)
        self.model, self.num_actions = model, int(model.action_space.n)
        self.draws = not isinstance(model, SB3DQN)

    @property
    def backbone(self) -> Backbone:
        """The eye of whoever acts."""
        eye = _acting(self.model).features_extractor
        assert isinstance(eye, BackboneExtractor)
        return eye.backbone

    @torch.inference_mode()
    def opinion(self, frames: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Return Q-values or probabilities (B, A), and the value of the state (B,)."""
        seen = self.model.policy.obs_to_tensor(frames)[0]
        if isinstance(self.model, SB3DQN):
            q = self.model.q_net(seen)
            return q, q.amax(dim=1)
        policy = self.model.policy
        assert isinstance(policy, ActorCriticPolicy)
        distribution: Any = policy.get_distribution(seen).distribution
        return distribution.probs, policy.predict_values(seen)[:, 0]

    @torch.no_grad()
    def hidden(self, frames: NDArray[np.uint8]) -> Tensor:
        """Return what the features extractor makes of stacks (B, C, H, W): (B, units)."""
        policy = self.model.policy
        network = self.model.q_net if isinstance(self.model, SB3DQN) else policy
        extractor = network.features_extractor
        return network.extract_features(policy.obs_to_tensor(frames)[0], extractor)  # type: ignore[arg-type]

    def differentiable(self) -> Callable[[Tensor], Tensor]:
        """Return the function from images in [0, 1] (B, C, H, W) to Q-values, or logarithmic probabilities, (B, A)."""
        acting = copy.deepcopy(_acting(self.model)).requires_grad_(False)

        def prefer(images: Tensor) -> Tensor:
            seen = 255 * images  # SB3 scales what it takes for bytes
            if isinstance(self.model, SB3DQN):
                return acting(seen)
            assert isinstance(acting, ActorCriticPolicy)
            distribution: Any = acting.get_distribution(seen).distribution
            return distribution.logits

        return prefer


def weights_of(model: BaseAlgorithm) -> dict[str, Tensor]:
    """Return the weights that acting needs, the backbone's as `backbone.…`."""
    found = _acting(model).state_dict()
    return {name.removeprefix(_EYE): w for name, w in found.items() if not name.startswith(("pi_", "vf_"))}


def load_weights(model: BaseAlgorithm, weights: dict[str, Tensor]) -> None:
    """Take what `weights_of` returned.

    Raises:
        RuntimeError: a name or a shape differs.
    """
    theirs = {_EYE + name if name.startswith(("backbone.", "hidden.")) else name: w for name, w in weights.items()}
    missing, strange = _acting(model).load_state_dict(theirs, strict=False)
    if missing := [
        name for name in missing if not name.startswith(("pi_", "vf_"))
    ]:  # other names of the same extractor
        raise RuntimeError(f"{missing[0]} is missing")
    if strange:
        raise RuntimeError(f"{strange[0]} has no place in it")


def _acting(model: BaseAlgorithm) -> nn.Module:
    return model.q_net if isinstance(model, SB3DQN) else model.policy


def layers_of(model: BaseAlgorithm, frames: NDArray[np.uint8]) -> dict[str, Layer]:
    """Return how each layer of who acts does on stacks (B, C, H, W)."""
    acting, policy = _acting(model), model.policy
    weights = acting.named_parameters()
    norms = {name: float(weight.grad.norm()) for name, weight in weights if weight.grad is not None}
    seen: Any = policy.obs_to_tensor(frames)[0]

    def look() -> None:
        if isinstance(policy, ActorCriticPolicy):
            policy.get_distribution(seen)
            policy.predict_values(seen)
        else:
            acting(seen)

    optimizer: Any = policy.optimizer
    return health(acting, optimizer, norms, look)


def untrained(
    algorithm: str, num_actions: int, backbone: Backbone, size: tuple[int, int], device: str
) -> BaseAlgorithm:
    """Return a model over a backbone for frames of `size` (H, W), to load weights into and to play with."""
    spaces = _Spaces(Box(0, 255, (backbone.in_channels, *size), np.uint8), Discrete(num_actions))
    replay = {"buffer_size": 1} if algorithm == "dqn" else {}
    return ALGORITHMS[algorithm]("CnnPolicy", spaces, policy_kwargs=extractor_kwargs(backbone), device=device, **replay)  # type: ignore[arg-type]


class _Spaces(gymnasium.Env[Any, Any]):
    """What SB3 asks for to make a model: the spaces of an environment that nobody steps."""

    def __init__(self, observation_space: Box, action_space: Discrete) -> None:
        self.observation_space, self.action_space = observation_space, action_space


def as_sb3_dqn(weights: dict[str, Tensor], frame_shape: tuple[int, int], stack: int) -> SB3DQN:
    """Return a model of SB3's own classes, of the weights of an agent with NatureCNN, that acts as the agent does.

    Raises:
        ValueError: the network is another, for which plain SB3 has no place.
    """
    if len(weights) != 10 or weights["backbone.conv1.weight"].shape[2:] != (8, 8):
        raise ValueError("plain SB3 plays NatureCNN without dueling only; this agent has another network")
    num_actions = len(weights["head.advantage.bias"])
    seen = Box(0, 255, (stack, *frame_shape), np.uint8)
    model = SB3DQN("CnnPolicy", _Spaces(seen, Discrete(num_actions)), buffer_size=1, device="cpu", seed=0)
    names = {f"backbone.conv{i + 1}": f"features_extractor.cnn.{2 * i}" for i in range(3)}
    names |= {"head.advantage_hidden": "features_extractor.linear.0", "head.advantage": "q_net.0"}
    theirs = {f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": w.float() for name, w in weights.items()}
    model.q_net.load_state_dict(theirs)
    model.q_net_target.load_state_dict(theirs)
    return model
