"""What is known of each game: addresses of its variables, and the colours and places of the things on its screen.

Addresses are published facts (AtariARI, Anand et al. 2019; OCAtari, Delfosse et al. 2023), checked against the screen
of the pinned ale-py; where the two differ the screen was believed. Scores are binary coded decimal unless they say
otherwise.
"""

from envs.labels.captions import Count, Motion, Phrase, Where
from envs.labels.reading import Anchor, Labels, Place

HEIGHTS, SIDES = ("top", "middle", "bottom"), ("left", "centre", "right")
FALLS_RISES = ("down", "nowhere", "up")  # for what counts lines from below
RISES_FALLS, LEFT_RIGHT = ("up", "nowhere", "down"), ("left", "nowhere", "right")
ROWS, COLUMNS = ("up", "level", "down"), ("left", "upright", "right")  # of what has both


def _at(subject: str, x: str, columns: tuple[int, int], y: str, lines: tuple[int, int]) -> Phrase:
    """Return a phrase for where something is, in thirds of the field."""
    return Phrase(
        f"{subject} is at the {{{x}_line}} {{{x}_column}}",
        {f"{x}_line": Where(y, HEIGHTS, lines), f"{x}_column": Where(x, SIDES, columns)},
    )


def _ball(columns: tuple[int, int], lines: tuple[int, int]) -> Phrase:
    """Return the phrase for a ball, in thirds of the field, and its way."""
    return Phrase(
        "the ball is at the {ball_line} {ball_column} and goes {ball_rises} and {ball_goes}",
        {
            "ball_line": Where("ball_y", HEIGHTS, lines),
            "ball_column": Where("ball_x", SIDES, columns),
            "ball_rises": Motion("ball_y", ROWS),
            "ball_goes": Motion("ball_x", COLUMNS),
        },
        gone=("ball_y", 0),
        otherwise="no ball is in play",
    )


PONG = Labels(
    variables={
        "player_y": 51,
        "enemy_y": 50,
        "ball_x": 49,
        "ball_y": 54,
        "player_score": 14,  # plain binary, as is the enemy's
        "enemy_score": 13,
    },
    things={
        "wall": (Place((14,), (24, 34, 0, 160)), Place((14,), (194, 210, 0, 160))),
        "enemy score": (Place((56,), (1, 21, 20, 52)),),
        "player score": (Place((200,), (1, 21, 100, 132)),),
        "enemy": (Place((56,), (34, 194, 16, 20)),),
        "player": (Place((200,), (34, 194, 140, 144)),),
        "ball": (Place((14,), (34, 194, 0, 160)),),
    },
    phrases=(
        _ball((101, 155), (99, 153)),
        Phrase(
            "the player is at the {player_line} and moves {player_moves}",
            {"player_line": Where("player_y", HEIGHTS, (91, 145)), "player_moves": Motion("player_y", RISES_FALLS)},
        ),
        Phrase(
            "the enemy is at the {enemy_line} and moves {enemy_moves}",
            {"enemy_line": Where("enemy_y", HEIGHTS, (91, 145)), "enemy_moves": Motion("enemy_y", RISES_FALLS)},
            gone=("enemy_y", 0),
            otherwise="the enemy is away",
        ),
        Phrase(
            "the score is {enemy_score} to {player_score}",
            {
                "enemy_score": Count(("enemy_score",), decimal=False),
                "player_score": Count(("player_score",), decimal=False),
            },
        ),
    ),
)

