"""The maths verifier on what nobody wrote by hand: any form of a rational, any text, and texts made to do harm."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_align.verifier.math import Verdict, answers, verify

CORRECT, WRONG, MALFORMED = Verdict.CORRECT, Verdict.WELLFORMED_WRONG, Verdict.MALFORMED


@pytest.mark.parametrize("completion", [42, b"42", ["42"], float("nan")])
def test_anything_but_text_is_malformed(completion):
    assert verify(completion, "42") is MALFORMED


HOSTILE = {
    "open boxes": r"\boxed{" * 30_000,
    "closed boxes": r"\boxed{}" * 30_000,
    "nested boxes": r"\boxed{" * 30_000 + "5" + "}" * 30_000,
    "braces": r"\boxed{" + "{" * 200_000,
    "hashes": "####" * 50_000,
    "headings": "#### Step 1\n" * 20_000,
    "announcements": "answer is " * 20_000,
    "a million digits": "9" * 1_000_000,
    "a million digits, boxed": r"\boxed{" + "9" * 1_000_000 + "}",
    "a million spaces": "answer is" + " " * 1_000_000,
    "commas": "1," * 200_000,
    "fractions": r"\frac{1}{" * 30_000,
    "dollars": "$" * 200_000,
    "thinking": "<think></think>" * 14_000 + "42",
    "chat tokens": "<|" * 100_000,
    "words": r"\boxed{" + "a " * 140 + "}",
    "bold": r"\boxed{" + "**" * 140 + "}",
    "power": r"\boxed{9^{99999999}}",
    "tower": r"\boxed{e^{e^{e^{e^e}}}}",
    "exponent": r"\boxed{1e999999999}",
    "surrogate": "answer is \ud800",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_is_refused_in_bounded_time(name):
    best = 1.0
    for _ in range(3):
        start = time.process_time()
        verdict = verify(HOSTILE[name], "5")
        best = min(best, time.process_time() - start)
    assert best < 0.5
    assert verdict in (WRONG, MALFORMED, CORRECT if name == "nested boxes" else WRONG)


def decimal_form(value: Fraction) -> str | None:
    scaled = value * 10**6
    return f"{float(value):.6f}" if scaled.denominator == 1 else None


@settings(max_examples=200, deadline=None)
@given(st.integers(-(10**7), 10**7), st.integers(1, 400), st.data())
def test_any_way_to_write_a_rational_is_that_rational(numerator, denominator, data):
    value = Fraction(numerator, denominator)
    whole, rest = divmod(abs(value), 1)
    sign = "-" if value < 0 else ""
    forms = [
        f"{numerator}/{denominator}",
        rf"\frac{{{numerator}}}{{{denominator}}}",
        rf"{sign}\dfrac{{{abs(numerator)}}}{{{denominator}}}",
        f"{numerator:,}/{denominator}",
        rf"x = {numerator} \div {denominator} \text{{ cm}}",
    ]
    if value.denominator == 1:
        forms += [f"{value}", f"{int(value):,}", f"{sign}${abs(value)}.00"]
        forms += [rf"{int(value):,} \text{{ miles}}".replace(",", "{,}")]
    elif whole:
        forms += [rf"{sign}{whole}\frac{{{rest.numerator}}}{{{rest.denominator}}}", f"{sign}{whole} {rest}"]
    if decimal := decimal_form(value):
        forms.append(decimal)
    written, gold = data.draw(st.sampled_from(forms)), data.draw(st.sampled_from(forms))
    frames = [r"\boxed{%s}", "6 of them.\n#### %s", "The answer is %s.", "the answer is $%s$ for 2 days"]
    frame = data.draw(st.sampled_from(frames))
    if "=" in gold:
        gold = str(value)
    assert verify(frame.replace("%s", written), gold) is CORRECT
    assert verify(frame.replace("%s", written), str(value + 1)) is WRONG


PIECES = r"\boxed{ } { #### 42 7 , . $ % = - + / ( ) \frac <think> </think> x ٤ ½ km \ ^".split()
PIECES += ["answer is ", " or ", "\n", " ", "\0"]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=25).map("".join)))
def test_any_text_gets_a_verdict(text):
    assert isinstance(verify(text, "42"), Verdict)


MARKED = r"\boxed{ \boxed{42} \fbox{7} } ##### <think> </think>".split()
MARKED += ["#### 42", "#### Step 2", "\n", " 42 ", " so "]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(MARKED), max_size=12).map("".join))
def test_the_last_of_the_marked_answers_is_the_one_that_is_judged(text):
    if found := answers(text):
        assert verify(found[-1], "42") is verify(text, "42")
