"""The Countdown verifier: each rule by hand-written cases."""

import time

import pytest

from qwen_align.verifier.countdown import Verdict, answers, verify

CORRECT, WRONG, MALFORMED = Verdict.CORRECT, Verdict.WELLFORMED_WRONG, Verdict.MALFORMED

# Most cases share one problem: (6 - 2) * 3 * 2 = 24 with the numbers 6, 2, 3, 2.
NUMBERS, TARGET = [6, 2, 3, 2], 24


def cells(table: str) -> list[str]:
    """The cells of a table, between bars."""
    return [cell for line in table.strip("\n").split("\n") for cell in line.split(" | ")]


def judge(answer: str, numbers=NUMBERS, target=TARGET) -> Verdict:
    return verify(f"<answer>{answer}</answer>", numbers, target)


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("<answer>(6-2)*3*2</answer>", CORRECT),
        ("<think>6-2=4</think><answer>(6-2)*3*2</answer><|im_end|>", CORRECT),
        ("<answer>\n (6-2)\n *3*2 \n</answer>\nDone.<|im_end|>\n<|endoftext|>", CORRECT),
        ("<answer>1+1</answer> no: <answer>(6-2)*3*2</answer>", CORRECT),
        ("<answer>(6-2)*3*2</answer> or <answer>1+1</answer>", WRONG),
        ("<answer>(6-2)*3*2</answer> or <answer>hm</answer>", MALFORMED),
        ("<answer>(6-2)*3*2</answer> or <answer> </answer>", MALFORMED),
        ("<answer>(6-2)*3*2</answer> or <answer>1", CORRECT),
        ("I put it in <answer> tags: <answer>(6-2)*3*2</answer>", CORRECT),
        ("<answer>(6-2)*3*2</answer></answer>", CORRECT),
        ("<answer>1+<answer>(6-2)*3*2</answer>+1</answer>", CORRECT),
        ("</answer>(6-2)*3*2<answer>", MALFORMED),
        ("(6-2)*3*2", MALFORMED),
        ("(6-2)*3*2</answer>", MALFORMED),
        ("<answer>(6-2)*3*2", MALFORMED),
        ("<answer></answer>", MALFORMED),
        ("<answer> \n\t </answer>", MALFORMED),
        ("", MALFORMED),
        (None, MALFORMED),
        ("<Answer>(6-2)*3*2</Answer>", MALFORMED),
        ("<ANSWER>(6-2)*3*2</ANSWER>", MALFORMED),
        ("<answer >(6-2)*3*2</answer>", MALFORMED),
        ("<answer>(6-2)*3*2</answer >", MALFORMED),
        ("<answer>(6-2)*3*2< /answer>", MALFORMED),
        ('<answer id="1">(6-2)*3*2</answer>', MALFORMED),
        ("&lt;answer&gt;(6-2)*3*2&lt;/answer&gt;", MALFORMED),
    ],
)
def test_last_complete_pair_counts(completion, verdict):
    assert verify(completion, NUMBERS, TARGET) is verdict


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("<think><answer>(6-2)*3*2</answer></think>", MALFORMED),
        ("<think><answer>1+1</answer></think><answer>(6-2)*3*2</answer>", CORRECT),
        ("<think>a</think><answer>(6-2)*3*2</answer><think><answer>1</answer></think>", CORRECT),
        ("the prompt opened it <answer>1</answer></think><answer>(6-2)*3*2</answer>", CORRECT),
        ("<answer>(6-2)*3*2</answer></think>", MALFORMED),
        ("<answer>(6-2)*3*2</answer></think> so that was it", MALFORMED),
        ("a</think><think>b <answer>1</answer></think><answer>(6-2)*3*2</answer>", CORRECT),
        ("<think>a</think><answer>(6-2)*3*2</answer></think>", CORRECT),
        ("<think>never closed <answer>(6-2)*3*2</answer>", MALFORMED),
        ("<answer>(6-2)*3*2</answer><think>hm <answer>1+1</answer>", CORRECT),
        ("<answer>1+1<think></answer>", MALFORMED),
        ("<think>a<think>b</think><answer>(6-2)*3*2</answer>", CORRECT),
        ("<answer><think></answer></think>(6-2)*3*2</answer>", MALFORMED),
        ("<answer>(6-2)*3<think>or not?</think>*2</answer>", MALFORMED),
        ("<answer>(6-2)*3*2 <think></think></answer>", MALFORMED),
        ("<ans<think></think>wer>(6-2)*3*2</answer>", MALFORMED),
        ("<THINK><answer>(6-2)*3*2</answer></THINK>", CORRECT),
        ("<thinking><answer>(6-2)*3*2</answer></thinking>", CORRECT),
    ],
)
def test_answers_inside_thinking_do_not_count(completion, verdict):
    assert verify(completion, NUMBERS, TARGET) is verdict


