"""Demonstrations from a teacher, kept only where the verifier accepts them.

The study lets GPT-4o write Countdown traces (arXiv 2506.21560); here any generator is the teacher: an endpoint, a local policy,
the exact solver. Every answer goes to answers.jsonl the moment it is there, by prompt, so that a kill or a dying server loses
nothing that is paid for and the same command asks for what is missing. What is accepted goes to demonstrations.jsonl with
where it came from, for `data.extra` and `data=local`. Nothing that touches the evaluation view is asked or kept: for Countdown
the same numbers and target, for text a shared run of 13 words (the n-gram length of GPT-3's decontamination, arXiv 2005.14165).
Left out: judging answers that no verifier can check, and choosing which problems are worth their price.
"""

import json
import os
import re
import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from qwen_align.errors import ConfigError
from qwen_align.generator import Completion, Conversation, Generator
from qwen_align.method import evaluate, policy
from qwen_align.metric import interval
from qwen_align.stage import interrupt, run_folder

_GRAM = 13  # words
_WORDING = 0.05  # a run of words in more than this share of the evaluation prompts is the template, not a problem


def grams(text: str) -> set[tuple[str, ...]]:
    """Every run of 13 words, in lower case and without punctuation; a shorter text is one run."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + _GRAM]) for i in range(max(len(words) - _GRAM + 1, 1 if words else 0))}


class Held:
    """What the evaluation view holds, to be kept out of training data."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.problems = {problem for row in rows if (problem := self._problem(row))}
        found = Counter(gram for row in rows for gram in grams(said(row["prompt"])))
        most = max(1.0, _WORDING * len(rows))
        self.grams = set() if self.problems else {gram for gram, count in found.items() if count <= most}

    @staticmethod
    def _problem(row: dict[str, Any]) -> tuple[tuple[int, ...], int] | None:
        return (tuple(sorted(row["nums"])), row["target"]) if "nums" in row and "target" in row else None

    def touches(self, row: dict[str, Any], answer: str = "") -> bool:
        """Whether a problem, or an answer to it, has something of the evaluation view in it."""
        if self.problems:
            return self._problem(row) in self.problems
        return not self.grams.isdisjoint(grams(said(row["prompt"])) | grams(answer))


def said(conversation: Conversation) -> str:
    """The texts of a conversation."""
    return "\n".join(message["content"] for message in conversation)


def asked_as(template: str | None, row: dict[str, Any]) -> Conversation:
    """What the teacher is asked: the data's own prompt, or `teacher_prompt` with {prompt} and the row's columns.

    Raises:
        ConfigError: the template has a field that the rows lack.
    """
    if template is None:
        return row["prompt"]
    columns = {"prompt": row["prompt"][-1]["content"]} | {
        key: " ".join(map(str, value)) if isinstance(value, list) else value
        for key, value in row.items()
        if key != "prompt"
    }
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise ConfigError(f"method.teacher_prompt: {error}; a brace that is text is written twice") from error
    if not fields or not fields <= columns.keys():
        raise ConfigError(
            f"method.teacher_prompt: has the fields {sorted(fields)}; expected some of {', '.join(sorted(columns))}"
        )
    return [*row["prompt"][:-1], {"role": "user", "content": template.format(**columns)}]


class Answers:
    """answers.jsonl: what each prompt was answered with, every line on the disk before the next is asked for."""

    def __init__(self, path: Path) -> None:
        self.by_prompt: dict[str, list[Completion]] = {}
        lines = run_folder.read_jsonl(path)
        # A line torn by a kill must not run into the next one.
        run_folder.write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        for line in lines:
            self.by_prompt.setdefault(line.pop("key"), []).append(Completion(**line))
        self.file = path.open("a", encoding="utf-8")

    def __len__(self) -> int:
        return sum(map(len, self.by_prompt.values()))

    def of(self, question: Conversation) -> list[Completion]:
        """The answers to a prompt so far."""
        return self.by_prompt.get(run_folder.fingerprint(question), [])

    def add(self, question: Conversation, answers: list[Completion]) -> None:
        """Keep answers for good."""
        key = run_folder.fingerprint(question)
        self.by_prompt.setdefault(key, []).extend(answers)
        for answer in answers:
            self.file.write(json.dumps({"key": key, **vars(answer)}, ensure_ascii=False) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())


def ask(
    source: Generator, questions: list[Conversation], answers: Answers, settings: dict[str, Any], **drawing: Any
) -> None:
    """Ask for what is missing; stops where it can when the run is asked to."""
    groups: dict[int, list[Conversation]] = {}
    for question in questions:
        if missing := settings["samples"] - len(answers.of(question)):
            groups.setdefault(missing, []).append(question)
    if len(answers):
        print(f"{len(answers)} answers are there already", flush=True)
    drawing["seed"] += len(answers)  # what is asked for again must not be answered with the same draw
    with interrupt.deferred():
        for missing, wanted in groups.items():
            n = missing
            if not source.needs_policy:  # a sample each, so that none waits for its siblings before it is written
                n, wanted = 1, [question for question in wanted for _ in range(missing)]
            for index, found in source.stream(wanted, n=n, temperature=settings["temperature"], **drawing):
                answers.add(wanted[index], found)
                if interrupt.asked() and source.needs_policy:
                    break
            if interrupt.asked():
                break


