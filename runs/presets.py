"""Settings that are known to work, as values. What they were seen to reach stands in the README."""

from dataclasses import replace

from agents.config import DQNConfig
from envs.config import EnvConfig
from runs.config import TrainConfig

# The 10-million-step set-up that SB3's zoo and CleanRL share for Atari.
CLASSIC = TrainConfig(
    preset="classic",
    env=EnvConfig(game="breakout"),
    agent=DQNConfig(
        learning_rate=1e-4,
        batch_size=32,
        steps_per_update=4,
        target_update_steps=1_000,
        learning_starts_steps=80_000,
        epsilon_steps=1_000_000,
        epsilon_end=0.01,
        replay_capacity_steps=1_000_000,
    ),
    total_steps=10_000_000,
    evaluate_every_steps=250_000,
    checkpoint_every_steps=250_000,
)

# Mnih et al. 2015, extended data table 1: 50 million steps (200 million frames), centred RMSProp.
NATURE = replace(
    CLASSIC,
    preset="nature",
    agent=replace(
        CLASSIC.agent,
        optimizer="rmsprop",
        learning_rate=2.5e-4,
        # The paper's 0.01 stands inside the root, and its loss is a sum over the batch, not a mean.
        optimizer_epsilon=0.01**0.5 / 32,
        gradient_clip_norm=0.0,
        target_update_steps=40_000,  # every 10,000 updates
        learning_starts_steps=50_000,
        epsilon_end=0.1,
    ),
    total_steps=50_000_000,
    evaluation_epsilon=0.05,
)

# What it was seen to reach stands in the README, beside the command.
PONG = TrainConfig(
    preset="pong",
    env=EnvConfig(game="pong"),
    agent=DQNConfig(
        learning_rate=5e-4,
        learning_rate_end=2e-5,
        optimizer_epsilon=1.5e-4,
        initialization="orthogonal",
        batch_size=32,
        steps_per_update=4,
        n_steps=5,
        target_update_steps=1_000,
        learning_starts_steps=5_000,
        epsilon_steps=100_000,
        epsilon_end=0.02,
        replay_capacity_steps=150_000,
    ),
    num_envs=16,
    total_steps=800_000,
    stop_at_score=19.0,  # of 21, over the games of an evaluation
)

CATCH = TrainConfig(
    preset="catch",
    env=EnvConfig(game="catch"),
    agent=DQNConfig(
        learning_rate=2.5e-4,
        batch_size=32,
        steps_per_update=4,
        n_steps=3,
        target_update_steps=200,
        learning_starts_steps=500,
        epsilon_steps=2_500,
        epsilon_end=0.02,
        replay_capacity_steps=20_000,
    ),
    total_steps=12_000,
    stop_at_score=4.9,  # of 5
    evaluate_every_steps=1_000,
    evaluation_episodes=20,
    evaluation_video_steps=30,
    checkpoint_every_steps=5_000,
    log_every_steps=1_000,
)

PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "pong": ("Pong, on two CPU cores", PONG),
    "catch": ("a toy game, learnt in a minute", CATCH),
    "classic": ("the 10M-step set-up of SB3's zoo and CleanRL, for any game", CLASSIC),
    "nature": ("Mnih et al. 2015, 50M steps", NATURE),
}
