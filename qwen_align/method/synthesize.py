"""Demonstrations from a teacher, kept only where the verifier accepts them and the rewards value them enough.

The study lets GPT-4o write Countdown traces (arXiv 2506.21560); here any generator is the teacher: an endpoint, a local policy,
the exact solver. Every answer goes to answers.jsonl the moment it is there, by prompt, so that a kill or a dying server loses
nothing that is paid for and the same command asks for what is missing. What is accepted goes to demonstrations.jsonl with
where it came from, for `data.extra` and `data=local`. Nothing that touches the evaluation view is asked or kept: for Countdown
the same numbers and target, for text a shared run of 13 words (the n-gram length of GPT-3's decontamination, arXiv 2005.14165).
Left out: choosing which problems are worth their price.
"""

import json
import os
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from qwen_align import interrupt, model, run_folder
from qwen_align.config import component
from qwen_align.config.job import Job, plain
from qwen_align.data import Data
from qwen_align.errors import ConfigError
from qwen_align.generator import Completion, Conversation, Generator, Sampling
from qwen_align.method import evaluate, policy, select
from qwen_align.method.judge import Judged, Row, judged
from qwen_align.metric import interval
from qwen_align.verifier import Verdict

_GRAM = 13  # words
_TEMPLATE = 0.05  # a run of words in more than this share of the evaluation prompts is the template, not a problem


def grams(text: str) -> set[tuple[str, ...]]:
    """Every run of 13 words, in lower case and without punctuation; a shorter text is one run."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + _GRAM]) for i in range(max(len(words) - _GRAM + 1, 1 if words else 0))}


def all_text(conversation: Conversation) -> str:
    """The texts of a conversation."""
    return "\n".join(message["content"] for message in conversation)


class EvaluationOverlap:
    """What the evaluation view holds, to be kept out of training data."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.problems = {problem for row in rows if (problem := self._problem(row))}
        counts = Counter(gram for row in rows for gram in grams(all_text(row["prompt"])))
        most = max(1.0, _TEMPLATE * len(rows))
        self.grams = set() if self.problems else {gram for gram, count in counts.items() if count <= most}

    @staticmethod
    def _problem(row: Row) -> tuple[tuple[int, ...], int] | None:
        return (tuple(sorted(row["nums"])), row["target"]) if "nums" in row and "target" in row else None

    def touches(self, row: Row, answer: str = "") -> bool:
        """Whether a problem, or an answer to it, has something of the evaluation view in it."""
        if self.problems:
            return self._problem(row) in self.problems
        return not self.grams.isdisjoint(grams(all_text(row["prompt"])) | grams(answer))


def teacher_prompt(template: str | None, row: Row) -> Conversation:
    """What the teacher is asked: the data's own prompt, or `teacher_prompt` with {prompt} and the row's columns.

    Raises:
        ConfigError: the template has a field that the rows lack.
    """
    conversation: Conversation = row["prompt"]
    if template is None:
        return conversation
    columns = {"prompt": conversation[-1]["content"]} | {
        key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items() if key != "prompt"
    }
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise ConfigError(f"method.teacher_prompt: {error}; a brace that is text is written twice") from error
    if not fields or not fields <= columns.keys():
        raise ConfigError(
            f"method.teacher_prompt: has the fields {sorted(fields)}; expected some of {', '.join(sorted(columns))}"
        )
    return [*conversation[:-1], {"role": "user", "content": template.format(**columns)}]


class Answers:
    """answers.jsonl: what each prompt was answered with, every line on the disk before the next is asked for."""

    def __init__(self, path: Path) -> None:
        self.by_prompt: dict[str, list[Completion]] = {}
        lines = run_folder.read_jsonl(path)
        run_folder.write_jsonl(path, lines)  # a line torn by a kill must not run into the next one
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
    source: Generator,
    questions: list[Conversation],
    answers: Answers,
    sampling: Sampling,
    title: str,
    loaded: model.Policy | None,
) -> None:
    """Ask for what is missing; stops where it can when the run is asked to."""
    groups: dict[int, list[Conversation]] = {}
    for question in questions:
        if missing := sampling.n - len(answers.of(question)):
            groups.setdefault(missing, []).append(question)
    if len(answers):
        print(f"{len(answers)} answers are there already", flush=True)
    seed = sampling.seed + len(answers)  # what is asked for again must not be answered with the same draw
    with interrupt.deferred():
        for missing, wanted in groups.items():
            n = missing
            if not source.needs_policy:  # a sample each, so that none waits for its siblings before it is written
                n, wanted = 1, [question for question in wanted for _ in range(missing)]
            for index, found in source.stream(wanted, replace(sampling, n=n, seed=seed), title, loaded):
                answers.add(wanted[index], found)
                if interrupt.asked() and source.needs_policy:
                    break
            if interrupt.asked():
                break


