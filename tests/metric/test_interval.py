"""95 % intervals, against values worked out by hand."""

import math

import numpy as np
import pytest

from qwen_align.metric import interval

Z = 1.959963984540054  # of the normal distribution, at 97.5 %


def test_wilsons_interval_of_eight_out_of_ten():
    n, p = 10, 0.8
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    found = interval.share([True] * 8 + [False] * 2)
    assert vars(found) == pytest.approx({"mean": 0.8, "low": centre - half, "high": centre + half})


def test_none_right_has_an_interval_above_zero():
    found = interval.share([False] * 20)
    assert (found.mean, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(Z**2 / (20 + Z**2))


def test_all_right_has_an_interval_below_one():
    found = interval.share([True] * 20)
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(20 / (20 + Z**2))


def test_the_bootstrap_of_two_values_reaches_both():
    # Of four equally likely draws of two, one is all 0 and one all 1: 25 % each, so both ends lie inside 95 %.
    assert interval.mean([0.0, 1.0]) == interval.Interval(0.5, 0.0, 1.0)


def test_the_bootstrap_is_about_the_normal_interval_for_many_values():
    values = [float(i % 10 < 3) for i in range(1000)]
    half = Z * math.sqrt(0.3 * 0.7 / 1000)
    found = interval.mean(values)
    assert found.mean == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - half, abs=0.004)
    assert found.high == pytest.approx(0.3 + half, abs=0.004)


def test_the_same_seed_gives_the_same_interval():
    values = [0.1, 0.5, 0.2, 0.9, 0.4, 0.7]
    assert interval.mean(values, seed=3) == interval.mean(values, seed=3)


@pytest.mark.parametrize("values", [[0.25], [0.25, 0.25, 0.25]])
def test_values_that_do_not_vary_have_no_width(values):
    assert interval.mean(values) == interval.Interval(0.25, 0.25, 0.25)


def test_a_pair_is_compared_problem_by_problem():
    # Each problem gains exactly 0.25, although the problems themselves differ widely.
    found = interval.paired([0.25, 0.5, 1.0], [0.0, 0.25, 0.75])
    assert found == interval.Interval(0.25, 0.25, 0.25)


def test_a_difference_is_after_minus_before():
    found = interval.paired([0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0])
    assert found.mean == -0.5
    assert (found.low, found.high) == (-1.0, 0.0)


def test_pairs_of_another_length_are_an_error():
    with pytest.raises(ValueError, match="shorter"):
        interval.paired([1.0, 0.0, 1.0], [1.0, 0.0])


def test_shares_that_are_all_0_are_no_certainty():
    assert interval.mean([0.0] * 20, shares=True) == interval.share([False] * 20)
    assert interval.mean([1.0] * 20, shares=True).low < 0.85
    assert interval.mean([0.0] * 20) == interval.Interval(0.0, 0.0, 0.0)


def test_an_interval_over_seeds_and_problems_holds_both_and_is_wider_than_either():
    rng = np.random.default_rng(0)
    problems = rng.normal(0.0, 1.0, 400)
    values = [problems + shift for shift in (-0.1, 0.0, 0.1)]
    found = interval.crossed(values)
    over_problems = interval.mean(np.mean(values, axis=0))
    seeds = 4.302652729911275 * 0.1 / 3**0.5  # Student's t with two degrees of freedom
    assert found.mean == pytest.approx(over_problems.mean)
    assert found.high - found.mean == pytest.approx(np.hypot(seeds, over_problems.high - found.mean), abs=1e-3)
    assert found.mean - found.low == pytest.approx(np.hypot(seeds, found.mean - over_problems.low), abs=1e-3)


def test_one_seed_knows_of_problems_alone():
    assert interval.crossed([[0.0, 1.0, 1.0, 0.0]]) == interval.mean([0.0, 1.0, 1.0, 0.0])
