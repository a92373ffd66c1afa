"""Contact sheets: every word is on them, under or above its picture."""

import numpy as np
from PIL import Image

from tuner.evaluation.sheet import GAP, captioned, grid


def plain(colour):
    return Image.new("RGB", (32, 32), colour)


def test_each_picture_has_all_its_words_under_it():
    words = ["a cat", "two very small teddy bears to the left of a hamburger in front of a checkered background"]
    sheet = captioned([plain("red"), plain("blue"), plain("lime")], [*words, "x"], across=2, cell=96)
    seen = np.asarray(sheet)
    rows, columns = np.nonzero((seen == (0, 0, 255)).all(-1))
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (96, 96)
    assert columns.min() == 2 * GAP + 96 and rows.min() == GAP
    inked = (seen < 100).all(-1)
    under = inked[rows.max() + 1 : np.nonzero((seen == (0, 255, 0)).all(-1))[0].min()]
    short, long = (under[:, side].any(1).sum() for side in (slice(0, 96 + GAP), slice(96 + GAP, None)))
    assert long > 4 * short  # wrapped, not cut: many lines
    assert not under[:, GAP + GAP + 2 * 96 + 1 :].any()  # and none beyond its picture


def test_a_row_of_few_pictures_is_as_wide_as_its_words():
    few = grid([[plain("red")]], ["a pencil sketch of a teddy bear"], cell=32)
    assert few.width > 150
    assert grid([[plain("red")]], ["word " * 500], cell=32).width == 640
    assert grid([[plain("red")] * 30], ["a cat"], cell=32).width == 30 * (32 + GAP) + GAP