def teacher(config: dict[str, Any]) -> dict[str, str]:
    """Who answered, as far as the config says."""
    node = config["generator"]
    named = {"generator": node["_target_"].split(".")[-2]}
    named |= {key: node[key] for key in ("model", "base_url") if key in node}
    return named


def price(answer: Completion, rates: dict[str, float | None]) -> float | None:
    """What an answer cost in the rates' currency; None where no rate is configured."""
    if all(rate is None for rate in rates.values()):
        return None
    return (answer.prompt_tokens * (rates["prompt"] or 0) + answer.tokens * (rates["completion"] or 0)) / 1e6


def judged(
    rows: list[dict[str, Any]], questions: list[Conversation], answers: Answers, data: Any, held: Held
) -> Iterator[tuple[dict[str, Any], Conversation, Completion, str, str | None]]:
    """(row, question, answer, verdict, why it is dropped or None) for each answer, in the rows' order."""
    seen: set[tuple[str, str]] = set()
    for row, question in zip(rows, questions, strict=True):
        for answer in answers.of(question):
            verdict = str(data.verify(answer.text, row))
            mark = said(row["prompt"]), " ".join(answer.text.split())
            why = None
            if verdict != "correct":
                why = verdict
            elif not answer.finished:
                why = "cut"
            elif mark in seen:
                why = "duplicate"
            elif held.touches(row, answer.text):
                why = "evaluation"
            seen.add(mark)
            yield row, question, answer, verdict, why


def synthesize(config: dict[str, Any], data: Any, folder: Path) -> dict[str, Any]:
    """Ask the teacher, keep what is proven right, and say what became of the rest."""
    settings = config["method"]
    rates = settings["price_per_million_tokens"]
    source: Generator = instantiate(config["generator"], _convert_="object")
    if getattr(data, "evaluation", None) is None:
        raise ConfigError(f"data: {type(data).__name__} has no evaluation view; what must be kept out is not known")
    held = Held(data.evaluation().to_list())
    everything = evaluate.problems(data, settings, folder)
    rows = [row for row in {said(row["prompt"]): row for row in everything}.values() if not held.touches(row)]
    if not rows:
        raise ConfigError("data: every problem of the prompts view is in the evaluation view too; nothing can be asked")
    questions = [asked_as(settings["teacher_prompt"], row) for row in rows]
    who, drawing = teacher(config), {"seed": config["seed"], "max_completion_length": config["max_completion_length"]}
    loaded = None
    if source.needs_policy:
        loaded = policy.load(config)
        policy.to_device(loaded[0], config)
        who["policy"] = str(config["init"])
    answers = Answers(folder / "answers.jsonl")
    ask(source, questions, answers, settings, title=f"asking {who['generator']}", policy=loaded, **drawing)
    lines, kept, dropped = [], [], Counter[str]()
    for row, question, answer, verdict, why in judged(rows, questions, answers, data, held):
        kept.append(why is None)
        if why:
            dropped[why] += 1
            continue
        provenance = {
            "teacher": who, "prompt": question, "sampling": {"temperature": settings["temperature"], **drawing},
            "verdict": verdict, "tokens": answer.tokens, "prompt_tokens": answer.prompt_tokens,
            "price": price(answer, rates),
        }  # fmt: skip
        completion = [{"role": "assistant", "content": answer.text}]
        lines.append(row | {"completion": completion, "provenance": provenance})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    run_folder.write_text(folder / "demonstrations.jsonl", text)
    if not kept:
        raise RuntimeError("the teacher gave no answer at all")
    paid = [answer for found in answers.by_prompt.values() for answer in found]
    prices = [price(answer, rates) for answer in paid]
    return {
        "teacher": who,
        "problems": {"view": len(everything), "asked": len(rows), "held_out_or_repeated": len(everything) - len(rows)},
        "answers": {"asked": len(kept), "kept": sum(kept), "dropped": dict(dropped)},
        "solved": interval.share([bool(any_kept) for any_kept in _by_problem(lines, rows)]) | {"n": len(rows)},
        "tokens": {"prompt": sum(a.prompt_tokens for a in paid), "completion": sum(a.tokens for a in paid)},
        "price": None if None in prices else sum(p for p in prices if p is not None),
        "headline": {"name": "kept", "n": len(kept), **interval.share(kept)},
    }


def _by_problem(lines: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[bool]:
    """Whether each problem has a demonstration now."""
    found = {said(line["prompt"]) for line in lines}
    return [said(row["prompt"]) in found for row in rows]
