import numpy as np

from perception.pictures import in_motion, lit


def test_what_stands_still_is_grey_and_what_moves_has_the_colour_of_its_time() -> None:
    still = np.full((4, 2, 2), 90, np.uint8)
    assert (in_motion(still) == 90).all()
    for newest, colour in ((0, 0), (3, 2)):  # red and blue
        stack = np.zeros((4, 2, 2), np.uint8)
        stack[newest, 0, 0] = 200
        assert in_motion(stack)[0, 0].tolist() == [150 if channel == colour else 0 for channel in range(3)]
        assert not in_motion(stack)[1].any()
    between = np.zeros((4, 1, 1), np.uint8)
    between[1] = 200  # a quarter of red, half of green
    assert in_motion(between)[0, 0].tolist() == [50, 100, 0]


def test_pictures_are_shown_as_they_are() -> None:
    rgb = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    assert np.array_equal(in_motion(rgb), rgb.transpose(1, 2, 0))
    assert in_motion(rgb[:1])[1, 1].tolist() == [3, 3, 3]


def test_it_glows_where_the_map_is_greatest() -> None:
    picture = np.full((8, 8, 3), 100, np.uint8)
    where = np.zeros((2, 2))
    where[0, 1] = 7.0
    seen = lit(picture, where)
    assert seen[0, 7].tolist() == [197, 158, 100] and seen[7, 0].tolist() == [70] * 3
    assert (lit(picture, np.zeros((2, 2))) == 70).all()
