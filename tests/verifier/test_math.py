"""The maths verifier: its rules by hand-written cases and real GSM8K answers."""

import json
import time
from pathlib import Path

import pytest

from qwen_align.verifier.math import Verdict, answer, answers, verify

CORRECT, WRONG, MALFORMED = Verdict.CORRECT, Verdict.WELLFORMED_WRONG, Verdict.MALFORMED
GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "test-500.jsonl"


def pairs(table: str) -> list[tuple[str, str]]:
    """(answer, gold) of a table with cells `answer ~ gold` between bars."""
    cells = [cell for line in table.strip("\n").split("\n") for cell in line.split(" | ")]
    return [(answer, gold) for answer, gold in (cell.split(" ~ ") for cell in cells)]


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        (r"6*7=42, so \boxed{42}.", CORRECT),
        (r"$\boxed{42}$", CORRECT),
        (r"\[ \boxed{ 42 } \]", CORRECT),
        (r"\boxed {42}", CORRECT),
        (r"\boxed{\boxed{42}}", CORRECT),
        (r"\boxed{\frac{84}{2}}", CORRECT),
        (r"\fbox{42}", CORRECT),
        (r"\boxed 42", CORRECT),
        (r"\boxed{43} no, \boxed{42}", CORRECT),
        (r"\boxed{42} no, \boxed{43}", WRONG),
        (r"\boxed{42} and so on, for 7 days", CORRECT),
        (r"\boxed{42} then \boxed{43", CORRECT),
        (r"\boxed{}", MALFORMED),
        (r"42 \boxed{ }", MALFORMED),
        ("#### 42", CORRECT),
        ("####42", CORRECT),
        ("####\n42", CORRECT),
        ("#### 42<|im_end|>\n", CORRECT),
        ("#### 42\nThe answer is 43.", CORRECT),
        ("The answer is 42.\n#### 43", WRONG),
        (r"#### 43" + "\n" + r"\boxed{42}", CORRECT),
        (r"\boxed{43}" + "\n#### 42", CORRECT),
        ("42\n####", MALFORMED),
        ("#### Step 2: 5 + 3\nThe answer is 42.", CORRECT),
        ("#### 2. Add up\n6*7 = 42", CORRECT),
        ("#### She has 42 apples", CORRECT),
        ("The answer is 42.", CORRECT),
        ("the ANSWER IS: 42", CORRECT),
        ("The answer is **42**.", CORRECT),
        ("**The answer is: $42$**", CORRECT),
        (r"The final answer is \(42\). I hope it is correct, 100%.", CORRECT),
        ("The answer is\n\n\\[\n42\n\\]\nfor 7 days", CORRECT),
        ("The answer is as follows:\n42", CORRECT),
        ("The answer is x = 42", CORRECT),
        ("The answer is 42 apples because 6*7 = 42 and not 43.", CORRECT),
        ("The answer is that Mr. Smith makes $42 every day.", CORRECT),
        ("The answer is 41. Wait, the answer is 42. That took 3 steps.", CORRECT),
        ("The answer is not 42", WRONG),
        ("The answer is", MALFORMED),
        ("Final answer: 42. Checked 2 times.", CORRECT),
        ("Answer: let me see.\n6*7 = 42", CORRECT),
        ("6*7 = 42", CORRECT),
        ("There are 7 days, so 42 apples.", CORRECT),
        ("42 apples in 7 days", WRONG),
        ("I don't know", MALFORMED),
        ("", MALFORMED),
        (None, MALFORMED),
    ],
)
def test_last_marker_then_answer_is_then_last_number(completion, verdict):
    assert verify(completion, "42") is verdict


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        (r"<think>\boxed{42}</think>", MALFORMED),
        (r"<think>\boxed{42}</think>\boxed{43}", WRONG),
        (r"<think>\boxed{43}</think>\boxed{42}", CORRECT),
        (r"<think>\boxed{42}", MALFORMED),
        (r"\boxed{42}</think>", MALFORMED),
        (r"\boxed{43}</think>\boxed{42}", CORRECT),
        (r"\boxed{42}<think>or \boxed{43}?", CORRECT),
        ("<think>43</think>42", CORRECT),
        ("4<think></think>2", WRONG),
    ],
)
def test_thinking_does_not_count(completion, verdict):
    assert verify(completion, "42") is verdict