def test_echoed_prompt_is_read_like_any_text():
    echo = "Show your answer in tags, for example <answer> (1 + 2) / 3 </answer>. "
    assert verify(echo + "24 it is", [1, 2, 3], 1) is CORRECT
    assert verify(echo + "24 it is", NUMBERS, TARGET) is WRONG
    assert verify(echo + "<answer>(6-2)*3*2</answer>", NUMBERS, TARGET) is CORRECT


NO_ARITHMETIC = r"""
6**2 | 6//2 | 6%2 | 6^2 | 6<<2 | 3! | ~6 | 6&2 | 6|2 | 6 and 2 | 6 @ 2 | 6,2 | 6;2 | 6 2 | (6-2)(3*2) | 3(6-2)*2
(6-2)3*2 | 2x | x | a+b | sum(6,2) | six * two | (6-2)*3*2. | (6-2)*3.0*2 | .5*6 | 6.*2 | 1e3 | 1_000 | 6j | 0x6
0x12+6 | 0X12 | 0b1 | # 6 | 6 # 2 | '6' | "6" | `6` | **6** | 6*2 // why | 6-2=4, 4*3*2=24 | 1. 6-2 | 6- | *6 | 6*/2
6**-2 | () | 6() | (6 | 6) | ((6) | )6( | (6] | [6) | {6) | ([6)] | <6> | 6 + + * 2 | + | - | = | =24 | 24= | 6+2=
None | null | True | __import__('os') | (lambda: 6)() | 6 if 2 else 3 | [6 for x in (1,)] | </think>6 | <b>6</b>
6 ÷÷ 2 | 6\2 | \ | 6 \ | 6*\ | 6:2 | 6 ≈ 6 | 6 ≠ 2 | 6 → 2 | 6² | ½ | √6
"""


@pytest.mark.parametrize("answer", [*cells(NO_ARITHMETIC), "6-2\n4*3*2", "6\x002", "6\x00"])
def test_anything_else_is_malformed(answer):
    assert judge(answer) is MALFORMED


TYPOGRAPHY = r"""
(6-2)*3*2 | [6-2]*3*2 | {6-2}*3*2 | {[(6-2)*3]*2} | (((6)-((2)))*3*2) | 3*2*(6-2) | (6−2)×3×2 | (6–2)✕3✕2 | (6—2)·3⋅2
(6-2)∙3∗2 | (6-2)x3X2 | (6 - 2) x 3 x 2 | (6-2)\times3\times 2 | (6-2)\cdot 3\ast2 | \left(6-2\right)\times3\times2
\left[6-2\right]*3*2 | \left\{6-2\right\}*3*2 | \left (6-2\right ) *3*2 | $(6-2)*3*2$ | $$(6-2)*3*2$$ | \((6-2)*3*2\)
\[(6-2)*3*2\] | \[ (6-2)\,\cdot\;3\quad\times\ 2\!\:\qquad \] | \boxed{(6-2)*3*2} | $\boxed{(6-2)\times3\times2}$
\boxed{6-2}*3*2 | \boxed {\boxed{(6-2)*3*2}} | {(6-2)}\times{3}\times{2}
"""


@pytest.mark.parametrize(
    "answer",
    [*cells(TYPOGRAPHY), " ( 6 - 2 ) * 3 * 2 ", "(6\xa0-\u20092)\u202f*3*2", "(6\u2003-\u200a2)*3*2", "(6-2)\r\n*\t3*2"],
)
def test_typography_with_one_reading_is_accepted(answer):
    assert judge(answer) is CORRECT


@pytest.mark.parametrize(
    ("answer", "numbers", "target"),
    [
        (r"\frac{6}{2}", [6, 2], 3),
        (r"\dfrac{6+2}{3-1}", [6, 2, 3, 1], 4),
        (r"\tfrac {6} {2} \times 4", [6, 2, 4], 12),
        (r"2-\frac{6}{3}", [2, 6, 3], 0),
        (r"\frac{8}{3-\frac{8}{3}}", [8, 3, 8, 3], 24),
        (r"-\frac{6}{2}", [6, 2], -3),
        (r"(\frac{6}{2})*{4}", [6, 2, 4], 12),
        ("6÷2", [6, 2], 3),
        ("6∕2", [6, 2], 3),
        ("6⁄2", [6, 2], 3),
        (r"6\div2", [6, 2], 3),
    ],
)
def test_fractions_and_division_signs(answer, numbers, target):
    assert judge(answer, numbers, target) is CORRECT


