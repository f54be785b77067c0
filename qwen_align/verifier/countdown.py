"""Judge a Countdown answer: does the expression in `<answer>` use every number once and reach the target?

The task and the tags are TinyZero's (github.com/Jiayi-Pan/TinyZero). Its checker, like most, hands the model's text to
`eval`, which accepts `7//2*8`, hangs on `9**9**9` and compares floats. Here the text only ever becomes a list of
tokens from a closed alphabet, and the verdict comes in three steps, each linear in the length of the completion:

1. syntax: the last complete pair of tags outside thinking, read by a shunting-yard parser with a stack of its own, so
   brackets may nest as deep as they like;
2. numbers: every listed number exactly once, compared before anything is computed;
3. value: exact rationals, so only the listed numbers are ever calculated with, whatever the text holds.

Accepted beside plain arithmetic: mathematical typography with one reading (`3 × 4`, `\\frac{3}{4}`, `\\boxed{...}`)
and a stated result (`expression = 24`). One limit: an answer of more than MAX_TOKENS tokens is malformed.
Left out: powers, roots, factorials, decimals, implicit multiplication, results rounded to the target.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from math import inf
from typing import Any

from qwen_align.verifier.verdict import Verdict

__all__ = ["MAX_TOKENS", "Verdict", "verify"]

MAX_TOKENS = 24_000
MAX_DIGITS = 600  # a longer literal is in no list; Python's int() refuses texts of 640 digits at its strictest setting

_OPENING, _CLOSING = "<answer>", "</answer>"
_THOUGHT = "\0"  # stands for a stretch of thinking: an answer that runs across it can't be read

_PLAIN = re.compile(r"[0-9\s+\-*/()\[\]{}=]*+")
_PLAIN_TOKEN = re.compile(r"[0-9]+|\S")

# `0x12` has two readings (a product and a hexadecimal number), so it gets a lexeme of its own that means nothing.
_LEXEME = re.compile(
    r"[0-9]*\.[0-9]+|0[xX][0-9]|[0-9]+"
    r"|\\left\s*+(?:[(\[]|\\?\{)|\\right\s*+(?:[)\]]|\\?\})|\\boxed\s*+\{|\\[dt]?frac\s*+\{"
    r"|\\[A-Za-z]+|\\[^A-Za-z]|\S",
    re.DOTALL,
)
_BOX, _FRACTION, _DENOMINATOR = "\\boxed{", "\\frac{", "}{"
_MEANING = (
    {char: char for char in "+-*/()[]{}="}
    | dict.fromkeys(["×", "✕", "·", "⋅", "∙", "∗", "x", "X", "\\times", "\\cdot", "\\ast"], "*")
    | dict.fromkeys(["÷", "∕", "⁄", "\\div"], "/")
    | dict.fromkeys(["−", "–", "—"], "-")
    | {"\\{": "{", "\\}": "}"}
    | {f"\\left{bracket}": bracket[-1] for bracket in ["(", "[", "{", "\\{"]}
    | {f"\\right{bracket}": bracket[-1] for bracket in [")", "]", "}", "\\}"]}
    | {"\\boxed{": _BOX, "\\frac{": _FRACTION, "\\dfrac{": _FRACTION, "\\tfrac{": _FRACTION}
    | dict.fromkeys(["$", "\\(", "\\)", "\\[", "\\]"], "")
    | dict.fromkeys(["\\,", "\\:", "\\;", "\\!", "\\>", "\\ ", "\\\n", "\\\t", "\\quad", "\\qquad", "\\enspace"], "")
    | dict.fromkeys(["\\thinspace", "\\medspace", "\\thickspace", "\\negthinspace"], "")
)

_NEGATE = "neg"
_CLOSER = {"(": ")", "[": "]", "{": "}", _BOX: "}", _FRACTION: "}", _DENOMINATOR: "}"}
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_STACK_PRECEDENCE = dict.fromkeys(["", *_CLOSER], 0) | _PRECEDENCE | {_NEGATE: 3}
_OPERATORS = frozenset([*_PRECEDENCE, _NEGATE])

Postfix = list[int | float | str]  # numbers and operators; a float only where a literal is too long to be listed


def verify(completion: str | None, numbers: Sequence[int], target: int) -> Verdict:
    """Judge the completion alone (no prompt). Never raises, whatever the completion is."""
    if not isinstance(completion, str):
        return Verdict.MALFORMED
    answer = _last_answer(completion)
    tokens = None if answer is None else _tokenize(answer)
    if not tokens:
        return Verdict.MALFORMED
    claim: list[str] | None = None
    if "=" in tokens or tokens[0] == _BOX:
        sides = _split_equation(tokens)
        if sides is None:
            return Verdict.MALFORMED
        tokens, claim = sides
    postfix = _parse(tokens)
    if postfix is None:
        return Verdict.MALFORMED
    literals = [item for item in postfix if item.__class__ is not str]
    if len(literals) != len(numbers) or sorted(literals) != sorted(numbers):
        return Verdict.WELLFORMED_WRONG
    if claim is not None and not _states(claim, target):
        return Verdict.WELLFORMED_WRONG
    return Verdict.CORRECT if _value(postfix) == target else Verdict.WELLFORMED_WRONG


def _last_answer(completion: str) -> str | None:
    """The text of the innermost last complete pair of answer tags outside thinking."""
    if "think>" in completion:
        completion = _without_thinking(completion)
    end = completion.rfind(_CLOSING)
    start = completion.rfind(_OPENING, 0, end) if end > 0 else -1
    if start < 0:
        return None
    start += len(_OPENING)
    return completion[start : completion.find(_CLOSING, start)]


def _without_thinking(completion: str) -> str:
    opening, closing = completion.find("<think>"), completion.find("</think>")
    position = 0
    if closing >= 0 and (opening < 0 or closing < opening):
        position = closing + len("</think>")  # the prompt opened the thinking
    spoken = []
    while (opening := completion.find("<think>", position)) >= 0:
        spoken.append(completion[position:opening])
        closing = completion.find("</think>", opening)
        if closing < 0:
            return _THOUGHT.join(spoken)
        position = closing + len("</think>")
    spoken.append(completion[position:])
    return _THOUGHT.join(spoken)


def _tokenize(answer: str) -> list[str] | None:
    """The answer in tokens that `_parse` knows; None if anything else is in it or it is too long."""
    plain = _PLAIN.fullmatch(answer) is not None
    pattern = _PLAIN_TOKEN if plain else _LEXEME
    if len(answer) > MAX_TOKENS:
        answer = " ".join(answer.split())
        if sum(1 for _ in islice(pattern.finditer(answer), MAX_TOKENS + 1)) > MAX_TOKENS:
            return None
    lexemes = pattern.findall(answer)
    if plain:
        return lexemes
    tokens = []
    for lexeme in lexemes:
        meaning = _MEANING.get(lexeme)
        if meaning is None:
            if lexeme[-1] in "0123456789" and lexeme[:2] not in ("0x", "0X"):
                meaning = lexeme
            else:
                meaning = _MEANING.get("".join(lexeme.split()))
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
    if tokens[:1] != [_BOX]:
        return tokens
    opened: list[int] = []
    closed_at: dict[int, int] = {}
    for position, token in enumerate(tokens):
        if token[-1] == "{":
            opened.append(position)
        elif token == "}" and opened:
            closed_at[opened.pop()] = position
    boxes = 0
    while closed_at.get(boxes) == len(tokens) - 1 - boxes and tokens[boxes] == _BOX:
        boxes += 1
    return tokens[boxes : len(tokens) - boxes]


def _is_number(tokens: list[str]) -> bool:
    signed = len(tokens) == 2 and tokens[0] in ("+", "-")
    return (signed or len(tokens) == 1) and tokens[-1][-1].isdecimal()


def _states(claim: list[str], target: int) -> bool:
    """Whether the stated result, one number with or without a sign, is exactly the target."""
    whole, _, decimals = claim[-1].partition(".")
    value = _integer(whole or "0")
    return not decimals.strip("0") and (-value if claim[0] == "-" else value) == target


def _integer(digits: str) -> int | float:
    """The literal's value, or infinity where only leading zeros could make it as small as a listed number and don't."""
    if len(digits) > MAX_DIGITS:
        digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= MAX_DIGITS else inf


def _parse(tokens: list[str]) -> Postfix | None:
    """Shunting-yard (Dijkstra 1961): the expression in postfix order, or None if the tokens are not one expression."""
    output: Postfix = []
    stack = [""]
    operand_next = True
    remaining = iter(tokens)
    for token in remaining:
        if operand_next:
            if token.isdecimal():
                output.append(int(token) if len(token) < 20 else _integer(token))
                operand_next = False
            elif token in _CLOSER:
                stack.append(token)
            elif token == "-":
                stack.append(_NEGATE)
            elif token != "+":
                return None
        elif token in _PRECEDENCE:
            precedence = _PRECEDENCE[token]
            while _STACK_PRECEDENCE[stack[-1]] >= precedence:
                output.append(stack.pop())
            stack.append(token)
            operand_next = True
        else:
            while stack[-1] in _OPERATORS:
                output.append(stack.pop())
            opener = stack.pop()
            if _CLOSER.get(opener) != token:
                return None
            if opener == _FRACTION:
                if next(remaining, "") != "{":
                    return None
                stack.append(_DENOMINATOR)
                operand_next = True
            elif opener == _DENOMINATOR:
                output.append("/")
    while stack[-1] in _OPERATORS:
        output.append(stack.pop())
    return None if operand_next or stack != [""] else output


def _value(postfix: Postfix) -> int | Fraction | None:
    """The exact value, None if something is divided by zero; integers until a division does not come out even."""
    stack: list[Any] = []
    for item in postfix:
        if item.__class__ is not str:
            stack.append(item)
        elif item == _NEGATE:
            stack[-1] = -stack[-1]
        else:
            right = stack.pop()
            left = stack[-1]
            if item == "+":
                stack[-1] = left + right
            elif item == "-":
                stack[-1] = left - right
            elif item == "*":
                stack[-1] = left * right
            elif not right:
                return None
            else:
                stack[-1] = Fraction(left, right) if left % right else left // right
    return stack[0]