SURROUNDED = r"""
$42 ~ 42 | \$42 ~ 42 | 42$ ~ 42 | €42 ~ 42 | 42€ ~ 42 | £42.00 ~ 42 | US$42 ~ 42 | 1,234,567 ~ 1234567
1234567 ~ 1,234,567 | 1{,}234 ~ 1234 | 1\,234 ~ 1234 | 1,\!234 ~ 1234 | 1,234.50 ~ 1234.5 | -$1,234 ~ -1234 | $-5 ~ -5
−5 ~ -5 | +5 ~ 5 | 42 apples ~ 42 | 42 km/h ~ 42 | 42km ~ 42 | 42 m^2 ~ 42 | 42 m² ~ 42 | $42 per day ~ 42
42\text{ cm}^2 ~ 42 | 42\,\mathrm{m/s} ~ 42 | 42^\circ ~ 42 | 42°C ~ 42 | 42 ~ 42^\circ | 42 (apples) ~ 42
10 a.m. ~ 10 | 42 a day ~ 42 | 5 dozen ~ 5 | Cost (in dollars): 42 ~ 42 | 42. ~ 42 | 42.0 ~ 42 | 042 ~ 42 | 42% ~ 42
42\% ~ 42 | 42 percent ~ 42 | 42 ~ 42\% | 0.75 ~ 3/4 | .75 ~ \frac{3}{4} | 75/100 ~ 0.75 | \dfrac34 ~ 0.75
\tfrac{3}4 ~ 0.75 | \frac{-1}{2} ~ -0.5 | -\frac{1}{2} ~ -0.5 | 3\frac{1}{2} ~ 3.5 | -3\frac12 ~ -3.5 | 3 1/2 ~ 7/2
1 1/2 cups ~ 1.5 | \left(\frac{1}{2}\right) ~ 0.5 | \frac{\frac12}{3} ~ 1/6 | 6*7 ~ 42 | 6 \times 7 ~ 42
2\cdot 21 ~ 42 | 6 × 7 ~ 42 | 6 x 7 ~ 42 | 84/2 ~ 42 | (2+4)*7 ~ 42 | 6(7) ~ 42 | 2(20+1) ~ 42 | 2^{10} ~ 1024
2^10 ~ 1024 | 10^{-3} ~ 0.001 | 1e3 ~ 1000 | 1.5\times10^3 ~ 1500 | 0.1\overline{6} ~ 1/6 | 40+2 = 42 ~ 42
42 = x ~ 42 | x = 40 + 2 ~ 42 | \approx 42 ~ 42 | \frac{10}{3} \approx 3.33 ~ 10/3 | **42** ~ 42 | \textbf{42} ~ 42
\mathbf{42} ~ 42 | \displaystyle 42 ~ 42 | (42) ~ 42 | 42 ~ \boxed{42}
"""


@pytest.mark.parametrize(("answer", "gold"), [*pairs(SURROUNDED), ("1\u2009234", "1234"), ("42", "Well.\n#### 42")])
def test_what_only_surrounds_the_number_is_ignored(answer, gold):
    assert verify(rf"\boxed{{{answer}}}", gold) is CORRECT
    assert verify(f"So we get 17.\n#### {answer}", gold) is CORRECT


