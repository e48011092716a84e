"""What can be chosen about a DQN. Imports no torch, so that `--help` is quick."""

import math
from dataclasses import dataclass
from typing import Literal

from perception.config import require


@dataclass(frozen=True)
class DQNConfig:
    """How the agent learns. Counts are in steps: agent decisions, summed over all environments."""

    learning_rate: float = 1e-4
    """Step size of the optimizer."""
    learning_rate_end: float | None = None
    """Where the learning rate ends, falling in a straight line over the run; constant when not given."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Adam, or centred RMSProp with decay 0.95 as in Mnih et al. 2015."""
    optimizer_epsilon: float = 1e-8
    """What the optimizer adds to its denominator."""
    gradient_clip_norm: float = 10.0
    """Gradients are scaled down to this global norm, SB3's `max_grad_norm`; 0 leaves them as they are."""
    batch_size: int = 32
    """Transitions an update learns from."""
    steps_per_update: int = 4
    """Steps between two updates, whatever the number of environments; SB3's `train_freq` times environments."""
    discount: float = 0.99
    """γ, a step; `gamma` of SB3 and CleanRL."""
    n_steps: int = 1
    """Rewards summed before bootstrapping."""
    double: bool = False
    """Choose the bootstrap action by the online network (van Hasselt et al. 2016)."""
    dueling: bool = False
    """Separate streams for state value and advantages (Wang et al. 2016)."""
    clip_rewards: bool = True
    """Learn from the signs of rewards. Scores are raw always."""
    backbone: str = "nature"
    """A fresh network, `nature`, `impala`, `lenet`, `convnet`, `vgg` or `resnet18`; or a checkpoint, of an
    agent or a perception task, whose backbone to start from."""
    freeze_backbone_steps: int = 0
    """Steps over which the backbone stays as it is."""
    backbone_learning_rate: float | None = None
    """Step size for the backbone, which falls as the other does; `learning_rate` when not given."""
    initialization: Literal["uniform", "orthogonal"] = "uniform"
    """Weights within ±1/√inputs, as in Mnih et al. 2015, or orthogonal ones times √2 (Saxe et al. 2014)."""
    replay_capacity_steps: int = 1_000_000
    """Transitions remembered, `buffer_size` of SB3 and CleanRL; a million of 84×84 take 7.1 GB, of main
    memory as they fill, of a GPU's at once."""
    learning_starts_steps: int = 80_000
    """Random steps before the first update; `learning_starts` of SB3 and CleanRL."""
    target_update_steps: int = 1_000
    """Steps between two copies of the online network into the target network; SB3's `target_update_interval`."""
    epsilon_start: float = 1.0
    """Share of random actions at first; SB3's `exploration_initial_eps`, CleanRL's `start_e`."""
    epsilon_end: float = 0.01
    """Share of random actions once `epsilon_steps` have passed; SB3's `exploration_final_eps`, CleanRL's `end_e`."""
    epsilon_steps: int = 1_000_000
    """Steps over which epsilon falls in a straight line; theirs are `exploration_fraction` of all."""

    def __post_init__(self) -> None:
        """Raise ConfigError, in words that say what to do, where a value cannot be meant."""
        checks = [
            (0 < self.learning_rate < math.inf, f"--learning-rate {self.learning_rate} must be above 0"),
            (
                self.learning_rate_end is None or 0 <= self.learning_rate_end <= self.learning_rate,
                f"--learning-rate-end {self.learning_rate_end} must lie between 0 and --learning-rate "
                f"{self.learning_rate}",
            ),
            (
                self.backbone_learning_rate is None or self.backbone_learning_rate >= 0,
                f"--backbone-learning-rate {self.backbone_learning_rate} must be 0 or above",
            ),
            (
                self.freeze_backbone_steps >= 0,
                f"--freeze-backbone-steps {self.freeze_backbone_steps} must be 0 or above",
            ),
            (self.gradient_clip_norm >= 0, f"--gradient-clip-norm {self.gradient_clip_norm} must be 0 (off) or above"),
            (self.batch_size >= 1, f"--batch-size {self.batch_size} must be at least 1"),
            (self.steps_per_update >= 1, f"--steps-per-update {self.steps_per_update} must be at least 1"),
            (0 <= self.discount <= 1, f"--discount {self.discount} must lie between 0 and 1"),
            (self.n_steps >= 1, f"--n-steps {self.n_steps} must be at least 1"),
            (self.target_update_steps >= 1, f"--target-update-steps {self.target_update_steps} must be at least 1"),
            (
                0 <= self.epsilon_end <= self.epsilon_start <= 1,
                f"need 0 <= --epsilon-end <= --epsilon-start <= 1, got {self.epsilon_end} and {self.epsilon_start}",
            ),
            (self.epsilon_steps >= 1, f"--epsilon-steps {self.epsilon_steps} must be at least 1"),
            (
                self.learning_starts_steps >= 0,
                f"--learning-starts-steps {self.learning_starts_steps} must be 0 or above",
            ),
            (
                self.learning_starts_steps <= self.replay_capacity_steps,
                f"--learning-starts-steps {self.learning_starts_steps} would never be held by a replay of "
                f"{self.replay_capacity_steps} steps: lower it or raise --replay-capacity-steps",
            ),
        ]
        require(checks)