def teacher(node: DictConfig) -> dict[str, str]:
    """Who answers, as far as the config says."""
    target = str(node["_target_"])
    name = target.split(".")[-2] if target.startswith("qwen_align.") else target.replace(":", ".").rpartition(".")[2]
    return {"generator": name} | {key: node[key] for key in ("model", "base_url") if key in node}


def price(answer: Completion, rates: DictConfig) -> float | None:
    """What an answer cost in the rates' currency; None where no rate is configured."""
    if rates.prompt is None and rates.completion is None:
        return None
    return (answer.prompt_tokens * (rates.prompt or 0) + answer.tokens * (rates.completion or 0)) / 1e6


def drop_reason(row: Row, answer: Judged, low_reward: bool, repeated: bool, overlap: EvaluationOverlap) -> str | None:
    """Why an answer is no demonstration; None for one that is."""
    if answer.verdict not in (None, Verdict.CORRECT):
        return str(answer.verdict)
    if not answer.finished:
        return "cut"
    if not answer.text.strip():
        return "empty"
    if low_reward:
        return "low_reward"
    if repeated:
        return "duplicate"
    return "evaluation" if overlap.touches(row, answer.text) else None


def synthesize(job: Job, data: Data, folder: Path) -> evaluate.Metrics:
    """Ask the teacher, keep what passes, and report what became of the rest."""
    settings, rates = job.method, job.method.price_per_million_tokens
    if not settings.reward:
        data.judged("method=synthesize without a reward")
    overlap = EvaluationOverlap(data.rows("evaluation").to_list())
    view = evaluate.rows_of(data, settings, folder)
    source: Generator = component.construct(plain(job.generator), "generator")
    rewards = select.rewards(settings.reward, view, with_ids=source.needs_policy)
    rows = [row for row in {all_text(row["prompt"]): row for row in view}.values() if not overlap.touches(row)]
    if not rows:
        raise ConfigError("data: every problem of the prompts view is in the evaluation view too; nothing can be asked")
    questions, who = [teacher_prompt(settings.teacher_prompt, row) for row in rows], teacher(job.generator)
    loaded = None
    if source.needs_policy:
        loaded = policy.load(job)
        policy.to_device(loaded[0], job)
        who["policy"] = job.init
    answers, drawn = Answers(folder / "answers.jsonl"), evaluate.sampling(job, settings)
    ask(source, questions, answers, drawn, f"asking {who['generator']}", loaded)
    pools = [judged(data.verifier, row, answers.of(question)) for row, question in zip(rows, questions, strict=True)]
    if not any(pools):
        raise RuntimeError("the teacher gave no answer at all")
    totals = select.weighted(rewards, rows, pools, loaded[1] if loaded else None) if rewards else None
    lines: list[Row] = []
    dropped = Counter[str]()
    seen: set[tuple[str, str]] = set()
    for i, j, answer in [(i, j, answer) for i, pool in enumerate(pools) for j, answer in enumerate(pool)]:
        row, reward = rows[i], totals[i][j] if totals else None
        key = all_text(row["prompt"]), " ".join(answer.text.split())
        low = reward is not None and reward < settings.threshold
        reason = drop_reason(row, answer, low, key in seen, overlap)
        seen.add(key)
        if reason is not None:
            dropped[reason] += 1
            continue
        provenance: dict[str, Any] = {
            "teacher": who,
            "prompt": questions[i],
            "sampling": vars(drawn),
            "price": price(answer, rates),
        }
        provenance |= {"verdict": answer.verdict, "reward": reward}
        provenance |= {"tokens": answer.tokens, "prompt_tokens": answer.prompt_tokens}
        lines.append(row | {"completion": [{"role": "assistant", "content": answer.text}], "provenance": provenance})
    run_folder.write_jsonl(folder / "demonstrations.jsonl", lines)
    solved = {all_text(line["prompt"]) for line in lines}
    paid = [answer for some in answers.by_prompt.values() for answer in some]
    prices = [price(answer, rates) for answer in paid]
    kept = interval.share([True] * len(lines) + [False] * dropped.total())
    asked = len(lines) + dropped.total()
    return {
        "teacher": who,
        "problems": {"view": len(view), "asked": len(rows), "held_out_or_repeated": len(view) - len(rows)},
        "answers": {"asked": asked, "kept": len(lines), "dropped": dropped},
        "solved": {"n": len(rows), **vars(interval.share([all_text(row["prompt"]) in solved for row in rows]))},
        "tokens": {"prompt": sum(a.prompt_tokens for a in paid), "completion": sum(a.tokens for a in paid)},
        "price": None if None in prices else sum(p for p in prices if p is not None),
        "headline": evaluate.headline({"n": asked, "kept": kept}, "kept"),
    }