OTHER_TYPOGRAPHY = r"""
6 \over 2 | 6^2 | \sqrt{6} | \text{6} | \frac12 | \frac62 | \frac{6}2 | \frac6{2} | \frac{6} | \frac{}{2} | \frac{6}{}
\frac{6}+{2} | \frac(6)(2) | \frac[6][2] | \frac{6){2} | \cfrac{6}{2} | \frac{6}{2}3 | 2\frac{6}{2} | \fraction{6}{2}
\boxed | \boxed 6 | \boxed(6) | \boxed{} | \boxed{6 | \left 6 | \left.6\right. | \left|6\right| | \left(6\right]
\left(6 | \Left(6\Right) | \bigl(6\bigr) | 6 \\ 2 | \$6 | 6\% | \mathrm{6} | \timesx 2 | 6\cdots2 | 6\pm2 | 6\mod2
\begin{align}6\end{align} | 6\,2 | 6$2 | ６＋２ | ６ | ٦ | ६ | 6＋2 | 6－2 | 6＊2 | 6／2 | （6） | 6‑2 | 6‒2 | 6•2 | 6✖2 | 6⨯2
6➗2 | 6∶2 | 6⁻2 | 6﹣2 | 𝟔6
"""


@pytest.mark.parametrize("answer", [*cells(OTHER_TYPOGRAPHY), "1\u20090 - 2", "6\u200b", "\ufeff6", "6\u20602"])
def test_other_typography_is_malformed(answer):
    assert judge(answer) is MALFORMED


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("(6-2)*3*2 = 24", CORRECT),
        ("24 = (6-2)*3*2", CORRECT),
        ("(6-2)*3*2=24.0", CORRECT),
        ("(6-2)*3*2=024.000", CORRECT),
        ("(6-2)*3*2=+24", CORRECT),
        (r"$(6-2)\times3\times2 = 24$", CORRECT),
        (r"\boxed{(6-2)*3*2 = 24}", CORRECT),
        (r"\[ \boxed{24 = (6-2)*3*2} \]", CORRECT),
        (r"(6-2)*3*2 = \boxed{24}", CORRECT),
        (r"\boxed{(6-2)*3*2} = 24", CORRECT),
        ("(6-2)*3*2 = 23", WRONG),
        ("(6-2)*3*2 = -24", WRONG),
        ("(6-2)*3*2 = 24.5", WRONG),
        ("(6-2)*3*2 = 24.000001", WRONG),
        ("(6-2)*3*2 = .24", WRONG),
        ("(6+2)*3*2 = 24", WRONG),
        ("6*2*2 = 24", WRONG),
        ("24 = 24", WRONG),
        ("(6-2)*3*2 = " + "9" * 10_000, WRONG),
        ("24.0 = (6-2)*3*2", MALFORMED),
        ("(6-2)*3*2 = 24.", MALFORMED),
        ("(6-2)*3*2 = 4*6", MALFORMED),
        ("(6-2)*3*2 = (24)", MALFORMED),
        ("(6-2)*3*2 = --24", MALFORMED),
        ("(6-2)*3*2 = ", MALFORMED),
        (" = (6-2)*3*2", MALFORMED),
        ("(6-2)*3*2 == 24", MALFORMED),
        ("(6-2)*3*2 = 24 = 24", MALFORMED),
        ("(6-2)*3*2 = 4*6 = 24", MALFORMED),
        ("((6-2)*3*2 = 24)", MALFORMED),
        ("{(6-2)*3*2 = 24}", MALFORMED),
        (r"\boxed{(6-2)*3*2 = 24} + 0", MALFORMED),
        (r"\boxed{(6-2)*3*2 = 24", MALFORMED),
        (r"\boxed{6-2}*3*2 = 24", CORRECT),
        (r"\boxed{6}=\boxed{6}=\boxed{6}", MALFORMED),
        ("(6-2)*3*2 ≈ 24", MALFORMED),
        ("(6-2)*3*2 = ?", MALFORMED),
        ("(6-2)*3*2 = 24 apples", MALFORMED),
    ],
)
def test_stated_result_must_be_the_target(answer, verdict):
    assert judge(answer) is verdict


def test_a_single_number_may_stand_on_both_sides():
    assert judge("24 = 24", [24], 24) is CORRECT
    assert judge("24", [24], 24) is CORRECT
    assert judge("-5 = 3-8", [3, 8], -5) is CORRECT


