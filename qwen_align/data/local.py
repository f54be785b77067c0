"""Your own files as a data set: JSONL, CSV or Parquet, one path a view, read by suffix.

Plain text becomes messages (a prompt is the user's, an answer the assistant's), messages stay; `columns` says what your file
calls ours. A view without a path does not exist. Nothing is guessed: every row that cannot be used is named with its file and
line, and on_bad_row=skip leaves it out aloud. Columns that are no part of the conversation are handed on, to rewards and the
verifier. Nothing of the evaluation file is trained on: a prompt that is in both is such a row. Left out: tool calls, images,
several answers in one row, splitting one file into views.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_align.data.conversation import BadRow, asked, mark, messages, pair, talk
from qwen_align.data.gsm8k import voted
from qwen_align.errors import ConfigError, nearest
from qwen_align.verifier import constraints, countdown, math
from qwen_align.verifier.verdict import Verdict

if TYPE_CHECKING:
    from datasets import Dataset

VIEWS = {  # view -> the columns of its conversation
    "demonstrations": ("prompt", "completion"), "preferences": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",), "evaluation": ("prompt",),
}  # fmt: skip
VERIFIERS: dict[str, tuple[str, ...]] = {  # and what each reads
    "countdown": ("nums", "target"), "math": ("answer",), "constraints": ("constraints",),
}  # fmt: skip
SUFFIXES = (".jsonl", ".csv", ".parquet")
_CONVERSATION = ("prompt", "completion", "messages", "chosen", "rejected")
_NAMED = 20  # bad rows in one message


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    record = BadRow("is not JSON")
                yield number, record if isinstance(record, (dict, BadRow)) else BadRow("is not an object")


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for record in reader:
                uneven = None in record or None in record.values()
                yield reader.line_num, BadRow("has another number of cells than the header") if uneven else record
        except csv.Error as error:
            yield reader.line_num + 1, BadRow(f"is not CSV, nor is anything after it ({error})")


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    from pyarrow import parquet

    yield from enumerate(parquet.read_table(path).to_pylist(), 1)


_READERS = dict(zip(SUFFIXES, (_jsonl, _csv, _parquet), strict=True))


def _whole(value: Any, column: str) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?[0-9]{1,100}", str(value).strip()):
        raise BadRow(f"{column} is no whole number")
    return int(value)


def checked(value: Any, name: str, column: str) -> Any:
    """A verifier's column in the type that it reads; CSV has only text. `column` is what the file calls it."""
    if name == "target":
        return _whole(value, column)
    if name == "nums":
        found = re.findall(r"[^\s,;\[\]]+", value) if isinstance(value, str) else value
        if not isinstance(found, list) or not found:
            raise BadRow(f"{column} is no list of whole numbers")
        return [_whole(number, column) for number in found]
    if name == "constraints":
        try:
            constraints.read(value)
        except (ConfigError, TypeError) as error:
            raise BadRow(f"{column} is no JSON list of constraints ({error})") from error
        return value
    if value is None or not str(value).strip():
        raise BadRow(f"{column} is empty")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadRow(f"{column} is neither text nor a number")
    return str(value)


def _cell(record: dict[str, Any], column: str) -> Any:
    if column not in record:
        raise BadRow(f"has no column {column}, only {', '.join(map(str, record))}")
    return record[column]


