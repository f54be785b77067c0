"""What the tests of the methods that sample share: a scripted generator, a policy without weights, data of three problems."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datasets import Dataset

from qwen_align.config.job import Job, read
from qwen_align.data import Data
from qwen_align.generator import Completion
from qwen_align.verifier import Verdict, Verifier

SOURCE: Any = None  # what the jobs below sample from; a test sets it


def source() -> Any:
    return SOURCE


class Script:
    """A generator that answers a prompt with the next completions of its own script; a greedy answer is "wrong"."""

    needs_policy = True

    def __init__(self, scripts: dict[str, list[str]], stop_after: int | None = None) -> None:
        self.scripts, self.stop_after = scripts, stop_after
        self.given: dict[str, int] = {}
        self.asked = 0
        self.seeds: list[int] = []
        self.waves: list[tuple[int, int]] = []

    def stream(self, prompts, sampling, title, policy=None) -> Iterator[tuple[int, list[Completion]]]:
        self.seeds.append(sampling.seed)
        self.waves.append((len(prompts), sampling.n))
        for position, prompt in enumerate(prompts):
            if self.asked == self.stop_after:
                raise KeyboardInterrupt
            self.asked += 1
            if not sampling.temperature:
                yield position, [Completion("wrong", 1, True)] * sampling.n
                continue
            name = prompt[0]["content"]
            begin = self.given.get(name, 0)
            self.given[name] = begin + sampling.n
            texts = self.scripts[name][begin : begin + sampling.n]
            yield position, [Completion(text, len(text), True) for text in texts]


class Tokenizer:
    """A token a character; 1 is the stop token."""

    eos_token_id = 1

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"<{i}>" for i in ids]


def policy() -> Any:
    """A policy without weights."""
    return SimpleNamespace(name_or_path="", generation_config=SimpleNamespace(eos_token_id=1)), Tokenizer()


class Puzzle:
    """Completions that are the answer are correct; x is malformed."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.rows = [{"prompt": [{"role": "user", "content": name}], "answer": a} for name, a in answers.items()]

    def evaluation(self) -> Dataset:
        return Dataset.from_list(self.rows)

    prompts = evaluation


class Exact:
    """The verifier of a Puzzle."""

    def verify(self, completion: str, answer: str) -> Verdict:
        if completion == "x":
            return Verdict.MALFORMED
        return Verdict.CORRECT if completion == answer else Verdict.WELLFORMED_WRONG

    def answer(self, completion: str) -> str | None:
        return None if completion == "x" else completion


EXACT = Verifier(Exact(), "exact")
SCRIPTS = {"p": ["b", "a", "b", "x"], "q": ["cc", "d", "d", "ccc"], "r": ["x", "x", "x", "x"]}
ANSWERS = {"p": "a", "q": "d", "r": "z"}


def puzzle(answers: dict[str, str] = ANSWERS, verifier: Verifier | None = EXACT) -> Data:
    """Three problems with their verifier."""
    return Data(Puzzle(answers), verifier)


def job(
    name: str, generator: dict[str, Any] | None = None, lineage: Sequence[str] = (), folder: Path = Path(), **method: Any
) -> Job:
    """A job of a method that samples four completions of three problems, from SOURCE unless there is a generator.

    `lineage` are the methods of the policies on the way to this one, each with its run in a folder of this name in `folder`.
    """
    settings = {"problems": 3, "samples": 4, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "reward": None}
    return read(
        name,
        {
            "method": {"kind": "sample", "view": "evaluation", **settings, **method},
            "generator": generator or {"_target_": "sampling.source"},
            "evaluation": settings,
            "seed": 0,
            "init": "base",
            "ancestors": [{"method": method, "folder": str(folder / method)} for method in lineage],
            "max_completion_length": 8,
        },
    )
