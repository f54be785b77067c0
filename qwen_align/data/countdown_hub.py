"""The public Countdown sets of the study and of its family, with the columns of `data=countdown`.

Problems come from Jiayi-Pan/Countdown-Tasks-3to4 (nums, target), demonstrations from Asap7772/cog_behav_all_strategies (query,
completion), pairs from a set like asingh15/countdown_tasks_3to4-dpo (query, response_ws, response_ls). All views share one
wording: numbers and target are read from a query and asked with `prompt`, or as the problems' own column `prompt` (ChatML)
asks. Where a query opened the thinking, its answers get the tag back. No number multiset of the evaluation view is trained on;
rows that would break this, or name no problem, are counted and left out, as are prompts that begin the answer.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from qwen_align.data import files, settings
from qwen_align.data.conversation import BadRow, Messages, preference, prompt_key, usable_rows
from qwen_align.data.countdown import ask, extra_demonstrations, extra_file, is_held_out
from qwen_align.errors import ConfigError
from qwen_align.hub.rows import Source, load

if TYPE_CHECKING:
    from datasets import Dataset

Ask = partial[Messages]  # of the numbers and the target
HeldOut = partial[bool]  # of the numbers
_PROBLEM = re.compile(r"numbers\s*\[([\d,\s]+)\].*?equals\s+(\d+)", re.DOTALL)
_TURN = re.compile(r"\s*<\|im_start\|>(system|user|assistant)\n((?:(?!<\|im_start\|>).)*?)<\|im_end\|>\s*", re.DOTALL)
_STOP = re.compile(r"\s*(?:<\|im_end\|>|<\|endoftext\|>)\s*$")
_EVALUATED = "the evaluation view has these numbers"


def chatml(text: Any) -> Messages:
    """The messages of ChatML text, without the line that asks for the answer; raises BadRow, as for an answer that is begun."""
    asked = re.sub(r"<\|im_start\|>assistant\n?\Z", "", text) if isinstance(text, str) else ""
    if _TURN.sub("", asked).strip():
        raise BadRow("its prompt is no ChatML whose turns all end")
    found = [{"role": role, "content": content} for role, content in _TURN.findall(asked)]
    if not found or found[-1]["role"] != "user":
        raise BadRow("its prompt is no ChatML that ends with a question")
    return found


def _problem(text: Any) -> re.Match[str]:
    found = _PROBLEM.search(text) if isinstance(text, str) else None
    if found is None:
        raise BadRow("no 'numbers [1, 2, 3] ... equals 6' is in it")
    return found


def _ask_like(example: Messages, nums: Sequence[int], target: int) -> Messages:
    """Asks any problem as an example asks its own."""
    content = example[-1]["content"]
    found = _problem(content)
    width = max(len(str(number)) for number in nums)  # NumPy prints an array in columns of one width
    listed = ", ".join(map(str, nums)) if "," in found[1] else " ".join(f"{number:{width}}" for number in nums)
    (begin, end), (then, last) = found.span(1), found.span(2)
    asked = f"{content[:begin]}{listed}{content[end:then]}{target}{content[last:]}"
    return [*example[:-1], {"role": "user", "content": asked}]


def _is_held_out(share: float, multisets: frozenset[tuple[int, ...]], nums: Sequence[int]) -> bool:
    """Whether a number multiset is the evaluation view's: a share of all has that, or those of a split."""
    return tuple(sorted(nums)) in multisets or is_held_out(nums, share)


def _answered(ask: Ask, held_out: HeldOut, names: Sequence[str], record: dict[str, Any]) -> dict[str, Any]:
    """A query's problem, asked in our wording, with the completion of that name, or chosen and rejected of these names."""
    found = _problem(record["query"])
    nums, target = [int(n) for n in re.findall(r"\d+", found[1])], int(found[2])
    if held_out(nums):
        raise BadRow(_EVALUATED)
    row = {"prompt": ask(nums, target), "nums": nums, "target": target}
    answers = []
    for name in names:
        text = record[name]
        if not isinstance(text, str) or not text.strip():
            raise BadRow(f"{name} is empty")
        opened = record["query"].rstrip().endswith("<think>") and not text.lstrip().startswith("<think>")
        answers.append([{"role": "assistant", "content": ("<think>" if opened else "") + _STOP.sub("", text)}])
    if len(answers) == 1:
        return row | {"completion": answers[0]}
    return row | preference(row["prompt"], answers[0], answers[1], ("prompt", names[0], names[1]))


def _problem_row(ask: Ask, record: dict[str, Any]) -> dict[str, Any]:
    """A problem in numbers; with a prompt of its own, that one."""
    nums, target = record["nums"], record["target"]
    prompt, own = ask(nums, target), chatml(record["prompt"]) if "prompt" in record else None
    if own and "".join(prompt_key(own).split()) != "".join(prompt_key(prompt).split()):
        raise BadRow("its prompt is worded otherwise than the first one")
    return {"prompt": own or prompt, "nums": nums, "target": target}


def _usable(source: str, records: "Dataset", row: partial[dict[str, Any]], *answers: str) -> "Dataset":
    from datasets import List, Value

    return usable_rows(source, records, row, ("prompt", *answers), nums=List(Value("int64")), target=Value("int64"))


