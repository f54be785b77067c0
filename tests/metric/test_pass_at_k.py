"""pass@k and best-of-N, against values worked out by hand."""

from itertools import combinations

import pytest

from qwen_align.metric.pass_at_k import PassAtK, estimate, ks

# Two problems, four samples each: the first has one right sample, the third; the second has two, the first and the last.
SAMPLES = [[False, False, True, False], [True, False, False, True]]


@pytest.fixture(scope="module")
def metrics() -> dict:
    return PassAtK(keep_in_memory=True).compute(predictions=SAMPLES)


@pytest.mark.parametrize(
    ("samples", "correct", "k", "expected"),
    [
        (4, 1, 1, 1 / 4),
        (4, 1, 2, 1 / 2),  # 3 of the 6 pairs hold the right one
        (4, 2, 2, 5 / 6),  # 1 of the 6 pairs holds no right one
        (4, 1, 4, 1.0),
        (4, 0, 4, 0.0),
        (4, 4, 1, 1.0),
        (10, 3, 5, 1 - 21 / 252),  # C(7, 5) / C(10, 5)
    ],
)
def test_estimate(samples, correct, k, expected):
    assert estimate(samples, correct, k) == pytest.approx(expected)


def test_estimate_is_the_share_of_all_draws_that_hold_a_right_one():
    for correct in range(7):
        pool = [i < correct for i in range(6)]
        for k in range(1, 7):
            draws = list(combinations(pool, k))
            assert estimate(6, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize(("samples", "expected"), [(1, [1]), (2, [1, 2]), (3, [1, 2]), (4, [1, 2, 4]), (16, [1, 2, 4, 8, 16])])
def test_ks(samples, expected):
    assert ks(samples) == expected


@pytest.mark.parametrize(("key", "mean"), [("pass@1", (1 / 4 + 2 / 4) / 2), ("pass@2", (1 / 2 + 5 / 6) / 2), ("pass@4", 1.0)])
def test_pass_at_k_is_the_mean_over_problems(metrics, key, mean):
    assert metrics[key].mean == pytest.approx(mean)


@pytest.mark.parametrize(("key", "mean"), [("best_of_1", 1 / 2), ("best_of_2", 1 / 2), ("best_of_4", 1.0)])
def test_best_of_n_takes_the_samples_as_they_came(metrics, key, mean):
    assert metrics[key].mean == pytest.approx(mean)


def test_every_number_comes_with_its_interval(metrics):
    assert set(metrics) == {"pass@1", "pass@2", "pass@4", "best_of_1", "best_of_2", "best_of_4"}
    for value in metrics.values():
        assert 0 <= value.low <= value.mean <= value.high <= 1
