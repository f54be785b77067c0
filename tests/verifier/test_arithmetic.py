"""Tokens to postfix to an exact value."""

from fractions import Fraction
from math import inf

import pytest

from qwen_align.verifier.arithmetic import BOX, FRACTION, MAX_DIGITS, integer, to_postfix, value_of


def value(text: str):
    postfix = to_postfix(text.split())
    return None if postfix is None else value_of(postfix)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ("2 + 3 * 4", 14),
        ("12 / 6 / 2", 1),
        ("2 - 3 - 4", -5),
        ("- 2 * - 3", 6),
        ("+ 2", 2),
        ("( 1 + 2 ) * [ 3 ]", 9),
        ("1 / 3 + 1 / 6", Fraction(1, 2)),
        ("8 / ( 3 - 8 / 3 )", 24),
        (f"{FRACTION} 1 }} {{ 2 }} * 4", 2),
        (f"{BOX} 7 }}", 7),
    ],
)
def test_precedence_signs_brackets_and_fractions(tokens, expected):
    assert value(tokens) == expected


def test_integers_stay_integers_until_a_division_does_not_come_out_even():
    assert type(value("6 / 2")) is int
    assert type(value("7 / 2")) is Fraction


@pytest.mark.parametrize("tokens", ["", "+", "1 +", "1 2", "( 1", "1 )", "( 1 ]", "( )", "* 1", f"{FRACTION} 1 }}", "1 ( 2 )"])
def test_what_is_not_one_expression_has_no_postfix(tokens):
    assert to_postfix(tokens.split()) is None


@pytest.mark.parametrize("tokens", ["1 / 0", "0 / ( 2 - 2 )"])
def test_a_division_by_zero_has_no_value(tokens):
    assert value(tokens) is None


def test_a_literal_beyond_the_limit_is_infinite_unless_zeros_lead_it():
    assert integer("9" * (MAX_DIGITS + 1)) == inf
    assert integer("0" * MAX_DIGITS + "7") == 7
