"""Judge a Countdown answer: does the expression in `<answer>` use every number once and reach the target?

The task and the tags are TinyZero's (github.com/Jiayi-Pan/TinyZero), whose checker hands the model's text to `eval`: that
accepts `7//2*8`, hangs on `9**9**9` and compares floats. Here the last complete pair of tags outside thinking becomes tokens of
a closed alphabet; syntax, then numbers, then the exact value are judged, each in linear time, and only the listed numbers are
ever calculated with. Accepted too: typography with one reading (`3 × 4`, `\\frac{3}{4}`, `\\boxed{...}`) and a stated result
(`expression = 24`). Left out: more than MAX_TOKENS tokens, powers, roots, factorials, decimals, implicit multiplication.
"""

import re
from collections.abc import Sequence

from qwen_align.verifier import Verdict, columns
from qwen_align.verifier.arithmetic import BOX, FRACTION, integer, to_postfix, value_of
from qwen_align.verifier.extraction import without_thinking

MAX_TOKENS = 24_000
COLUMNS = {"nums": columns.whole_numbers, "target": columns.whole_number}

_OPENING, _CLOSING = "<answer>", "</answer>"

# `0x12` has two readings (a product and a hexadecimal number), so it gets a lexeme of its own that means nothing.
_LEXEME = re.compile(
    r"[0-9]*\.[0-9]+|0[xX][0-9]|[0-9]+"
    r"|\\left\s*+(?:[(\[]|\\?\{)|\\right\s*+(?:[)\]]|\\?\})|\\boxed\s*+\{|\\[dt]?frac\s*+\{"
    r"|\\[A-Za-z]+|\\[^A-Za-z]|\S",
    re.DOTALL,
)
_MEANING = (
    {char: char for char in "+-*/()[]{}="}
    | dict.fromkeys(["×", "✕", "·", "⋅", "∙", "∗", "x", "X", "\\times", "\\cdot", "\\ast"], "*")
    | dict.fromkeys(["÷", "∕", "⁄", "\\div"], "/")
    | dict.fromkeys(["−", "–", "—"], "-")
    | {"\\{": "{", "\\}": "}"}
    | {f"\\left{bracket}": bracket[-1] for bracket in ["(", "[", "{", "\\{"]}
    | {f"\\right{bracket}": bracket[-1] for bracket in [")", "]", "}", "\\}"]}
    | {"\\boxed{": BOX, "\\frac{": FRACTION, "\\dfrac{": FRACTION, "\\tfrac{": FRACTION}
    | dict.fromkeys(["$", "\\(", "\\)", "\\[", "\\]"], "")
    | dict.fromkeys(["\\,", "\\:", "\\;", "\\!", "\\>", "\\ ", "\\\n", "\\\t", "\\quad", "\\qquad", "\\enspace"], "")
    | dict.fromkeys(["\\thinspace", "\\medspace", "\\thickspace", "\\negthinspace"], "")
)


def verify(completion: str | None, nums: Sequence[int], target: int) -> Verdict:
    """Judge the completion alone (no prompt). Never raises, whatever the completion is."""
    sides = _read(completion)
    postfix = to_postfix(sides[0]) if sides else None
    if sides is None or postfix is None:
        return Verdict.MALFORMED
    literals = [item for item in postfix if item.__class__ is not str]
    if len(literals) != len(nums) or sorted(literals) != sorted(nums):
        return Verdict.WELLFORMED_WRONG
    if sides[1] and not _states(sides[1], target):
        return Verdict.WELLFORMED_WRONG
    return Verdict.CORRECT if value_of(postfix) == target else Verdict.WELLFORMED_WRONG


def answer(completion: str | None) -> str | None:
    """The expression that a completion answers with, as it is read here, without a stated result; None if there is none."""
    sides = _read(completion)
    return "".join(sides[0]) if sides and to_postfix(sides[0]) is not None else None


def answers(completion: str | None) -> list[str]:
    """Every complete pair of answer tags outside thinking, in order, each a completion of its own; `verify` reads the last."""
    after = without_thinking(completion).split(_OPENING)[1:]
    return [f"{_OPENING}{text.partition(_CLOSING)[0]}{_CLOSING}" for text in after if _CLOSING in text]


def _read(completion: str | None) -> tuple[list[str], list[str] | None] | None:
    """The two sides, as of `_split_equation`, in the innermost last complete pair of answer tags outside thinking."""
    text = without_thinking(completion)
    end = text.rfind(_CLOSING)
    start = text.rfind(_OPENING, 0, end) if end > 0 else -1
    if start < 0:
        return None
    start += len(_OPENING)
    tokens = _tokenize(text[start : text.find(_CLOSING, start)])
    return _split_equation(tokens) if tokens else None


def _tokenize(answer: str) -> list[str] | None:
    """The answer in tokens that `to_postfix` knows; None if anything else is in it or it is too long."""
    lexemes = _LEXEME.findall(answer)
    if len(lexemes) > MAX_TOKENS:
        return None
    tokens = []
    for lexeme in lexemes:
        meaning = _MEANING.get(lexeme)
        if meaning is None:
            is_number = lexeme[-1] in "0123456789" and lexeme[:2] not in ("0x", "0X")
            meaning = lexeme if is_number else _MEANING.get("".join(lexeme.split()))
        if meaning is None:
            return None
        if meaning:
            tokens.append(meaning)
    return tokens


def _split_equation(tokens: list[str]) -> tuple[list[str], list[str] | None] | None:
    """The expression and the number it is said to equal; a box around the whole or around a side is only decoration."""
    tokens = _unbox(tokens)
    if "=" not in tokens:
        return tokens, None
    at = tokens.index("=")
    left, right = _unbox(tokens[:at]), _unbox(tokens[at + 1 :])
    if "=" in right:
        return None
    if _is_number(right):
        return left, right
    if _is_number(left) and "." not in left[-1]:
        return right, left
    return None


def _unbox(tokens: list[str]) -> list[str]:
    """Take off every \\boxed{} that holds all of the tokens."""
    if tokens[:1] != [BOX]:
        return tokens
    opened: list[int] = []
    closed_at: dict[int, int] = {}
    for position, token in enumerate(tokens):
        if token[-1] == "{":
            opened.append(position)
        elif token == "}" and opened:
            closed_at[opened.pop()] = position
    boxes = 0
    while closed_at.get(boxes) == len(tokens) - 1 - boxes and tokens[boxes] == BOX:
        boxes += 1
    return tokens[boxes : len(tokens) - boxes]


def _is_number(tokens: list[str]) -> bool:
    signed = len(tokens) == 2 and tokens[0] in ("+", "-")
    return (signed or len(tokens) == 1) and tokens[-1][-1].isdecimal()


def _states(claim: list[str], target: int) -> bool:
    """Whether the stated result, one number with or without a sign, is exactly the target."""
    whole, _, decimals = claim[-1].partition(".")
    value = integer(whole or "0")
    return not decimals.strip("0") and (-value if claim[0] == "-" else value) == target
