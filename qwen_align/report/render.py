"""Sections -> one page as HTML and as Markdown, rendered by jinja2 from the same sections.

What models wrote is always escaped, and the page loads nothing: plots are inside it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from qwen_align import run_folder
from qwen_align.metric.interval import Interval


class Link(NamedTuple):
    """A table cell that leads to something beside the report."""

    text: str
    href: str


class Answer(NamedTuple):
    """One policy's greedy completion of a problem, and how its samples did."""

    policy: str
    text: str
    verdict: str
    samples: str


Row = Sequence[str | Link]


@dataclass(frozen=True)
class Section:
    """What both pages show under one heading; a table's first row is its head, `plot` the name of a PNG file."""

    title: str
    note: str = ""
    table: Sequence[Row] = ()
    plot: str | None = None
    samples: list[tuple[str, list[Answer]]] = field(default_factory=list)
    terms: dict[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (len(self.table) > 1 or self.plot or self.samples or self.terms)


def formatted(value: Interval | float, sign: str = "") -> str:
    """A metric: `0.243 [0.228, 0.259]`, or the number alone where it has no interval."""
    if isinstance(value, Interval):
        return f"{formatted(value.mean, sign)} [{formatted(value.low, sign)}, {formatted(value.high, sign)}]"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:{sign}.{3 if abs(value) < 10 else 1}f}"


def _fenced(text: str) -> str:
    """A Markdown code block whose fence is longer than any run of backticks inside, or the text could end it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def write_pages(path: Path, title: str, summary: str, sections: list[Section], plots: dict[str, str] | None = None) -> None:
    """Write path.html and path.md without empty sections; plots are PNG files by name, base64."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    templates.trim_blocks = templates.lstrip_blocks = True
    templates.filters["fenced"] = _fenced
    filled = [section for section in sections if not section.is_empty]
    for suffix in ("html", "md"):
        page = templates.get_template(f"report.{suffix}.jinja")
        text = page.render(title=title, summary=summary, sections=filled, plots=plots or {})
        run_folder.write_text(path.with_name(f"{path.name}.{suffix}"), text)
