"""What others scored: random and human play on 57 games, and published agents. All raw game scores."""

from typing import NamedTuple

from envs.config import Protocol


class HumanAndRandom(NamedTuple):
    """Mean scores of uniformly random play and of a professional human tester."""

    random: float
    human: float


# Episodes of up to 108,000 frames after up to 30 no-ops. Source: google-deepmind/dqn_zoo, atari_data.py.
HUMAN_AND_RANDOM: dict[str, HumanAndRandom] = {
    game: HumanAndRandom(random, human)
    for game, random, human in (
        ("alien", 227.8, 7127.7),
        ("amidar", 5.8, 1719.5),
        ("assault", 222.4, 742.0),
        ("asterix", 210.0, 8503.3),
        ("asteroids", 719.1, 47388.7),
        ("atlantis", 12850.0, 29028.1),
        ("bank_heist", 14.2, 753.1),
        ("battle_zone", 2360.0, 37187.5),
        ("beam_rider", 363.9, 16926.5),
        ("berzerk", 123.7, 2630.4),
        ("bowling", 23.1, 160.7),
        ("boxing", 0.1, 12.1),
        ("breakout", 1.7, 30.5),
        ("centipede", 2090.9, 12017.0),
        ("chopper_command", 811.0, 7387.8),
        ("crazy_climber", 10780.5, 35829.4),
        ("defender", 2874.5, 18688.9),
        ("demon_attack", 152.1, 1971.0),
        ("double_dunk", -18.6, -16.4),
        ("enduro", 0.0, 860.5),
        ("fishing_derby", -91.7, -38.7),
        ("freeway", 0.0, 29.6),
        ("frostbite", 65.2, 4334.7),
        ("gopher", 257.6, 2412.5),
        ("gravitar", 173.0, 3351.4),
        ("hero", 1027.0, 30826.4),
        ("ice_hockey", -11.2, 0.9),
        ("jamesbond", 29.0, 302.8),
        ("kangaroo", 52.0, 3035.0),
        ("krull", 1598.0, 2665.5),
        ("kung_fu_master", 258.5, 22736.3),
        ("montezuma_revenge", 0.0, 4753.3),
        ("ms_pacman", 307.3, 6951.6),
        ("name_this_game", 2292.3, 8049.0),
        ("phoenix", 761.4, 7242.6),
        ("pitfall", -229.4, 6463.7),
        ("pong", -20.7, 14.6),
        ("private_eye", 24.9, 69571.3),
        ("qbert", 163.9, 13455.0),
        ("riverraid", 1338.5, 17118.0),
        ("road_runner", 11.5, 7845.0),
        ("robotank", 2.2, 11.9),
        ("seaquest", 68.4, 42054.7),
        ("skiing", -17098.1, -4336.9),
        ("solaris", 1236.3, 12326.7),
        ("space_invaders", 148.0, 1668.7),
        ("star_gunner", 664.0, 10250.0),
        ("surround", -10.0, 6.5),
        ("tennis", -23.8, -8.3),
        ("time_pilot", 3568.0, 5229.2),
        ("tutankham", 11.4, 167.6),
        ("up_n_down", 533.4, 11693.2),
        ("venture", 0.0, 1187.5),
        ("video_pinball", 16256.9, 17667.9),
        ("wizard_of_wor", 563.5, 4756.5),
        ("yars_revenge", 3092.9, 54576.9),
        ("zaxxon", 32.5, 9173.3),
    )
}

# Mnih et al. 2013, table 1, row DQN: ε = 0.05, after 10 million frames, as the paper counts them.
DQN_2013: dict[str, float] = {
    "beam_rider": 4092,
    "breakout": 168,
    "enduro": 470,
    "pong": 20,
    "qbert": 1952,
    "seaquest": 1705,
    "space_invaders": 581,
}

