from __future__ import annotations

import numpy as np
import pytest

from foretune.data.sampling import draw, draw_row_seeds, draw_train_dev
from foretune.errors import UsageError

# split length, first four rows under seed 0, rows 1000 to 1002 of the draw, as in the published setting
GOLDEN = [
    (67349, [43787, 16159, 59015, 5108], [2307, 42285, 56182]),
    (872, [372, 676, 548, 293], None),
    (8544, [4816, 722, 3121, 3448], [6084, 6318, 704]),
    (2490, [2325, 1450, 1047, 2390], [189, 505, 1893]),
    (277, [218, 225, 190, 15], None),
    (250, [225, 122, 92, 157], None),
    (56, [45, 33, 40, 26], None),
    (9427, [4424, 3019, 5529, 9232], [5556, 1892, 9023]),
    (3270, [1184, 92, 2193, 2319], None),
    (554, [85, 132, 96, 107], None),
    (104, [26, 61, 2, 62], None),
    (5428, [2708, 1625, 3158, 2382], [4527, 1595, 269]),
    (638, [458, 530, 517, 591], None),
    (27243, [3085, 7448, 11614, 4691], [9578, 24183, 3474]),
    (4848, [415, 910, 2740, 3965], None),
    (400, [132, 309, 341, 196], None),
    (100, [26, 86, 2, 55], None),
    (100730, [46709, 71939, 14815, 28500], [76149, 66078, 52979]),
    (10000, [9394, 898, 2398, 5906], None),
    (87599, [50436, 22762, 45227, 54941], [1003, 44969, 80288]),
    (10570, [4004, 2588, 8936, 2569], None),
    (77400, [67454, 11388, 48515, 48537], [47984, 52202, 58407]),
    (9535, [1842, 1824, 5622, 2861], None),
    (2558, [917, 2551, 2465, 2055], [587, 1043, 357]),
    (1267, [792, 320, 1001, 5], None),
]


@pytest.mark.parametrize(("length", "first", "later"), GOLDEN)
def test_golden_draws(length, first, later):
    assert draw(length, 4, seed=0) == first
    if later is not None:
        assert draw(length, 1003, seed=0)[1000:] == later


def test_golden_permutations():
    assert draw(10, 10, seed=0) == [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]
    assert draw(20, 6, seed=13) == [11, 12, 0, 1, 8, 5]


@pytest.mark.parametrize(
    ("length", "num_train", "num_dev", "sizes"),
    [
        (67349, 1000, 500, (1000, 500)),
        (554, 1000, 500, (54, 500)),  # WSC
        (250, 1000, 100, (150, 100)),  # CB
        (400, 1000, 100, (300, 100)),  # COPA
        (400, 0, 100, (0, 100)),  # zero-shot with dev rows
        (80, 0, 100, (0, 80)),
        (400, 30, 0, (30, 0)),
    ],
)
def test_dev_is_the_tail_of_one_draw_and_takes_its_full_share(length, num_train, num_dev, sizes):
    train, dev = draw_train_dev(length, num_train, num_dev, seed=0)
    assert (len(train), len(dev)) == sizes
    assert train + dev == draw(length, num_train + num_dev, seed=0)
    assert not set(train) & set(dev)


def test_no_training_rows_left_is_an_error():
    with pytest.raises(UsageError, match=r"No training rows are left.* 250 rows and --num-dev is 500.*below 250"):
        draw_train_dev(250, 1000, 500, seed=0)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range_is_refused(seed):
    with pytest.raises(UsageError, match=f"train_set_seed is {seed}"):
        draw(10, 1, seed)


def test_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()
    draw(100, 10, seed=0)
    assert np.array_equal(before, np.random.get_state()[1])


def test_golden_seeds_of_demonstrations():
    assert draw_row_seeds(1000)[:6] == [2732, 9845, 3264, 4859, 9225, 7891]
    assert draw_row_seeds(6) == draw_row_seeds(1000)[:6]