_BREAKOUT_BALL = Anchor(width=2, height=4, x=99, dx=-49, y=101, dy=9)
BREAKOUT = Labels(
    variables={"player_x": 72, "ball_x": 99, "ball_y": 101, "score_low": 77, "score_high": 76, "lives": 57},
    things={
        "wall": (
            Place((6,), (17, 32, 0, 160)),
            Place((6, 182), (32, 196, 0, 8)),
            Place((6, 70), (32, 196, 152, 160)),
        ),
        "brick": tuple(
            Place((colour,), (57 + 6 * row, 63 + 6 * row, 8, 152))
            for row, colour in enumerate((70, 54, 38, 22, 198, 134))
        ),
        "score": (Place((6,), (5, 15, 30, 90)),),
        "lives": (Place((6,), (5, 15, 95, 116)),),
        "player": (Place((70,), (189, 193, 8, 152)),),
        "ball": (
            Place((6,), (32, 57, 8, 152)),
            Place((70, 54, 38, 22, 198, 134), (57, 93, 8, 152), _BREAKOUT_BALL),  # it takes the bricks' colours
            Place((70,), (93, 189, 8, 152)),
            Place((70,), (189, 196, 8, 152), _BREAKOUT_BALL),
        ),
    },
    phrases=(
        _ball((104, 152), (76, 130)),
        Phrase(
            "the paddle is at the {player_column} and moves {player_moves}",
            {"player_column": Where("player_x", SIDES, (97, 145)), "player_moves": Motion("player_x", LEFT_RIGHT)},
        ),
        Phrase(
            "the score is {score} with {lives} lives",
            {"score": Count(("score_high", "score_low")), "lives": Count(("lives",), decimal=False)},
        ),
    ),
)

FREEWAY = Labels(
    variables={"player_y": 14, "score": 103, **{f"car_{lane}_x": 118 - lane for lane in range(1, 11)}},
    things={
        "line": (Place((30,), (102, 105, 8, 160)), Place((12,), (39, 168, 8, 160))),
        "score": (Place((74,), (4, 14, 30, 64)), Place((74,), (4, 14, 100, 130))),
        "car": tuple(
            Place((colour,), (28 + 16 * lane, 36 + 16 * lane, 8, 160))
            for lane, colour in enumerate((66, 220, 18, 74, 130, 36, 136, 68, 216, 26))
        ),
        "other chicken": (Place((30,), (187, 195, 104, 118)),),
        "chicken": (Place((30,), (15, 195, 40, 56), Anchor(width=7, height=8, dx=44, y=14, dy=193, upwards=True)),),
    },
    phrases=(
        Phrase(
            "the chicken is at the {chicken_line} and moves {chicken_moves}",
            {
                "chicken_line": Where("player_y", HEIGHTS[::-1], (62, 122)),
                "chicken_moves": Motion("player_y", FALLS_RISES),
            },
        ),
        Phrase(
            "the car in the top lane is at the {top_car}, in the bottom lane at the {bottom_car}",
            {"top_car": Where("car_1_x", SIDES, (53, 106)), "bottom_car": Where("car_10_x", SIDES, (53, 106))},
        ),
        Phrase("the score is {score}", {"score": Count(("score",))}),
    ),
)

BOXING = Labels(
    variables={
        "player_x": 32,
        "player_y": 34,
        "enemy_x": 33,
        "enemy_y": 35,
        "player_score": 18,
        "enemy_score": 19,
        "clock_seconds": 17,
    },
    things={
        "ropes": (Place((40,), (25, 188, 24, 136)),),
        "clock": (Place((208,), (17, 24, 60, 96)),),
        "player score": (Place((12,), (5, 12, 34, 60)),),
        "enemy score": (Place((0,), (5, 12, 98, 124)),),
        "enemy": (Place((0,), (32, 181, 34, 126)),),
        "player": (Place((12,), (32, 181, 34, 126)),),
    },
    phrases=(
        _at("the player", "player_x", (51, 81), "player_y", (30, 61)),
        _at("the enemy", "enemy_x", (55, 85), "enemy_y", (30, 61)),
        Phrase(
            "the score is {player_score} to {enemy_score}",
            {"player_score": Count(("player_score",)), "enemy_score": Count(("enemy_score",))},
        ),
    ),
)

SPACE_INVADERS = Labels(
    variables={
        "player_x": 28,
        "invaders_left": 17,
        "invaders_x": 26,
        "invaders_y": 16,  # in pairs of lines
        "saucer_x": 30,
        "shot_x": 87,
        "shot_y": 85,
        "lives": 73,
        "score_high": 102,
        "score_low": 104,
    },
    things={
        "ground": (Place((226,), (195, 210, 0, 160)),),
        "score": (Place((196, 246), (8, 22, 0, 160)),),
        "invader": (Place((20,), (20, 157, 0, 160)),),
        "shield": (Place((52,), (157, 175, 0, 160)),),
        "saucer": (Place((82,), (10, 22, 0, 160)),),
        "player": (Place((196,), (185, 195, 0, 84)),),
        "shot": (Place((6,), (22, 195, 0, 160)),),  # the player's and the invaders' bombs
    },
    phrases=(
        Phrase(
            "the player is at the {player_column}",
            {"player_column": Where("player_x", SIDES, (63, 91))},
        ),
        Phrase("{invaders_left} invaders are left", {"invaders_left": Count(("invaders_left",), decimal=False)}),
        Phrase("the score is {score}", {"score": Count(("score_high", "score_low"))}),
    ),
)

