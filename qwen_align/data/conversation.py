"""Rows of conversations as TRL wants them: what is text or messages, where an answer begins, and what is wrong with a row.

Every source reads through here, so that one row means the same from a file of the user's and from the Hub.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from qwen_align.errors import ConfigError

Messages = list[dict[str, str]]


class BadRow(Exception):
    """What is wrong with one row."""


def messages(value: Any, column: str, role: str) -> Messages:
    """A conversation: messages as they are, without keys other than role and content; text as one message.

    Raises:
        BadRow: nothing in it, something that is no message, or an end that is empty or not the role's.
    """
    if isinstance(value, str) and value.strip():
        return [{"role": role, "content": value}]
    if value is None or isinstance(value, str) or value == []:
        raise BadRow(f"{column} is empty")
    if not isinstance(value, list):
        raise BadRow(f"{column} is neither text nor messages")
    for message in value:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise BadRow(f"{column} holds something that is no message with role and content")
    if role == "assistant" and value[-1]["role"] != "assistant":
        raise BadRow(f"{column} does not end with the assistant's message")
    if not value[-1]["content"].strip():
        raise BadRow(f"{column} ends with an empty message")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def answered(value: Any, column: str) -> dict[str, Messages]:
    """prompt and completion of a conversation that ends with the answer."""
    talk = messages(value, column, "assistant")
    if len(talk) < 2:
        raise BadRow(f"{column} hold an answer without a prompt")
    return {"prompt": talk[:-1], "completion": talk[-1:]}


def pair(prompt: Any, chosen: Any, rejected: Any, names: tuple[str, str, str]) -> dict[str, Messages]:
    """prompt, chosen and rejected; answers that repeat the prompt's messages lose them, and may be all there is of the prompt.

    Args:
        prompt: text or messages; None where chosen and rejected hold it.
        chosen: text, messages, or messages that begin with the prompt.
        rejected: likewise.
        names: what the source calls the three.

    Raises:
        BadRow: an answer that can't be used, two answers to different prompts, or twice the same.
    """
    good, bad = messages(chosen, names[1], "assistant"), messages(rejected, names[2], "assistant")
    if prompt is None:
        if len(good) < 2 or good[:-1] != bad[:-1]:
            what = "answer different prompts" if len(good) > 1 else f"hold no prompt, and there is no {names[0]}"
            raise BadRow(f"{names[1]} and {names[2]} {what}")
        asked = good[:-1]
    else:
        asked = messages(prompt, names[0], "user")
    good, bad = (answer[len(asked) :] if answer[: len(asked)] == asked else answer for answer in (good, bad))
    if not good or not bad:
        raise BadRow(f"{names[1]} or {names[2]} holds the prompt and no answer")
    if good == bad:
        raise BadRow(f"{names[1]} and {names[2]} are the same")
    return {"prompt": asked, "chosen": good, "rejected": bad}


def usable(said: str, records: Iterable[Any], row: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that can be made of a public set's records; the others are counted aloud, by reason.

    Raises:
        ConfigError: none can be.
    """
    rows: list[dict[str, Any]] = []
    reasons: Counter[str] = Counter()
    for record in records:
        try:
            rows.append(row(record))
        except BadRow as error:
            reasons[str(error)] += 1
    listed = "; ".join(f"{number} because {reason}" for reason, number in reasons.most_common(20))
    if not rows:
        raise ConfigError(f"{said}: holds no row that can be used{f'; {listed}' if listed else ''}")
    if listed:
        print(f"{said}: {reasons.total()} of {reasons.total() + len(rows)} rows are left out: {listed}", flush=True)
    return rows


def mark(prompt: Messages) -> str:
    """A prompt as one text, the same for the same messages, to compare views with."""
    return "\0".join(f"{message['role']}\1{message['content'].strip()}" for message in prompt)
