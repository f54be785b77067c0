"""Text of the terminal and of the reports: aligned tables, paths, durations."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path


@cache
def print_once(line: str) -> None:
    """Several stages or jobs of one command would repeat it."""
    print(line, flush=True)


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as aligned text; the first is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def short_path(path: Path) -> str:
    """A path as a person would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def duration(seconds: float) -> str:
    """1:02:03 or 2:03 min or 4 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02} min" if minutes else f"{rest} s"