SEAQUEST = Labels(
    variables={
        "player_x": 70,
        "player_y": 97,
        "player_direction": 86,
        "torpedo_x": 103,
        "oxygen": 102,
        "divers_collected": 62,
        "spare_lives": 59,
        "score_middle": 57,
        "score_low": 58,
        **{f"lane_{lane}_enemy_x": 30 + lane for lane in range(4)},
        **{f"lane_{lane}_diver_x": 71 + lane for lane in range(4)},
    },
    things={
        "score": (Place((26,), (8, 18, 50, 110)),),
        "oxygen": (Place((12,), (170, 175, 49, 112)),),
        "lives": (Place((26,), (22, 30, 50, 120)),),
        "collected diver": (Place((130,), (178, 187, 50, 120)),),
        "shark": (Place((200, 232), (60, 155, 8, 160)),),  # of the first two levels
        "submarine": (Place((8,), (60, 155, 8, 160)),),
        "diver or enemy torpedo": (Place((134,), (60, 155, 8, 160)),),
        "player": (Place((24,), (46, 154, 8, 160)),),
        "torpedo": (Place((24,), (57, 154, 8, 160), Anchor(width=8, height=1, x=103, y=97, dy=40)),),
    },
    phrases=(
        _at("the player", "player_x", (50, 101), "player_y", (44, 79)),
        Phrase("the player faces {facing}", {"facing": Where("player_direction", ("right", "left"), (8,))}),
        Phrase("the oxygen is {oxygen}", {"oxygen": Where("oxygen", ("low", "half", "full"), (22, 44))}),
        Phrase("{divers} divers are aboard", {"divers": Count(("divers_collected",), decimal=False)}),
    ),
)

_MAZE = (1, 172, 0, 160)
MS_PACMAN = Labels(
    variables={
        "player_x": 10,
        "player_y": 16,
        "player_direction": 56,
        **{
            f"{name}_{axis}": 6 + 6 * (axis == "y") + i
            for axis in "xy"
            for i, name in enumerate(("sue", "inky", "pinky", "blinky"))
        },
        "fruit_x": 11,
        "fruit_y": 17,
        "dots_eaten": 119,
        "spare_lives": 123,
        "score_low": 120,
        "score_middle": 121,
    },
    things={  # colours of the first maze
        "walls and dots": (Place((74,), _MAZE),),
        "score": (Place((40,), (187, 194, 50, 104)),),
        "lives": (Place((24,), (173, 183, 8, 60)),),
        "edible ghost": (Place((150, 12), _MAZE),),
        "sue": (Place((38,), _MAZE),),
        "inky": (Place((184,), _MAZE),),
        "pinky": (Place((88,), _MAZE),),
        "blinky": (Place((70,), _MAZE),),
        "fruit": (Place((68,), _MAZE),),
        "player": (Place((42,), _MAZE),),
    },
    phrases=(
        _at("the player", "player_x", (61, 115), "player_y", (52, 109)),
        *(_at(ghost, f"{ghost}_x", (61, 115), f"{ghost}_y", (52, 109)) for ghost in ("sue", "inky", "pinky", "blinky")),
    ),
)

ENDURO = Labels(
    variables={
        "player_x": 46,  # signed, to the left
        "speed": 22,
        "cars_left": 43,
        "day": 45,
        **{f"slot_{slot}_car": 27 + slot for slot in range(7)},  # its colour, or 0 for none
    },
    things={  # other colours at other times of the day; these are the morning's
        "cars left": (Place((0,), (179, 188, 70, 104)),),
        "odometer": (Place((0,), (164, 173, 56, 96)),),
        "car": (Place((22, 54, 70, 86, 134, 150, 166, 182, 214, 230, 246), (56, 155, 8, 160)),),
        "player": (
            Place((10,), (113, 155, 8, 160), Anchor(width=16, height=11, x=46, dx=77, y=52, dy=89, halved=True)),
        ),
    },
    phrases=(
        Phrase(
            "the player is at the {player_column} and {player_speed}",
            {
                "player_column": Where("player_x", SIDES[::-1], (-15, 15), signed=True),
                "player_speed": Where("speed", ("crawls", "drives", "races"), (30, 80)),
            },
        ),
    ),
)

