"""A claim stands only if its intervals say so, over seeds and problems."""

import pytest

from qwen_align.errors import ConfigError
from qwen_align.metric.claim import Cell, Claim, check_claims, judge

A, B = Cell("a", "pass@1"), Cell("b", "pass@1")
METHOD = {"rows": {"a": {"seeds": [1, 2, 3]}, "b": {"seeds": [1, 2, 3]}, "c": {"seeds": [4]}}, "metrics": ["pass@1"]}


def values(**rows):
    """row -> seed -> one value a problem, as the claims read them."""
    return {row: {"pass@1": dict(enumerate(own, 1))} for row, own in rows.items()}


def test_a_claim_is_confirmed_if_the_difference_is_above_0_over_seeds_and_problems():
    found = judge(Claim("s", B, (A,)), values(a=[[0.0] * 20] * 3, b=[[0.4 + s / 100] * 20 for s in (1, 2, 3)]))
    assert found.confirmed
    assert found.contrasts[0].whole.mean == pytest.approx(0.42)


def test_seeds_that_disagree_confirm_nothing():
    found = judge(Claim("s", B, (A,)), values(a=[[0.0] * 20] * 3, b=[[v] * 20 for v in (0.0, 0.05, 0.5)]))
    assert found.contrasts[0].whole.mean > 0.1
    assert not found.confirmed


@pytest.mark.parametrize(("each_seed", "confirmed"), [(False, True), (True, False)])
def test_steady_asks_every_seed(each_seed, confirmed):
    noisy = [1.0, -0.5] * 10  # mean 0.25, an interval of its own around 0
    measured = values(a=[[0.0] * 20] * 3, b=[[0.32] * 20, noisy, [0.31] * 20])
    assert judge(Claim("s", B, (A,), each_seed=each_seed), measured).confirmed is confirmed


def test_more_than_double_is_the_difference_to_twice_the_other():
    found = judge(Claim("s", B, (A,), times=2), values(a=[[0.4] * 20], b=[[0.7] * 20]))
    assert found.contrasts[0].whole.mean == pytest.approx(-0.1)
    assert not found.confirmed


def test_rows_are_compared_on_the_seeds_that_both_have():
    measured = {"a": {"pass@1": {1: [0.0] * 20, 2: [1.0] * 20}}, "b": {"pass@1": {2: [1.0] * 20}}}
    (contrast,) = judge(Claim("s", B, (A,)), measured).contrasts
    assert (list(contrast.seeds), contrast.whole.mean) == ([2], 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": []}, "method.metrics=.*: expected what the rows are compared by"),
        ({"rows": {"a": {"seeds": []}}}, "method.rows.a.seeds=.*: expected one seed or more"),
    ],
)
def test_a_table_has_a_metric_and_a_row_a_seed(change, message):
    with pytest.raises(ConfigError, match=message):
        check_claims(METHOD | {"claims": []} | change)


def test_claims_are_read_once():
    node = {"says": "s", "better": "b/pass@1", "than": ["a/pass@1"], "each_seed": True}
    assert check_claims(METHOD | {"claims": [node]}) == [Claim("s", B, (A,), each_seed=True)]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"says": "s", "better": "a/pass@2", "than": ["b/pass@1"]}, r"a/pass@2: no such row and metric \(did you mean"),
        ({"says": "s", "better": "a/pass@1"}, "expected says, better and than"),
        ({"says": "s", "better": "a/pass@1", "than": ["b/pass@1"], "time": 2}, "expected says, better and than"),
        ({"says": "s", "better": "a/pass@1", "than": ["c/pass@1"]}, "a and c have no seed in common"),
    ],
)
def test_a_claim_about_nothing_is_one_error(node, message):
    with pytest.raises(ConfigError, match=message):
        check_claims(METHOD | {"claims": [node]})
