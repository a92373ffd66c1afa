"""Buckets, and which example stands where."""

from collections import Counter

import numpy as np
import pytest
import torch

from tuner.data.buckets import WIDEST, buckets, placement
from tuner.data.order import Order
from tuner.data.source import Source


@pytest.mark.parametrize(("side", "unit"), [(64, 16), (32, 8), (512, 64), (768, 64), (1024, 32), (1056, 32), (512, 8)])
def test_buckets_have_whole_units_like_area_and_bounded_shape(side, unit):
    found = buckets(side, unit)
    assert (side, side) in found and len(found) % 2 == 1
    for width, height in found:
        assert width % unit == height % unit == 0
        assert 0.75 * side * side <= width * height <= side * side
        assert max(width, height) <= WIDEST * min(width, height)
        assert (height, width) in found


def test_the_usual_sizes():
    assert buckets(512, 64)[2:5] == ((448, 576), (512, 512), (576, 448))
    assert {(832, 1216), (896, 1152), (1152, 896), (1216, 832), (768, 1344)} < set(buckets(1024, 32))


def test_nearest_shape_covering_middle():
    place = placement((1200, 800), 512, 64)
    assert place.bucket == (640, 384) and place.scaled == (640, 427) and (place.left, place.top) == (0, 21)
    assert place.sizes == (800, 1200, 21, 0, 384, 640) and not place.enlarged
    assert placement((800, 1200), 512, 64).sizes == (1200, 800, 0, 21, 640, 384)
    assert placement((100, 100), 512, 64).enlarged
    assert placement((500, 500), 512, 64, squares=True).bucket == (512, 512)
    for width in range(200, 801, 37):
        place = placement((width, 400), 512, 64)
        assert all(s >= b for s, b in zip(place.scaled, place.bucket, strict=True))
        assert place.lost < 0.15


def source(counts, global_batch, seed=5, visits=None):
    sizes = torch.cat([torch.tensor([[9, 9, 0, 0, 8 * (b + 1), 8]] * n) for b, n in enumerate(counts)])
    shuffle = torch.from_numpy(np.random.default_rng(0).permutation(len(sizes)))
    return Source(seed, global_batch, [str(i) for i in range(len(sizes))], sizes=sizes[shuffle], visits=visits)


@pytest.mark.parametrize(("counts", "global_batch"), [((10,), 4), ((7, 3), 4), ((1, 12, 5), 3), ((2, 2, 2, 9), 1)])
def test_over_a_cycle_every_visit_is_paid_equally_often(counts, global_batch):
    it, cycle = source(counts, global_batch), sum(counts)
    for number in range(3):
        steps = [it.batch(number * cycle + step, range(global_batch)) for step in range(cycle)]
        paid = Counter(caption for batch in steps for caption in batch.captions)
        assert set(paid.values()) == {global_batch} and len(paid) == cycle
        assert all(len({tuple(row) for row in batch.sizes[:, 4:].tolist()}) == 1 for batch in steps)


def test_buckets_are_spread_evenly():
    it = source((30, 10), 2)
    taken = np.cumsum([int(it.batch(step, [0]).sizes[0, 4]) == 16 for step in range(40)])
    assert np.abs(taken - np.arange(1, 41) / 4).max() <= 1


def test_repeats_count_in_their_bucket():
    visits = torch.tensor([0, 0, 0, 1, 2, 3])
    it = source((3, 1), 2, visits=visits)
    paid = Counter(c for step in range(6) for c in it.batch(step, range(2)).captions)
    assert paid == {"0": 6, "1": 2, "2": 2, "3": 2}


def test_parts_of_a_batch_are_the_batch():
    it = source((7, 3, 4), 8)
    for step in (0, 5, 13, 14, 99):
        whole = it.batch(step, range(8))
        parts = [it.batch(step, range(i, i + 2)) for i in range(0, 8, 2)]
        assert whole.captions == sum((part.captions for part in parts), ())
        assert torch.equal(whole.sizes, torch.cat([part.sizes for part in parts]))
        noise = torch.cat([part.draw.normal("noise", 3) for part in parts])
        assert torch.equal(whole.draw.normal("noise", 3), noise)


def test_one_bucket_is_the_order_of_old():
    plain = Source(5, 4, [str(i) for i in range(10)])
    bucketed = source((10,), 4)
    assert [plain.batch(s, range(4)).captions for s in range(9)] == [
        bucketed.batch(s, range(4)).captions for s in range(9)
    ]


def test_seeds_differ_and_steps_are_cheap():
    many = np.array_split(np.arange(100_000), 13)
    one, other = Order(1, many), Order(2, many)
    assert [one.examples(s, [0], 8) for s in range(5)] != [other.examples(s, [0], 8) for s in range(5)]
    for step in range(20_000):  # seconds, were a cycle or an epoch sorted in each
        one.examples(step, [0], 8)