QBERT = Labels(
    variables={
        "player_x": 43,
        "player_y": 67,
        "coily_row": 39,
        "coily_column": 71,
        "score_high": 89,
        "score_middle": 90,
        "score_low": 91,
        # The cubes' colours, row by row.
        **{
            f"cube_{cube}": address
            for cube, address in enumerate(
                (21, 52, 54, 83, 85, 87, 98, 100, 102, 104, 1, 3, 5, 7, 9, 32, 34, 36, 38, 40, 42), start=1
            )
        },
    },
    things={  # colours of the first level
        "cube side": (Place((184,), (39, 206, 8, 152)),),
        "cube top": (Place((26, 148), (34, 184, 8, 152)),),
        "score": (Place((26,), (4, 14, 20, 90)),),
        "lives": (Place((26,), (15, 29, 20, 90)),),
        "disk": tuple(Place(tuple(range(2, 256, 2)), (138, 140, left, left + 8)) for left in (12, 140)),  # all colours
        "purple ball or coily": (Place((102,), (29, 210, 0, 160)),),
        "green enemy": (Place((196,), (29, 210, 0, 160)),),
        "curse": (Place((254,), (29, 210, 0, 160)),),
        "player": (Place((52,), (8, 210, 0, 160)),),
    },
    phrases=(
        _at("the player", "player_x", (50, 107), "player_y", (86, 144)),
        Phrase("the score is {score}", {"score": Count(("score_high", "score_middle", "score_low"))}),
    ),
)

BEAM_RIDER = Labels(
    variables={
        "player_x": 41,
        "shot_x": 40,
        "shot_depth": 32,
        "spare_ships": 5,
        "torpedoes_left": 83,
        "enemies_left": 84,
        "sector": 0,
        "score_high": 11,
        "score_middle": 10,
        "score_low": 9,
        **{f"enemy_{slot}_x": 33 + slot for slot in range(7)},
        **{f"enemy_{slot}_depth": 25 + slot for slot in range(7)},
    },
    things={  # colours of the first sector
        "grid": (Place((164,), (43, 166, 8, 160)),),
        "score": (Place((42,), (9, 19, 40, 130)),),
        "enemies left": (Place((212,), (31, 41, 8, 60)),),
        "torpedoes": (Place((98,), (30, 42, 90, 160)),),
        "lives": (Place((26,), (182, 192, 20, 90)),),
        "explosion": (Place((22, 26, 38), (44, 165, 8, 160)),),
        "player": (Place((26, 70), (167, 181, 8, 160)),),
        "saucer": (Place((14,), (66, 164, 8, 160)), Place((8,), (43, 66, 8, 160))),
        "bomb": (Place((86,), (66, 164, 8, 160)),),
        "yellow ship": (Place((24,), (66, 164, 8, 160)),),
        "purple diamond": (Place((104,), (66, 164, 8, 160)),),
        "shot": (Place((54,), (62, 164, 8, 160)),),
    },
    phrases=(
        Phrase("the player is at the {player_column}", {"player_column": Where("player_x", SIDES, (117, 139))}),
        Phrase("{enemies_left} enemies are left", {"enemies_left": Count(("enemies_left",), decimal=False)}),
        Phrase("the score is {score}", {"score": Count(("score_high", "score_middle", "score_low"))}),
    ),
)

LABELS: dict[str, Labels] = {
    "pong": PONG,
    "breakout": BREAKOUT,
    "freeway": FREEWAY,
    "boxing": BOXING,
    "space_invaders": SPACE_INVADERS,
    "seaquest": SEAQUEST,
    "ms_pacman": MS_PACMAN,
    "enduro": ENDURO,
    "qbert": QBERT,
    "beam_rider": BEAM_RIDER,
}
