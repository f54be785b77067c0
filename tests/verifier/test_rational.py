"""Texts that state one rational number, and those that leave a doubt."""

from fractions import Fraction

import pytest

from qwen_align.verifier.rational import MAX_LENGTH, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        (r"\$1{,}234.50", Fraction(2469, 2)),
        (r"3\frac{1}{2}", Fraction(7, 2)),
        ("3 1/2", Fraction(7, 2)),
        (r"x = 2 \cdot 3 cm", 6),
        ("-7%", -7),
        ("0.1\\overline{6}", Fraction(1, 6)),
        ("1.5e3", 1500),
        ("2^{-2}", Fraction(1, 4)),
        ("2(3 + 4)", 14),
        ("3 = 6/2", 3),
        ("42 m²", 42),
        ("Total: 42 apples", 42),
        ("**42**", 42),
        (r"\frac{10}{3} \approx 3.33", Fraction(10, 3)),
    ],
)
def test_one_number_is_read_exactly(text, value):
    assert read(text) == value


DOUBTS = "none; 1, 2; 1 or 2; 5 million; 5x; 5!; x + 5; minus 5; 1/0; ٤٢; ½; 0x12; 1,2345; 6/2(1 + 2); (1,234); 2^10000; 1e999"


@pytest.mark.parametrize("text", [*DOUBTS.split("; "), "", "9" * (MAX_LENGTH + 1)])
def test_a_doubt_is_no_number(text):
    assert read(text) is None
