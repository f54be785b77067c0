"""Your own files as a data set: JSONL, JSON, CSV, TSV, XLSX or Parquet, one path a view.

Plain text becomes messages (a prompt is the user's, an answer the assistant's), messages stay; `columns` says what your file
calls ours. A view without a path does not exist. Nothing is guessed: every row that cannot be used is named with its file and
line, and on_bad_row=skip leaves it out and prints which. Columns that are no part of the conversation are handed on, to rewards
and the verifier, those that the verifier reads in its types. Nothing of the evaluation file is trained on: a prompt that is in
both is such a row. All rows of all files are checked before the first stage of a plan. Left out: tool calls, images, several
answers in one row, splitting one file into views.
"""

import codecs
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_align.data import files
from qwen_align.data.conversation import BadRow, Messages, dialogue, messages, preference, prompt_key, prompt_of
from qwen_align.data.files import File, Record, Scan, cell
from qwen_align.errors import ConfigError, nearest
from qwen_align.verifier import Verifier

if TYPE_CHECKING:
    from datasets import Dataset

VIEWS: dict[str, tuple[str, ...]] = {  # view -> the columns of its conversation
    "demonstrations": ("prompt", "completion"),
    "preferences": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt",),
    "evaluation": ("prompt",),
}
_CONVERSATION = ("prompt", "completion", "messages", "chosen", "rejected")


def _check_turns(turns: Messages, column: str) -> None:
    """Raise BadRow for roles in no order, and for messages as text."""
    if len(turns) < 3 and any(t["content"].startswith("[{") and "role" in t["content"] for t in turns):
        raise BadRow(f"{column} holds messages written as text; expected a list of objects, as JSONL has it")
    roles = [turn["role"] for turn in turns]
    if any(first == second and first != "tool" for first, second in pairwise(roles)) or "system" in roles[1:]:
        raise BadRow(f"{column} has roles in a wrong order; expected system once, then user and assistant in turns", roles)
    if "user" not in roles:
        raise BadRow(f"{column} holds no message of the user", roles)
    if not all(turn["content"].strip() for turn in turns if turn["role"] == "user"):
        raise BadRow(f"{column} holds an empty message of the user")


def conversation(view: str, record: Record, names: Mapping[str, str]) -> dict[str, Any]:
    """The messages of a record, under our column names; `names` maps ours to the file's. Raises BadRow."""
    row = _conversation(view, record, names)
    begun = prompt_of(row) if view not in ("prompts", "evaluation") else row["prompt"]
    answer = row.get("chosen") or row.get("completion") or row.get("messages", [])[len(begun) :]
    name = "messages" if "messages" in row else "prompt"
    _check_turns([*begun, *answer], names.get(name) or name)
    return row


def _conversation(view: str, record: Record, names: Mapping[str, str]) -> dict[str, Any]:
    name = {ours: names.get(ours) or ours for ours in _CONVERSATION}
    if view == "demonstrations" and name["completion"] not in record and name["messages"] in record:
        return dict(dialogue(record[name["messages"]], name["messages"]))
    if view == "preferences":
        # Without a prompt of its own, chosen and rejected hold it.
        prompt = (record[name["prompt"]] or "") if name["prompt"] in record else None
        good, bad = cell(record, name["chosen"]), cell(record, name["rejected"])
        return dict(preference(prompt, good, bad, (name["prompt"], name["chosen"], name["rejected"])))
    roles = {ours: "user" if ours == "prompt" else "assistant" for ours in VIEWS[view]}
    return {ours: messages(cell(record, name[ours]), name[ours], role) for ours, role in roles.items()}


