"""What the name of a metric says."""

import pytest

from qwen_align.metric.name import best_of, of_samples


@pytest.mark.parametrize(
    ("metric", "kind", "n"),
    [("pass@1", "pass@", 1), ("best_of_16", "best_of_", 16), ("majority@4", "majority@", 4), ("reward@64", "reward@", 64)],
)
def test_a_metric_of_samples_says_of_how_many(metric, kind, n):
    assert of_samples(metric) == (kind, n)


@pytest.mark.parametrize("metric", ["greedy", "best_of_", "best_of_all", "pass@1/hard", "my_best_of_4", "reward"])
def test_any_other_name_is_a_metric_of_its_own(metric):
    assert of_samples(metric) is None


def test_best_of_n_comes_in_the_order_of_n():
    assert best_of(["best_of_16", "greedy", "best_of_2"]) == {2: "best_of_2", 16: "best_of_16"}
