"""The numbers behind a report, read back from run folders."""

import pytest
from run_folders import around, chain, stage, trained

from qwen_align.metric.interval import Interval
from qwen_align.report import evidence
from qwen_align.stage.plan import Stage


def test_metrics_and_differences_are_read_back_as_intervals(tmp_path):
    found = evidence.gather(chain(tmp_path))
    assert found.policies["sft"].metrics["greedy"] == Interval(**around(0.39))
    (pair,) = found.last.differences
    assert (pair.after, pair.before, pair.metrics["greedy"]) == ("rloo", "sft", Interval(0.02, -0.02, 0.06))


def test_a_policy_is_known_by_pass_at_1_and_its_largest_best_of_n(tmp_path):
    found = evidence.gather(chain(tmp_path)).policies["rloo"]
    assert list(found.main()) == ["greedy", "pass@1", "best_of_16"]


def test_a_policy_is_known_by_its_largest_choice_without_a_verifier():
    found = evidence.summary_of({f"majority@{n}": around(0.5) for n in (2, 4)} | {"majority@4_of_all": around(0.6)})
    assert list(found.main()) == ["majority@4", "majority@4_of_all"]


def test_a_headline_says_which_policy_it_is_of(tmp_path):
    assert evidence.gather(chain(tmp_path)).last.headline == evidence.Headline(
        "best_of_16", "rloo", 1000, Interval(0.79, 0.77, 0.81)
    )


def test_stages_without_a_comparison_are_policies_of_their_own(tmp_path):
    found = evidence.gather(chain(tmp_path)[:2])
    assert list(found.policies) == ["sft", "rloo"]
    assert found.last.differences == []


def test_an_empty_run_folder_is_empty_evidence(tmp_path):
    found = evidence.gather([Stage("sft", {}, tmp_path, "0", {})])
    assert (found.policies, found.seconds, found.last.train) == ({}, 0.0, {})


def test_of_many_pairs_those_over_the_baseline_are_shown(tmp_path):
    pairs = [{"after": a, "before": b, "metrics": {"pass@1": around(0.1)}} for a, b in (("b", "a"), ("c", "a"), ("c", "b"))]
    found = evidence.outcome_of(stage(tmp_path, "compare", {"baseline": "a", "differences": pairs}))
    assert [(d.after, d.before) for d in found.shown_differences] == [("b", "a"), ("c", "a")]
    assert len(found.differences) == 3


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.01, 0.2, "higher"), (-0.2, -0.01, "lower"), (-0.1, 0.1, "within noise"), (0.0, 0.1, "within noise")],
)
def test_a_difference_is_one_if_its_interval_excludes_0(low, high, says):
    assert evidence.verdict(Interval((low + high) / 2, low, high)) == says


def test_no_number_of_a_policy_goes_without_its_interval(tmp_path):
    found = evidence.numbers(evidence.gather(chain(tmp_path)))
    assert found["rloo"] == {"greedy": 0.43, "pass@1": 0.34, "best_of_16": 0.79, "n": 1000}
    for metric in ("greedy", "pass@1", "best_of_16"):
        bounds = found["intervals"]["rloo"][metric]
        assert bounds["low"] <= found["rloo"][metric] <= bounds["high"]


def test_all_differences_are_in_a_jobs_numbers(tmp_path):
    stages = chain(tmp_path)
    assert evidence.numbers(evidence.gather(stages))["differences"] == evidence.gather(stages).last.differences


def test_a_policy_may_be_named_like_a_difference(tmp_path):
    names = ("a_minus_b", "b of a")
    metrics = {
        "policies": {name: {"n": 50, "win_rate": around(0.6), "raw": [1, 2]} for name in names},
        "differences": [{"after": names[1], "before": names[0], "metrics": {"win_rate": around(0.1)}}],
    }
    found = evidence.gather([stage(tmp_path, "judge", metrics)])
    assert list(found.policies) == list(names)
    assert found.policies["a_minus_b"].metrics == {"n": 50, "win_rate": Interval(**around(0.6))}
    assert [(d.after, d.before) for d in found.last.shown_differences] == [("b of a", "a_minus_b")]


def test_warnings_say_when_they_came(tmp_path):
    train = {"steps": 9, "trainable_parameters": 1, "warnings": [{"step": 9, "kind": "kl", "text": "far away"}]}
    warned = {"audit": {"warnings": ["20% are cut"]}}
    metrics = {"train": train, "evaluation": warned, "policies": {"sft": warned}}
    found = evidence.warnings(evidence.gather([stage(tmp_path, "sft", metrics)]))
    assert [found[1:] for found in found] == [
        ("9", "far away"),
        ("evaluation", "20% are cut"),
        ("evaluation of sft", "20% are cut"),
    ]


def test_the_time_of_all_stages_is_added_up(tmp_path):
    assert evidence.gather([trained(tmp_path, "sft", []), trained(tmp_path, "dpo", [])]).seconds == 121.0