@pytest.mark.parametrize(
    ("answer", "numbers", "target"),
    [
        ("4*6", NUMBERS, 24),
        ("6*2*2", NUMBERS, 24),
        ("(6-2)*3*2*1", NUMBERS, 24),
        ("(6-2)*3*2+0", NUMBERS, 24),
        ("6+2", [6, 2, 0], 8),
        ("6+6", [6], 12),
        ("12", [1, 2], 12),
        ("24", NUMBERS, 24),
        ("1+2", [], 3),
    ],
)
def test_every_number_exactly_once(answer, numbers, target):
    assert judge(answer, numbers, target) is WRONG


def test_numbers_may_come_as_any_sequence():
    assert judge("(6-2)*3*2", (2, 2, 3, 6)) is CORRECT
    assert judge("1-1", range(1, 2), 0) is WRONG
    assert judge("1*2", range(1, 3), 2) is CORRECT


@pytest.mark.parametrize(
    ("answer", "numbers", "target", "verdict"),
    [
        ("06+002", [6, 2], 8, CORRECT),
        ("010", [10], 10, CORRECT),
        ("010", [8], 8, WRONG),
        ("00", [0], 0, CORRECT),
        ("-2+6", [6, 2], 4, CORRECT),
        ("+6-+2", [6, 2], 4, CORRECT),
        ("6--2", [6, 2], 8, CORRECT),
        ("6 - - 2", [6, 2], 8, CORRECT),
        ("6*-2", [6, 2], -12, CORRECT),
        ("-(6-2)", [6, 2], -4, CORRECT),
        ("---6", [6], -6, CORRECT),
        ("2/-6*-3", [2, 6, 3], 1, CORRECT),
        ("6-2-3", [6, 2, 3], 1, CORRECT),
        ("6-(2-3)", [6, 2, 3], 7, CORRECT),
        ("12/6/2", [12, 6, 2], 1, CORRECT),
        ("12/6*2", [12, 6, 2], 4, CORRECT),
        ("2+3*4", [2, 3, 4], 14, CORRECT),
        ("2+3*4", [2, 3, 4], 20, WRONG),
        ("1/3*3", [1, 3, 3], 1, CORRECT),
        ("8/(3-8/3)", [8, 3, 8, 3], 24, CORRECT),
        ("1/3+1/6+1/2", [1, 3, 1, 6, 1, 2], 1, CORRECT),
        ("7/2*8", [7, 2, 8], 28, CORRECT),
        ("7/2*8", [7, 2, 8], 24, WRONG),
        ("7/2", [7, 2], 3, WRONG),
        ("7/2", [7, 2], 4, WRONG),
        ("100000000000000000001-1", [100000000000000000001, 1], 10**20, CORRECT),
        ("100000000000000000001-1", [100000000000000000001, 1], 10**20 + 1, WRONG),
        ("6/0", [6, 0], 6, WRONG),
        ("0/0", [0, 0], 0, WRONG),
        ("0*(6/(2-2))", [0, 6, 2, 2], 0, WRONG),
        (r"\frac{6}{0}", [6, 0], 6, WRONG),
        ("6/(1/3-1/3)", [6, 1, 3, 1, 3], 0, WRONG),
    ],
)
def test_value_is_exact(answer, numbers, target, verdict):
    assert judge(answer, numbers, target) is verdict


def test_syntax_is_judged_before_numbers_and_value():
    assert judge("9/0 +") is MALFORMED
    assert judge("9/0") is WRONG
    assert judge("9**9") is MALFORMED


@pytest.mark.parametrize(
    ("completion", "found"),
    [
        ("<answer>1</answer> no: <answer> 2 </answer>", ["<answer>1</answer>", "<answer> 2 </answer>"]),
        ("<answer>1<answer>2</answer>3</answer>", ["<answer>2</answer>"]),
        ("<answer>1</answer></answer><answer>2", ["<answer>1</answer>"]),
        ("<think><answer>1</answer></think><answer>2</answer>", ["<answer>2</answer>"]),
        ("<think><answer>1</answer>", []),
        ("</answer>1<answer>", []),
        ("", []),
        (None, []),
    ],
)
def test_answers_are_listed_in_order(completion, found):
    assert answers(completion) == found


def test_many_tags_are_listed_in_linear_time():
    began = time.process_time()
    assert len(answers("<answer>" * 200_000 + "1" + "</answer>" * 200_000)) == 1
    assert time.process_time() - began < 2
