"""Paired differences of every pair of policies."""

from qwen_align.metric.difference import Difference, differences
from qwen_align.metric.interval import Interval, paired


def test_every_pair_is_compared_the_later_policy_minus_the_earlier():
    found = differences({"sft": {"greedy": [0.0, 1.0]}, "dpo": {"greedy": [1.0, 1.0]}, "rloo": {"greedy": [1.0, 0.0]}})
    assert [(one.after, one.before) for one in found] == [("dpo", "sft"), ("rloo", "sft"), ("rloo", "dpo")]
    assert [one.metrics["greedy"].mean for one in found] == [0.5, 0.0, -0.5]


def test_each_metric_has_its_paired_interval():
    old, new = ({"greedy": [0.0, 1.0, 0.0], "judge": [1.0, 2.0, 3.0]}, {"greedy": [1.0, 1.0, 0.0], "judge": [1.5, 2.5, 3.5]})
    expected = Difference("b", "a", {"greedy": paired(new["greedy"], old["greedy"]), "judge": Interval(0.5, 0.5, 0.5)})
    assert differences({"a": old, "b": new}) == [expected]


def test_one_policy_differs_from_none():
    assert differences({"a": {"greedy": [1.0]}}) == []
