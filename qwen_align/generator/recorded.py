"""Completions that somebody recorded: a file is read instead of a policy being asked, and ours are written to such a file.

The format is the eval.json of the study's family (Stanford's CS224R), one JSON object a line or a JSON list of them:

    {"prompt": ..., "nums": [44, 19, 35], "target": 98, "ground_truth": {"numbers": [...], "target": 98},
     "response": [texts], "scores": [1 correct, 0.1 well-formed but wrong, 0 malformed]}

What the verifier reads stands in the line or in its ground_truth; scores and prompt may be missing. We add greedy, tokens and
finished. A line that cannot be used is an error that names it. Left out: other names for columns, files of several policies.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qwen_align import run_folder
from qwen_align.data.conversation import BadRow
from qwen_align.data.files import cell
from qwen_align.errors import ConfigError
from qwen_align.generator import Completion
from qwen_align.verifier import Verdict, Verifier

SCORES = {Verdict.CORRECT: 1.0, Verdict.WELLFORMED_WRONG: 0.1, Verdict.MALFORMED: 0.0}
_OURS = ("response", "scores", "ground_truth", "greedy", "tokens", "finished")
_LARGEST = 1e9  # a score or a number of tokens beyond it, or NaN, is a mistake


@dataclass(frozen=True)
class Problem:
    """One line of the file."""

    where: str  # "line 3"
    row: dict[str, Any]
    greedy: list[Completion]  # one, or none
    pool: list[Completion]
    scores: list[float] | None


def _json(text: str, line: int = 0) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        number, reason = line or getattr(error, "lineno", 1), getattr(error, "msg", "too deep")
        raise BadRow(f"line {number} is not JSON ({reason})") from error


def _entries(text: str) -> Iterator[tuple[str, Any]]:
    """(where, entry) of JSON lines or of one JSON list; raises BadRow."""
    if text.lstrip().startswith("["):
        yield from ((f"entry {number}", entry) for number, entry in enumerate(_json(text), 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number}", _json(line, number)


def _list(entry: dict[str, Any], key: str, kinds: tuple[type, ...], what: str, length: int | None = None) -> list[Any]:
    found = entry[key]
    if not isinstance(found, list) or not found:
        raise BadRow(f"{key} is no list of {what}, or an empty one")
    for position, value in enumerate(found, 1):
        if not isinstance(value, kinds) or (isinstance(value, int | float) and not -_LARGEST < value < _LARGEST):
            raise BadRow(f"{key}: number {position} is {json.dumps(value):.40}; expected a list of {what}")
    if length is not None and len(found) != length:
        raise BadRow(f"has {length} responses, but {len(found)} {key}")
    return found


def _row(entry: dict[str, Any], verifier: Verifier | None) -> dict[str, Any]:
    """The problem's columns, what the verifier reads in its types; raises BadRow."""
    truth = entry.get("ground_truth")
    readers = {name: partial(verifier.read, name) for name in verifier.needs} if verifier else {}
    nested = dict(truth) if isinstance(truth, dict) else {} if truth is None else {next(iter(readers), "answer"): truth}
    if "numbers" in nested:
        nested["nums"] = nested.pop("numbers")
    given = {key: value for key, value in entry.items() if key not in _OURS}
    row = {key: value for key, value in given.items() if value is not None or key not in nested}
    row |= {key: value for key, value in nested.items() if key not in row}
    for name, read in readers.items():
        row[name] = cell(row, name, read)
        if name in nested and cell(nested, name, read) != row[name]:
            raise BadRow(f"says {name} twice: {row[name]}, but {nested[name]} in ground_truth")
    return row


def _problem(where: str, entry: Any, verifier: Verifier | None) -> Problem:
    if not isinstance(entry, dict):
        raise BadRow("is no object")
    if "response" not in entry:
        raise BadRow(f"has no response, only {', '.join(entry)}")
    texts = _list(entry, "response", (str,), "texts")
    scores = None
    if entry.get("scores") is not None:
        scores = [float(s) for s in _list(entry, "scores", (int, float), "numbers", len(texts))]
    counted = "tokens" in entry and "finished" in entry
    tokens = _list(entry, "tokens", (int,), "whole numbers", len(texts)) if counted else [0] * len(texts)
    finished = _list(entry, "finished", (bool,), "true or false", len(texts)) if counted else [True] * len(texts)
    greedy = entry.get("greedy")
    if not isinstance(greedy, str | None):
        raise BadRow("greedy is no text")
    pool = [Completion(*parts) for parts in zip(texts, tokens, finished, strict=True)]
    first = [] if greedy is None else [Completion(greedy, 0, True)]
    return Problem(where, _row(entry, verifier), first, pool, scores)


def _same_shape(problem: Problem, first: Problem) -> None:
    """Raise BadRow unless a problem has as many responses as the first, and scores and a greedy answer where it has."""
    if len(problem.pool) != len(first.pool):
        raise BadRow(f"has {len(problem.pool)} responses, {first.where} has {len(first.pool)}; expected as many")
    for key in ("scores", "greedy"):
        if bool(getattr(problem, key)) != bool(getattr(first, key)):
            raise BadRow(f"has {'no ' if getattr(first, key) else ''}{key}, unlike {first.where}")


class Recorded:
    """The completions of a file, for method=evaluate alone; nothing is loaded."""

    needs_policy = False

    def __init__(self, path: str | None) -> None:
        if path is None:
            raise ConfigError("generator.path=null: expected the file to be measured, for example eval.json")
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise ConfigError(f"generator.path={path}: no such file")

    def problems(self, verifier: Verifier | None) -> list[Problem]:
        """Every line of the file, with the verifier's columns; ConfigError for the first one that cannot be used."""
        found: list[Problem] = []
        where = ""
        try:
            for where, entry in _entries(self.path.read_text(encoding="utf-8-sig")):
                found.append(_problem(where, entry, verifier))
                _same_shape(found[-1], found[0])
        except BadRow as error:
            reason = str(error) if str(error).startswith("line ") else f"{where} {error}"
            raise ConfigError(f"generator.path={self.path}: {reason}") from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"generator.path={self.path}: cannot be read ({error})") from error
        if not found:
            raise ConfigError(f"generator.path={self.path}: holds no problem")
        return found


def write(
    path: Path,
    rows: Sequence[dict[str, Any]],
    firsts: Sequence[Sequence[Completion]],
    pools: Sequence[Sequence[Completion]],
    verdicts: Sequence[Sequence[str]],
) -> None:
    """Write completions and their verdicts as such a file; `firsts` hold the greedy one of each problem, where there is one."""
    counted = any(c.tokens for pool in pools for c in pool)
    lines = []
    for row, first, pool, judged in zip(rows, firsts, pools, verdicts, strict=True):
        known = row.keys() >= {"nums", "target"}
        truth = {"ground_truth": {"numbers": row["nums"], "target": row["target"]}} if known else {}
        line = row | truth | {"response": [c.text for c in pool], "scores": [SCORES[Verdict(v)] for v in judged]}
        line |= {"greedy": first[0].text} if first else {}
        line |= {"tokens": [c.tokens for c in pool], "finished": [c.finished for c in pool]} if counted else {}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    run_folder.write_text(path, "".join(lines))


def name_of(label: str) -> str:
    """What the file of one of several policies is called."""
    return f"eval-{re.sub(r'[^A-Za-z0-9_.+-]+', '_', label)}.json"