@dataclass
class Local:
    """The user's files."""

    demonstrations_path: str | None = None  # prompt and completion, or `messages`, of which every answer is trained
    preferences_path: str | None = None  # prompt, chosen, rejected
    prompts_path: str | None = None  # prompt, and what the reward reads
    evaluation_path: str | None = None  # as prompts, held out: nothing in it may be in another view
    columns: Mapping[str, str] = field(default_factory=dict)  # our name -> the file's
    on_bad_row: str = "stop"  # or skip
    encoding: str | None = None  # of all text files; None: UTF-8, or UTF-16 with its mark
    separator: str | None = None  # of cells in CSV; None: what the first line has
    verifier: Verifier | None = None  # whose columns are read in its types, for prompts and evaluation

    def __post_init__(self) -> None:
        if (how := self.on_bad_row) not in ("stop", "skip"):
            raise ConfigError(f"data.on_bad_row={how}: expected stop or skip{nearest(how, ('stop', 'skip'))}")
        if (mark := self.separator) is not None and mark not in ("tab", "\\t") and len(mark) != 1:
            raise ConfigError(f"data.separator={mark}: expected one character, tab, or null")
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError as error:
            raise ConfigError(f"data.encoding={self.encoding}: expected utf-8, utf-16, cp1252, latin-1 or null") from error
        known = [*_CONVERSATION, *(self.verifier.needs if self.verifier else ())]
        for name, theirs in self.columns.items():
            if name not in known and (close := difflib.get_close_matches(name, known, n=1, cutoff=0.8)):
                raise ConfigError(f"data.columns.{name}={theirs}: expected ours=theirs; did you mean {close[0]}?")
        given = {view: getattr(self, f"{view}_path") for view in VIEWS}
        self.paths = {view: Path(path).expanduser() for view, path in given.items() if path is not None}
        for view, path in self.paths.items():
            files.check(f"data.{view}_path", path)

    def views(self) -> tuple[str, ...]:
        """The views that have a file."""
        return tuple(self.paths)

    @cached_property
    def _held_out(self) -> frozenset[str]:
        """The prompts of the evaluation file."""
        file = self.file("evaluation") if "evaluation" in self.paths else None
        return frozenset(prompt_key(row["prompt"]) for row in files.usable(file, Scan())) if file else frozenset()

    def _row(self, view: str, record: Record) -> Record:
        """One row of a view; raises BadRow."""
        row = conversation(view, record, self.columns)
        if view != "evaluation" and self._held_out and prompt_key(prompt := prompt_of(row)) in self._held_out:
            raise BadRow("asks what data.evaluation_path holds", prompt[-1]["content"])
        if self.verifier and view in ("prompts", "evaluation"):
            for name in self.verifier.missing(row):
                row[name] = cell(record, self.columns.get(name, name), partial(self.verifier.read, name))
        others = {ours: theirs for ours, theirs in self.columns.items() if ours not in (*_CONVERSATION, *row)}
        row |= {ours: record[theirs] for ours, theirs in others.items() if theirs in record}
        used = {*_CONVERSATION, *row, *(self.columns.get(name, name) for name in row)}
        return row | {name: value for name, value in record.items() if name not in used}

    def file(self, view: str) -> File:
        """The file of a view, and how its records become rows."""
        needs = self.verifier.needs if self.verifier and view in ("prompts", "evaluation") else ()
        ours = [*VIEWS[view], *(["messages"] if view == "demonstrations" else []), *needs]
        wanted = {name: self.columns.get(name) or name for name in ours}
        mark = "\t" if self.separator in ("tab", "\\t") else self.separator
        advice, skip = "; data.on_bad_row=skip leaves them out", self.on_bad_row == "skip"
        row = partial(self._row, view)
        return File(f"data.{view}_path", self.paths[view], row, skip, advice, wanted, self.encoding, mark)

    def user_files(self) -> Iterator[File]:
        """All files, what is held out first."""
        yield from (self.file(view) for view in sorted(self.paths, key=lambda view: view != "evaluation"))

    def _view(self, view: str) -> "Dataset":
        """The columns of its conversation, what the verifier reads, and the file's others; no prompt of the evaluation file."""
        if view not in self.paths:
            file = f"{files.SUFFIXES} with {', '.join(VIEWS[view])}"
            raise ConfigError(f"data=local: has no {view} view; set data.{view}_path=FILE ({file})")
        return files.read(self.file(view))

    def demonstrations(self) -> "Dataset":
        return self._view("demonstrations")

    def preferences(self) -> "Dataset":
        return self._view("preferences")

    def prompts(self) -> "Dataset":
        return self._view("prompts")

    def evaluation(self) -> "Dataset":
        return self._view("evaluation")