class Local:
    """The user's files; `verify` and `answer` are None without a verifier.

    Args:
        demonstrations_path: prompt and completion, or `messages`, of which every answer is trained.
        preferences_path: prompt, chosen, rejected.
        prompts_path: prompt, and what the reward reads.
        evaluation_path: as prompts, held out: nothing in it may be in another view.
        columns: our name -> the file's; null: the same.
        on_bad_row: stop, or skip.
        verifier: countdown (reads nums and target), math (answer), constraints (constraints), or none.
    """

    verify: Callable[[str | None, dict[str, Any]], Verdict] | None = None
    judge: Callable[[str | None, dict[str, Any]], float] | None = None
    answer: Callable[[str], str | None] | None = None
    answers: Callable[[str], list[str]] | None = None
    timeouts: Callable[[], int] | None = None

    def __init__(
        self, demonstrations_path: str | None = None, preferences_path: str | None = None,
        prompts_path: str | None = None, evaluation_path: str | None = None, columns: dict[str, str | None] | None = None,
        on_bad_row: str = "stop", verifier: str | None = None,
    ) -> None:  # fmt: skip
        given = zip(VIEWS, (demonstrations_path, preferences_path, prompts_path, evaluation_path), strict=True)
        self.paths = {view: Path(path).expanduser() for view, path in given if path is not None}
        self.columns = {ours: theirs for ours, theirs in (columns or {}).items() if theirs is not None}
        self.on_bad_row, self.verifier = on_bad_row, verifier
        if on_bad_row not in ("stop", "skip"):
            raise ConfigError(
                f"data.on_bad_row={on_bad_row}: expected stop or skip{nearest(on_bad_row, ('stop', 'skip'))}"
            )
        if verifier is not None and verifier not in VERIFIERS:
            raise ConfigError(
                f"data.verifier={verifier}: expected null, {', '.join(VERIFIERS)}{nearest(verifier, VERIFIERS)}"
            )
        known = [*_CONVERSATION, *(column for read in VERIFIERS.values() for column in read)]
        for name in self.columns:
            if name not in known:
                raise ConfigError(
                    f"data.columns.{name}={self.columns[name]}: expected ours=theirs, ours one of {', '.join(known)}"
                    f"{nearest(name, known)}"
                )
        for view, path in self.paths.items():
            if path.suffix.lower() not in SUFFIXES:
                raise ConfigError(f"data.{view}_path={path}: expected a file that ends with {', '.join(SUFFIXES)}")
            if not path.is_file():
                raise ConfigError(f"data.{view}_path={path}: no such file")
        if verifier == "countdown":
            self.verify = lambda completion, row: countdown.verify(completion, row["nums"], row["target"])
            self.answer, self.answers = countdown.answer, countdown.answers
        elif verifier == "math":
            self.verify = lambda completion, row: math.verify(completion, row["answer"])
            self.answer, self.answers, self.timeouts = voted, math.answers, math.timeouts
        elif verifier == "constraints":
            self.verify = lambda completion, row: constraints.verify(completion, row["constraints"])
            self.judge = lambda completion, row: constraints.share(completion, row["constraints"])

    def views(self) -> tuple[str, ...]:
        """The views that have a file."""
        return tuple(self.paths)

    def demonstrations(self) -> "Dataset":
        """prompt and completion, or messages, and the file's other columns."""
        return self._view("demonstrations")

    def preferences(self) -> "Dataset":
        """prompt, chosen, rejected, and the file's other columns."""
        return self._view("preferences")

    def prompts(self) -> "Dataset":
        """prompt, what the verifier reads, and the file's other columns."""
        return self._view("prompts")

    def evaluation(self) -> "Dataset":
        """As prompts, from the file of held-out problems."""
        return self._view("evaluation")

    def _row(self, view: str, record: dict[str, Any]) -> dict[str, Any]:
        """One row of a view; raises BadRow."""
        theirs = {name: self.columns.get(name, name) for name in (*VIEWS[view], "messages")}
        whole = theirs.pop("messages")
        whole_talk = view == "demonstrations" and theirs["completion"] not in record and whole in record
        read = VERIFIERS[self.verifier] if self.verifier and view in ("prompts", "evaluation") else ()
        if whole_talk:
            theirs = {"messages": whole}
        theirs |= {name: self.columns.get(name, name) for name in read}
        if whole_talk:
            row: dict[str, Any] = talk(_cell(record, whole), whole)
        elif view == "preferences":
            names = theirs["prompt"], theirs["chosen"], theirs["rejected"]
            given = (record[names[0]] or "") if names[0] in record else None  # then chosen and rejected hold it
            row = pair(given, _cell(record, names[1]), _cell(record, names[2]), names)
        else:
            roles = {name: "user" if name == "prompt" else "assistant" for name in VIEWS[view]}
            row = {name: messages(_cell(record, theirs[name]), theirs[name], role) for name, role in roles.items()}
        row |= {name: checked(_cell(record, theirs[name]), name, theirs[name]) for name in read}
        used = {*_CONVERSATION, *theirs.values(), *row}
        return row | {key: value for key, value in record.items() if key not in used}

    def _view(self, view: str) -> "Dataset":
        key = f"data.{view}_path"
        if view not in self.paths:
            raise ConfigError(
                f"data=local: has no {view} view; set {key}=FILE ({', '.join(SUFFIXES)} with {', '.join(VIEWS[view])})"
            )
        path, held_out = self.paths[view], self._held_out(view)
        rows: list[dict[str, Any]] = []
        bad: list[str] = []
        try:
            for number, record in _READERS[path.suffix.lower()](path):
                try:
                    if isinstance(record, BadRow):
                        raise record
                    row = self._row(view, record)
                    if mark(asked(row)) in held_out:
                        raise BadRow("asks what data.evaluation_path holds")
                    rows.append(row)
                except BadRow as error:
                    bad.append(f"line {number} {error}")
        except (OSError, ValueError) as error:  # pyarrow's errors and wrong encodings are among them
            raise ConfigError(f"{key}={path}: cannot be read ({str(error).splitlines()[0]})") from error
        self._complain(f"{key}={path}", bad, len(rows))
        return _dataset(f"{key}={path}", rows)

    def _held_out(self, view: str) -> set[str]:
        """The evaluation file's prompts, which no other view may hold."""
        if view == "evaluation" or "evaluation" not in self.paths:
            return set()
        return {mark(prompt) for prompt in self.evaluation()["prompt"]}

    def _complain(self, said: str, bad: list[str], good: int) -> None:
        if bad:
            more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
            listed = f"{len(bad)} of {len(bad) + good} rows cannot be used: {'; '.join(bad[:_NAMED])}{more}"
            if self.on_bad_row == "stop":
                raise ConfigError(f"{said}: {listed}; data.on_bad_row=skip leaves them out")
            print(f"{said}: {listed}; left out", flush=True)
        if not good:
            raise ConfigError(f"{said}: holds no row that can be used")


def _dataset(said: str, rows: list[dict[str, Any]]) -> "Dataset":
    """The rows, each with every column that some row has."""
    from datasets import Dataset

    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    for name, column in columns.items():
        try:
            Dataset.from_dict({name: column})
        except (ValueError, TypeError, OverflowError) as error:
            raise ConfigError(
                f"{said}: the column {name} holds values of different types ({str(error).splitlines()[0]}); expected one type"
            ) from error
    return Dataset.from_dict(columns)