INEXACT = r"""
0.333 ~ 1/3 | 0.33333333333333333333 ~ 1/3 | 3.14 ~ 22/7 | 0.5 ~ 50 | 50% ~ 0.5 | 42.01 ~ 42 | 42 or 43 ~ 42
42 or 43 ~ 43 | 42, 43 ~ 42 | 42,43 ~ 43 | 42 and 43 ~ 42 | 42 43 ~ 42 | 42; 43 ~ 42 | 42/43 ~ 42
42 \text{ or } 43 ~ 42 | \pm 42 ~ 42 | 42±1 ~ 42 | x=42, y=43 ~ 43 | 42 - 43 ~ 42 | 5 feet 3 inches ~ 5 | 3:30 ~ 3
-42 ~ 42 | 42 ~ -42 | minus 42 ~ 42 | negative 42 ~ -42 | 12,34 ~ 1234 | 1,2345 ~ 12345 | 1.234.567 ~ 1234567
42.5 ~ 42 | ٤٢ ~ 42 | ４２ ~ 42 | ४२ ~ 42 | ⁴² ~ 42 | ④② ~ 42 | 𝟒𝟐 ~ 42 | 4２ ~ 4 | 2½ ~ 2 | ½ ~ 1/2 | 3π ~ 3 | ‑5 ~ 5
5 ± 1 ~ 5 | 5² ~ 25 | forty-two ~ 42 | \text{forty-two} ~ 42 | XLII ~ 42 | Ⅳ ~ 4 | 四十二 ~ 42 | 42万 ~ 42 | 0x2A ~ 42
0x2A ~ 0 | 0b101010 ~ 42 | 2a ~ 2 | 42k ~ 42 | 5 million ~ 5 | 5 million ~ 5000000 | 2 and a half ~ 2
2 and a half ~ 2.5 | 5 squared ~ 5 | 3x ~ 3 | 3x^2 ~ 3 | 2ab ~ 2 | 2\pi ~ 2 | 2pi ~ 2 | 5i ~ 5 | 3+4i ~ 3 | x+42 ~ 42
42+x ~ 42 | x - 42 ~ -42 | f(42) ~ 42 | x>42 ~ 42 | 42 \neq 43 ~ 43 | 42! ~ 42 | 5! ~ 120 | 9!! ~ 945 | 9^9^9 ~ 9
9^{9^9} ~ 9 | 9**9**9 ~ 9 | 2**10 ~ 1024 | \sum_{k=1}^{6} 2k ~ 42 | \prod_{k=1}^{3} k ~ 6 | \int_0^1 2x\,dx ~ 1
1/0 ~ 1 | 0/0 ~ 0 | \frac{1}{0} ~ 1 | \infty ~ 42 | nan ~ 42 | int('42') ~ 42 | print(42) ~ 42 | eval('6*7') ~ 42
__import__('os').system('touch pwned') ~ 42 | sqrt 16 ~ 16 | half of 84 ~ 84 | 1e999999 ~ 42
"""


@pytest.mark.parametrize(("answer", "gold"), pairs(INEXACT))
def test_anything_but_the_exact_number_is_wrong(answer, gold):
    assert verify(rf"\boxed{{{answer}}}", gold) is WRONG


@pytest.mark.parametrize(
    ("completion", "gold", "verdict"),
    [
        ("They sold 5 million", "5", WRONG),
        ("They sold 42k", "42", WRONG),
        ("It took 2 and a half", "2", WRONG),
        ("It is 0x2A", "42", WRONG),
        ("7 + 35 = ٤٢", "35", WRONG),
        ("It is 3/4", "4", WRONG),
        ("It is 3/4", "0.75", CORRECT),
        ("It is 3 1/2 cups", "3.5", CORRECT),
        (r"It is \frac{3}{4}", "0.75", CORRECT),
        ("It is $1,234.50 in all.", "1234.5", CORRECT),
        ("so x = -7", "-7", CORRECT),
        ("it is -$7", "-7", CORRECT),
        ("so 10 - 7", "7", CORRECT),
        ("so 10 -7", "7", CORRECT),
        ("\n- 7 apples", "7", CORRECT),
        ("50%", "50", CORRECT),
        ("9" * 400, "9", MALFORMED),
    ],
)
def test_last_number_is_read_with_what_belongs_to_it(completion, gold, verdict):
    assert verify(completion, gold) is verdict


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("Evelyn", r"\text{Evelyn}", CORRECT),
        (r"\text{evelyn}", "Evelyn", CORRECT),
        ("Eve", "Evelyn", WRONG),
        (r"\text{(C)}", "C", CORRECT),
        ("C", "(C)", CORRECT),
        ("(C) 42", "C", CORRECT),
        ("D", "C", WRONG),
        ("C or D", "C", WRONG),
        ("June 20", r"\text{June 20}", CORRECT),
        ("May 20", r"\text{June 20}", WRONG),
        ("20", "June 20", WRONG),
        ("(1, 2)", "(1,2)", CORRECT),
        (r"\left(1,2\right)", "(1,2)", CORRECT),
        (r"\dfrac{\pi}{2}", r"\frac{\pi}{2}", CORRECT),
    ],
)
def test_text_answers_are_compared_as_text(answer, gold, verdict):
    assert verify(rf"\boxed{{{answer}}}", gold) is verdict


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        (r"\sqrt{16}", "4", CORRECT),
        (r"|-42|", "42", CORRECT),
        (r"\pi/2", r"\frac{\pi}{2}", CORRECT),
        ("1.570796", r"\frac{\pi}{2}", WRONG),
        ("(2, 1)", "(1,2)", WRONG),
        (r"(1, \frac{4}{2})", "(1,2)", CORRECT),
        (r"(0.333333, 2)", r"(\frac{1}{3}, 2)", WRONG),
        ("(0,1)", "[0,1)", WRONG),
        (r"\{2, 1\}", r"\{1,2\}", CORRECT),
        ("2, 1", "1,2", CORRECT),
        (r"x=1 \text{ or } x=2", "1,2", CORRECT),
        ("2x+2", "2(x+1)", CORRECT),
        ("2x+3", "2(x+1)", WRONG),
        ("4i+3", "3+4i", CORRECT),
        ("5", "x=5", CORRECT),
        ("y=5", "x=5", WRONG),
        (r"6\sqrt{3} \text{ cm}", r"6\sqrt{3}", CORRECT),
        ("n!", "n!", CORRECT),
    ],
)
def test_algebra_is_left_to_math_verify(answer, gold, verdict):
    assert verify(rf"\boxed{{{answer}}}", gold) is verdict


