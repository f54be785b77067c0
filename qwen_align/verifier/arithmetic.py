"""Arithmetic from a list of tokens, exactly: + - * / and fractions over literals, in time linear in their number.

Both verifiers read a model's text into these tokens and nothing else, so no text can reach `eval`, and every token is
looked at once or twice, whatever its neighbours are. Parsing and calculating are two steps, so that a caller can
refuse an expression after seeing its literals and before anything is computed. Left out: powers, roots, names.
"""

from fractions import Fraction
from math import inf
from typing import Any

MAX_DIGITS = 600  # Python's int() refuses texts of more than 640 digits at its strictest setting

BOX, FRACTION = "\\boxed{", "\\frac{"  # `\frac{` is followed by a numerator, `}`, `{`, a denominator, `}`
_DENOMINATOR = "}{"
_NEGATE = "neg"
_CLOSER = {"(": ")", "[": "]", "{": "}", BOX: "}", FRACTION: "}", _DENOMINATOR: "}"}
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_STACK_PRECEDENCE = dict.fromkeys(["", *_CLOSER], 0) | _PRECEDENCE | {_NEGATE: 3}
_OPERATORS = frozenset([*_PRECEDENCE, _NEGATE])

Postfix = list[int | float | str]  # literals and operators; the only float is infinity, for a literal beyond MAX_DIGITS


def integer(digits: str) -> int | float:
    """The literal's value, or infinity where only leading zeros could make it as small as a listed number and don't."""
    if len(digits) > MAX_DIGITS:
        digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= MAX_DIGITS else inf


def to_postfix(tokens: list[str]) -> Postfix | None:
    """Shunting-yard (Dijkstra 1961): the expression in postfix order, or None if the tokens are not one expression."""
    output: Postfix = []
    stack = [""]
    operand_next = True
    remaining = iter(tokens)
    for token in remaining:
        if operand_next:
            if token.isdecimal():
                output.append(int(token) if len(token) < 20 else integer(token))
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
            if opener == FRACTION:
                if next(remaining, "") != "{":
                    return None
                stack.append(_DENOMINATOR)
                operand_next = True
            elif opener == _DENOMINATOR:
                output.append("/")
    while stack[-1] in _OPERATORS:
        output.append(stack.pop())
    return None if operand_next or stack != [""] else output


def value_of(postfix: Postfix) -> int | Fraction | None:
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
