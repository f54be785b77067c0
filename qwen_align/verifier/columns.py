"""Columns of a row in the types that verifiers read: a CSV cell is text, a JSON value may be anything.

A reader returns the value, or raises a ValueError that goes on after the column's name: "is no whole number".
"""

import re
from typing import Any


def whole_number(value: Any) -> int:
    """An integer, or text that is one."""
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?[0-9]{1,100}", str(value).strip()):
        raise ValueError("is no whole number")
    return int(value)


def whole_numbers(value: Any) -> list[int]:
    """A list of integers, or text such as "[1, 2, 3]" or "1 2 3"."""
    found = re.findall(r"[^\s,;\[\]]+", value) if isinstance(value, str) else value
    if not isinstance(found, list) or not found:
        raise ValueError("is no list of whole numbers")
    return [whole_number(number) for number in found]


def text(value: Any) -> str:
    """Text, or a number as text."""
    if value is None or not str(value).strip():
        raise ValueError("is empty")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("is neither text nor a number")
    return str(value)