def test_last_formula_counts_where_no_number_is_asked_for():
    assert verify(r"So the area is $\frac{\pi}{2}$ in 2 steps.", r"\frac{\pi}{2}") is CORRECT
    assert verify(r"The answer is $x=1$ or $x=2$.", "1, 2") is CORRECT


@pytest.mark.shared
def test_gsm8k_answers_and_their_neighbours():
    if not GSM8K.exists():
        pytest.skip(f"no GSM8K beside the checkout: {GSM8K}")
    for line in GSM8K.read_text().splitlines():
        solution = json.loads(line)["answer"]
        gold = solution.rpartition("####")[2].strip()
        number = int(gold.replace(",", ""))
        assert verify(solution, gold) is CORRECT
        assert verify(rf"The answer is \${number:,} a week.", gold) is CORRECT
        assert verify(rf"\boxed{{{number}.0}}", gold) is CORRECT
        for wrong in (number + 1, -number - 1, number * 10 + 1, f"{number}.5", f"{number} or {number + 1}"):
            assert verify(rf"\boxed{{{wrong}}}", gold) is WRONG


@pytest.mark.parametrize(
    ("completion", "found"),
    [
        (r"\boxed{41}, no, \boxed{42}. Done", [r"\boxed{41}, no, ", r"\boxed{42}. Done"]),
        ("so 41\n#### 41\nor\n#### 42", ["#### 41\nor\n", "#### 42"]),
        (r"\boxed{\boxed{42}}", [r"\boxed{42}}"]),
        ("#### Step 1\nadd\n#### 42", ["#### 42"]),
        (r"\boxed{41} and \boxed{42", [r"\boxed{41} and \boxed{42"]),
        ("##### 42", []),
        ("the answer is 42", []),
        (r"<think>\boxed{41}</think>\boxed{42}", [r"\boxed{42}"]),
        (None, []),
    ],
)
def test_marked_answers_are_listed_in_order(completion, found):
    assert answers(completion) == found


def test_many_markers_are_listed_in_linear_time():
    began = time.process_time()
    assert answers("\\boxed{" * 100_000) == []
    assert len(answers("#### 1\n" * 100_000)) == 100_000
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("completion", "vote"),
    [
        ("so #### 1,234", "1234"),
        ("\\boxed{1234.0}", "1234"),
        ("The answer is 0.5.", "1/2"),
        ("\\boxed{x}", "x"),
        ("<think>#### 9</think>it is 4", "4"),
        ("no idea", None),
        ("", None),
    ],
)
def test_equal_numbers_vote_for_the_same(completion, vote):
    assert answer(completion) == vote
