"""Rows of conversations as TRL wants them: what is text or messages, where an answer begins, and what is wrong with a row.

Every source reads through here, so that one row means the same from a file of the user's and from the Hub.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from qwen_align.errors import ConfigError

if TYPE_CHECKING:
    from datasets import Dataset

Messages = list[dict[str, str]]
Row = partial[dict[str, Any]]  # of a record
_ROLES = ("system", "developer", "user", "assistant", "tool")


class BadRow(Exception):
    """What is wrong with one row: the reason, the same for all such rows, and the value that has it."""

    def __init__(self, reason: str, *value: Any) -> None:
        super().__init__(reason, *value)
        self.reason, self.value = reason, value

    def __str__(self) -> str:
        shown = repr(self.value[0]) if self.value else ""
        return f"{self.reason}: {shown[:60]}{'...' if len(shown) > 60 else ''}" if shown else self.reason


def messages(value: Any, column: str, role: str) -> Messages:
    """A conversation: messages, with role and content alone; text as one message. Raises BadRow."""
    if isinstance(value, str) and value.strip():
        return [{"role": role, "content": value}]
    if value is None or isinstance(value, str) or value == []:
        raise BadRow(f"{column} is empty")
    if not isinstance(value, list):
        raise BadRow(f"{column} is neither text nor messages", value)
    for message in value:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise BadRow(f"{column} holds something that is no message with role and content", message)
    if unknown := next((message["role"] for message in value if message["role"] not in _ROLES), None):
        raise BadRow(f"{column} has the role {unknown[:20]}; expected user (not human), assistant (not gpt) or system")
    if role == "assistant" and value[-1]["role"] != "assistant":
        raise BadRow(f"{column} does not end with the assistant's message", value[-1])
    if not value[-1]["content"].strip():
        raise BadRow(f"{column} ends with an empty message")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def dialogue(value: Any, column: str) -> dict[str, Messages]:
    """A conversation of which every answer is a demonstration, under `messages`; raises BadRow."""
    found = messages(value, column, "assistant")
    if len(found) < 2 or found[0]["role"] == "assistant":
        raise BadRow(f"{column} hold an answer without a prompt")
    if not all(message["content"].strip() for message in found if message["role"] == "assistant"):
        raise BadRow(f"{column} hold an empty answer")
    return {"messages": found}


def prompt_of(row: dict[str, Any]) -> Messages:
    """The messages before the last answer of a demonstration, or the prompt of any other row."""
    return row["prompt"] if "prompt" in row else row["messages"][:-1]


def completion_of(row: dict[str, Any]) -> Messages:
    """The last answer of a demonstration, as messages."""
    return row["completion"] if "completion" in row else row["messages"][-1:]


def preference(prompt: Any, chosen: Any, rejected: Any, names: tuple[str, str, str]) -> dict[str, Messages]:
    """prompt, chosen and rejected, each from text or messages; `names` is what the source calls them. Raises BadRow.

    Answers that begin with the prompt's messages lose them; a prompt of None is read from there.
    """
    good, bad = messages(chosen, names[1], "assistant"), messages(rejected, names[2], "assistant")
    if prompt is None:
        if len(good) < 2 or good[:-1] != bad[:-1]:
            what = "answer different prompts" if len(good) > 1 else f"hold no prompt, and there is no {names[0]}"
            raise BadRow(f"{names[1]} and {names[2]} {what}")
        question = good[:-1]
    else:
        question = messages(prompt, names[0], "user")
    good, bad = (answer[len(question) :] if answer[: len(question)] == question else answer for answer in (good, bad))
    if not good or not bad:
        raise BadRow(f"{names[1]} or {names[2]} holds the prompt and no answer")
    if good == bad:
        raise BadRow(f"{names[1]} and {names[2]} are the same", good[-1]["content"])
    return {"prompt": question, "chosen": good, "rejected": bad}


def _converted(row: Row, names: list[str], batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The columns that `row` makes of each record, and in `reason` why a record can't be used."""
    found: list[dict[str, Any]] = []
    for values in zip(*batch.values(), strict=True):
        try:
            found.append(row(dict(zip(batch, values, strict=True))))
        except BadRow as error:
            found.append({"reason": error.reason})
    return {name: [made.get(name) for made in found] for name in (*names, "reason")}


def _kept(rows: "Dataset", reasons: Sequence[str | None], source: str) -> "Dataset":
    """The rows without a reason against them; how many have one, and which, is printed."""
    left_out = Counter(reason for reason in reasons if reason is not None)
    listed = "; ".join(f"{number} because {reason}" for reason, number in left_out.most_common(20))
    if left_out.total() == len(rows):
        raise ConfigError(f"{source}: holds no row that can be used{f'; {listed}' if listed else ''}")
    if listed:
        print(f"{source}: {left_out.total()} of {len(rows)} rows are left out: {listed}", flush=True)
    return rows.select([i for i, reason in enumerate(reasons) if reason is None])


def usable_rows(source: str, records: "Dataset", row: Row, names: Sequence[str], **others: Any) -> "Dataset":
    """The rows that `row` makes of a public set's records; how many raise BadRow is printed, and ConfigError if all do.

    `row` is a partial function, see `cached.identity`; `names` are a row's conversations, `others` the types of its other
    columns; `source` names it in messages.
    """
    from datasets import List, Value

    from qwen_align.data import cached

    if not len(records):
        raise ConfigError(f"{source}: holds no row that can be used")
    types = dict.fromkeys(names, List({"role": Value("string"), "content": Value("string")})) | others
    settings = [cached.identity(row), cached.code_of(sys.modules[__name__]), list(types)]
    work, types = partial(_converted, row, list(types)), types | {"reason": Value("string")}
    rows = cached.mapped(records, work, settings, types, "checking rows")
    return _kept(rows, rows["reason"][:], source).remove_columns("reason")


def unique_prompts(source: str, rows: "Dataset") -> "Dataset":
    """The rows, of those with the same prompt the first; how many others there are is printed."""
    seen: set[str] = set()
    reasons = []
    for batch in rows.select_columns(["prompt"]).iter(1000):
        for key in map(prompt_key, batch["prompt"]):
            reasons.append("the prompt is there already" if key in seen else None)
            seen.add(key)
    return _kept(rows, reasons, source)


def dataset(rows: list[dict[str, Any]]) -> "Dataset":
    """Rows as a data set; `datasets` is imported where rows are made, not where settings are checked."""
    from datasets import Dataset

    return Dataset.from_list(rows)


def prompt_key(prompt: Messages) -> str:
    """A prompt as one text, the same for the same messages, to compare views with."""
    return "\0".join(f"{message['role']}\1{message['content'].strip()}" for message in prompt)