@dataclass
class CountdownHub:
    """Public problems, demonstrations and pairs; the split by number multiset is ours, unless the problems have one."""

    prompts_name: str  # Hub name or folder of the problems
    demonstrations_name: str  # likewise
    problems: int  # at most so many rows in each training view
    evaluation_problems: int  # at most so many in the evaluation view
    held_out: float  # share of number multisets kept for the evaluation view
    prompt: str | None  # with {numbers} and {target}; None: all views ask as the first problem's own column `prompt` does
    extra: str | None = None  # a file of more demonstrations
    preferences_name: str | None = None  # of pairs; None: no such view
    evaluation_split: str | None = None  # the evaluation view, of the problems; None: the share held_out of train

    def __post_init__(self) -> None:
        settings.check_limits(problems=self.problems, evaluation_problems=self.evaluation_problems)
        if self.prompt is not None:
            settings.check_template(self.prompt, "numbers", "target")
        files.check("data.extra", self.extra)
        if self.evaluation_split == "train":
            raise ConfigError("data.evaluation_split=train: is trained on; expected another split, or null")
        if self.evaluation_split and self.held_out:
            view = f"the evaluation view is the split {self.evaluation_split}"
            raise ConfigError(f"data.held_out={self.held_out}: {view}; expected 0, or data.evaluation_split=null")
        if not self.evaluation_split:
            settings.check_held_out(self.held_out)

    def user_files(self) -> Iterator[files.File]:
        """The user's file; numbers of a split are compared once that is read."""
        return extra_file(self.extra, (lambda nums: False) if self.evaluation_split else self._held_out())

    def _source(self, view: str, *splits: str) -> Source:
        return Source(f"data.{view}_name", getattr(self, f"{view}_name"), splits=splits or ("train",))

    def views(self) -> tuple[str, ...]:
        """The views that these names make."""
        return ("demonstrations", *(["preferences"] if self.preferences_name else []), "prompts", "evaluation")

    def sources(self, view: str) -> Iterator[Source]:
        """The rows that a view reads; the problems say what is held out, and maybe the wording."""
        answered = view in ("demonstrations", "preferences")
        if answered:
            yield self._source(view)
        if not answered or self.evaluation_split or self.prompt is None:
            yield self._source("prompts", "train", *([self.evaluation_split] if self.evaluation_split else []))

    def _problems(self, split: str, *columns: str) -> "Dataset":
        return load(self._source("prompts"), split, columns)

    def _ask(self) -> Ask:
        """The wording of all views."""
        if self.prompt is not None:
            return partial(ask, self.prompt)
        first = self._problems("train", "prompt")[0]["prompt"]
        try:
            example = chatml(first)
            _problem(example[-1]["content"])
        except BadRow as error:
            first_row = f"data.prompts_name={self.prompts_name}: data.prompt=null asks as its first row does, but {error}"
            raise ConfigError(f"{first_row}; expected ready-made prompts, or a text for data.prompt") from error
        return partial(_ask_like, example)

    def _held_out(self) -> HeldOut:
        found = self._problems(self.evaluation_split, "nums")["nums"] if self.evaluation_split else []
        return partial(_is_held_out, self.held_out, frozenset(tuple(sorted(nums)) for nums in found))

    def _selected(self, split: str, evaluated: bool, wanted: int) -> "Dataset":
        """The first so many problems of a split whose numbers are, or are not, the evaluation view's."""
        ready = ("prompt",) if self.prompt is None else ()
        rows, held_out = self._problems(split, "nums", "target", *ready), self._held_out()
        found: list[int] = []
        seen = 0
        for batch in rows.select_columns(["nums"]).iter(10_000):
            found += [i for i, nums in enumerate(batch["nums"], seen) if held_out(nums) == evaluated]
            seen += len(batch["nums"])
            if len(found) >= wanted:
                break
        source = f"data.prompts_name={self.prompts_name} ({split})"
        if self.evaluation_split and len(found) < seen:
            print(f"{source}: {seen - len(found)} of {seen} rows are left out: {_EVALUATED}", flush=True)
        return _usable(source, rows.select(found[:wanted]), partial(_problem_row, self._ask()))

    def prompts(self) -> "Dataset":
        """prompt, nums, target of training problems."""
        return self._selected("train", False, self.problems)

    def evaluation(self) -> "Dataset":
        """prompt, nums, target of held-out problems."""
        return self._selected(self.evaluation_split or "train", True, self.evaluation_problems)

    def _answered(self, view: str, columns: Sequence[str], names: Sequence[str]) -> "Dataset":
        """Rows of queries and their answers; `names` are what the source calls them."""
        source = self._source(view)
        records = load(source, "train", ("query", *names))
        row = partial(_answered, self._ask(), self._held_out(), names)
        rows = _usable(source.setting, records, row, *columns)
        return rows.select(range(min(self.problems, len(rows))))

    def demonstrations(self) -> "Dataset":
        """prompt, completion, nums, target; then `extra`."""
        from datasets import Dataset, concatenate_datasets

        rows = self._answered("demonstrations", ["completion"], ["completion"])
        if not (more := extra_demonstrations(self.extra, self._held_out())):
            return rows
        return concatenate_datasets([rows, Dataset.from_list(more, features=rows.features)])

    def preferences(self) -> "Dataset":
        """prompt, chosen, rejected, nums, target."""
        return self._answered("preferences", ["chosen", "rejected"], ["response_ws", "response_ls"])
