"""Settings that several data sets have, each checked here alone: numbers of rows, the held-out share, the prompt's template."""

import string
import zlib
from collections.abc import Sequence

from qwen_align.errors import ConfigError


def check_limits(**limits: int | None) -> None:
    """Raise ConfigError for a number of rows below 1; None is all there are."""
    for key, limit in limits.items():
        if limit is not None and limit < 1:
            raise ConfigError(f"data.{key}={limit}: expected a whole number from 1 on")


def check_bounds(key: str, bounds: Sequence[int], low: int, high: int | None = None) -> None:
    """Raise ConfigError unless these are two whole numbers in a range, the smaller first."""
    whole = len(bounds) == 2 and all(type(n) is int for n in bounds)
    if not whole or not low <= bounds[0] <= bounds[1] or (high is not None and bounds[1] > high):
        span = f"from {low} to {high}" if high else f"from {low} on"
        raise ConfigError(f"data.{key}={list(bounds)}: expected two whole numbers, the smaller first, {span}")


def check_held_out(share: float) -> None:
    """Raise ConfigError unless both views get a share."""
    if not 0 < share < 1:
        raise ConfigError(f"data.held_out={share}: expected a share between 0 and 1, for example 0.15")


def is_held_out(problem: str, share: float) -> bool:
    """Whether a problem belongs to the evaluation view: its checksum decides, so that sizes and seeds do not matter."""
    return zlib.crc32(problem.encode()) % 10_000 < share * 10_000


def check_template(prompt: str, *fields: str) -> None:
    """Raise ConfigError unless a prompt's fields are these."""
    try:
        found = {field for _, field, _, _ in string.Formatter().parse(prompt) if field is not None}
    except ValueError as error:
        raise ConfigError(f"data.prompt={prompt!r}: {error}; a brace that is text is written twice") from error
    if found != set(fields):
        expected = " and ".join(f"{{{field}}}" for field in fields)
        raise ConfigError(f"data.prompt={prompt!r}: has the fields {sorted(found)}; expected {expected}")