# Mnih et al. 2015, extended data table 2, column DQN: 30 episodes of up to 5 minutes, ε = 0.05, 50 million steps.
DQN_2015: dict[str, float] = {
    "alien": 3069,
    "amidar": 739.5,
    "assault": 3359,
    "asterix": 6012,
    "asteroids": 1629,
    "atlantis": 85641,
    "bank_heist": 429.7,
    "battle_zone": 26300,
    "beam_rider": 6846,
    "bowling": 42.4,
    "boxing": 71.8,
    "breakout": 401.2,
    "centipede": 8309,
    "chopper_command": 6687,
    "crazy_climber": 114103,
    "demon_attack": 9711,
    "double_dunk": -18.1,
    "enduro": 301.8,
    "fishing_derby": -0.8,
    "freeway": 30.3,
    "frostbite": 328.3,
    "gopher": 8520,
    "gravitar": 306.7,
    "hero": 19950,
    "ice_hockey": -1.6,
    "jamesbond": 576.7,
    "kangaroo": 6740,
    "krull": 3805,
    "kung_fu_master": 23270,
    "montezuma_revenge": 0.0,
    "ms_pacman": 2311,
    "name_this_game": 7257,
    "pong": 18.9,
    "private_eye": 1788,
    "qbert": 10596,
    "riverraid": 8316,
    "road_runner": 18257,
    "robotank": 51.6,
    "seaquest": 5286,
    "space_invaders": 1976,
    "star_gunner": 57997,
    "tennis": -2.5,
    "time_pilot": 5947,
    "tutankham": 186.7,
    "up_n_down": 8456,
    "venture": 380.0,
    "video_pinball": 42684,
    "wizard_of_wor": 3393,
    "zaxxon": 4977,
}


# DLR-RM/rl-baselines3-zoo, benchmark.md: one agent each, played for 600,000 frames, not greedily.
SB3_ZOO: dict[str, dict[str, float]] = {
    "dqn": {
        "asteroids": 782.687,
        "beam_rider": 4295.946,
        "breakout": 358.327,
        "enduro": 830.929,
        "pong": 20.602,
        "qbert": 9496.774,
        "road_runner": 40396.350,
        "seaquest": 2000.290,
        "space_invaders": 622.742,
    },
    "ppo": {
        "asteroids": 2156.174,
        "beam_rider": 3397.000,
        "breakout": 398.033,
        "enduro": 996.364,
        "pong": 20.989,
        "qbert": 15627.108,
        "road_runner": 40680.645,
        "seaquest": 1783.636,
        "space_invaders": 960.331,
    },
    "a2c": {
        "asteroids": 1286.550,
        "beam_rider": 2890.298,
        "breakout": 279.793,
        "enduro": 0.0,
        "pong": 17.292,
        "qbert": 3882.345,
        "road_runner": 31671.512,
        "seaquest": 1721.493,
        "space_invaders": 627.160,
    },
}

# vwxyzjn/cleanrl, docs/rl-algorithms/dqn.md, dqn_atari.py: returns while training, at the end of 10 million steps.
CLEANRL_DQN: dict[str, float] = {"beam_rider": 6673.24, "breakout": 366.928, "pong": 20.25}


class Published(NamedTuple):
    """Scores that someone published, and how they were taken."""

    name: str
    algorithm: str
    protocol: Protocol
    taken: str
    scores: dict[str, float]


PUBLISHED = (
    Published("Mnih 2013", "dqn", "classic", "Mnih et al. 2013, table 1: ε = 0.05, no no-ops", DQN_2013),
    Published(
        "Mnih 2015",
        "dqn",
        "classic",
        "Mnih et al. 2015, extended data table 2: 50M steps, 30 games of at most 5 minutes, ε = 0.05",
        DQN_2015,
    ),
    *(
        Published(
            "SB3 zoo",
            algorithm,
            "classic",
            "rl-baselines3-zoo, benchmark.md: 10M steps, one agent, 600,000 frames of play, not greedy",
            scores,
        )
        for algorithm, scores in SB3_ZOO.items()
    ),
    Published(
        "CleanRL",
        "dqn",
        "classic",
        "cleanrl, docs/rl-algorithms/dqn.md: 10M steps, games of the training at its end, ε = 0.01",
        CLEANRL_DQN,
    ),
)
"""Under `v5` none is known whose every rule is the same."""


def published(algorithm: str, protocol: Protocol) -> list[Published]:
    """Return what was published of an algorithm under a protocol."""
    return [column for column in PUBLISHED if (column.algorithm, column.protocol) == (algorithm, protocol)]


def human_normalized(game: str, score: float) -> float | None:
    """Return 0 for the random agent's score and 1 for the human's, linear between; None where neither is known."""
    known = HUMAN_AND_RANDOM.get(game)
    if known is None:
        return None
    return (score - known.random) / (known.human - known.random)
