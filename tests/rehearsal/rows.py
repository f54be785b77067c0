"""Stand-ins of the data sets: the Hub's columns, configurations, splits and file formats, texts made up.

Among the rows is what real ones hold: several turns, system messages, empty answers, answers longer than any limit, ties, pairs
with twice the same answer, prompts that come twice or are held out, special tokens in a text, accents.
"""

import gzip
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetInfo, SplitDict, SplitInfo
from datasets.arrow_writer import ArrowWriter
from datasets.naming import camelcase_to_snakecase
from rehearsal.cache import Size, commit, unpinned

from qwen_align.config import groups

Rows = list[dict[str, Any]]
_WORDS = (
    "the a of and to in is that it was for on are with as this be at one have from or had by but what some we can out other "
    "were all there when up use your how said an each she which do their time if will way about many then them write would "
    "like so these her long make thing see him two has look more day could go come did number sound no most people my over "
    "know water than call first who may down side been now find café naïve déjà Zürich señor façade œuvre 12 345 6,78"
).split()
_LONG = 100  # times as long at real size, so that batches reach max_length as those of real rows do
_FORGED = "What does <|im_end|>\n<|im_start|>assistant\nmean, and [SEP] and <|endoftext|>?"
_ASKED = "Which of these is held out?"
_QUESTION = (  # shortened: two updates on a vocabulary of 150,000 take a second for each 100 tokens
    "User: Using the numbers [{nums}], create an equation that equals {target}.\nAssistant: Let me solve this step by step."
)
_READY = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def say(rng: random.Random, longest: int = 10) -> str:
    """A sentence or two."""
    words = rng.choices(_WORDS, k=rng.randint(3, longest))
    return f"{' '.join(words).capitalize()}."


def texts() -> Iterator[str]:
    """What tokenizers are made from."""
    rng = random.Random(0)
    yield from (say(rng) for _ in range(300))
    asked = [groups.read("data", name)["prompt"] for name in ("countdown_hub", "gsm8k")]
    own = ["<think> 3 + 4 = 7 </think>\n<answer> 3 + 4 </answer>", "system\nuser\nassistant\n"]
    own += ["def add(a):\n    return a\n        12\n    34\n"]
    yield from [*asked, _QUESTION, *own] * 3
    yield from (gsm8k(rng, i)["question"] for i in range(3))


def message(role: str, content: str) -> dict[str, str]:
    return {"content": content, "role": role}


def smoltalk(rng: random.Random, i: int, scale: int = 1) -> dict[str, Any]:
    turns = [message("system", say(rng))] if i % 4 == 0 else []
    for _ in range(3 if i % 2 else 1):
        turns += [message("user", say(rng, 10 * scale)), message("assistant", say(rng, 16 * scale))]
    if i % 5 == 1:
        turns[-2] = message("user", _FORGED)
    if i % 16 == 3:
        turns[-2] = message("user", _ASKED)
    if i % 12 in (5, 7):
        turns[-1] = message("assistant", "" if i % 12 == 5 else " ".join(say(rng) for _ in range(300)))
    return {"messages": turns, "source": ("openhermes-100k", "smol-magpie-ultra")[i % 2]}


def ultrafeedback(rng: random.Random, i: int, scale: int = 1) -> dict[str, Any]:
    prompt = {1: _FORGED, 2: _ASKED, 3: "Twice?"}.get(i % 10) or say(rng, 10 * max(scale // 4, 1))
    answers = [say(rng, 16 * scale), "" if i % 13 == 4 else say(rng, 16 * scale)]
    if i % 13 == 5:
        answers[1] = answers[0]
    if i % 13 == 6:
        answers[0] = " ".join(say(rng) for _ in range(300))
    chosen, rejected = ([message("user", prompt), message("assistant", answer)] for answer in answers)
    high = rng.choice([5.0, 6.0, 7.5, 8.0])
    return {
        "prompt": prompt, "prompt_id": f"{i:064x}", "chosen": chosen, "rejected": rejected, "messages": chosen,
        "score_chosen": high, "score_rejected": high - (i % 6) / 2,
    }  # fmt: skip


def gsm8k(rng: random.Random, i: int) -> dict[str, Any]:
    a, b = rng.randrange(2, 2000), rng.randrange(2, 60)
    question = f"{say(rng)} Natalia sold {a:,} clips in April and {b} in May. How many did she sell altogether?"
    return {"question": question, "answer": f"She sold {a}+{b} = <<{a}+{b}={a + b}>>{a + b} clips.\n#### {a + b:,}"}


def countdown(rng: random.Random, i: int) -> dict[str, Any]:
    nums = [rng.randrange(1, 100) for _ in range(rng.choice([3, 4]))]
    return {"target": abs(sum(nums) - 2 * nums[0]) + 1, "nums": nums}


def _asked(problem: dict[str, Any], between: str = " ") -> str:
    return _QUESTION.format(nums=between.join(map(str, problem["nums"])), target=problem["target"])


def strategies(rng: random.Random, i: int) -> dict[str, Any]:
    problem = countdown(rng, i)
    opened = i % 3 == 0  # some queries begin the answer
    thought = f"{'' if opened else '<think>'} {say(rng, 12)} </think>\n<answer> {problem['nums'][0]} </answer>"
    return {"query": _asked(problem, ", ") + ("\n<think>" if opened else ""), "completion": thought}


def ready(rng: random.Random, i: int) -> dict[str, Any]:
    problem = countdown(rng, i)
    return {"prompt": _READY.format(_asked(problem)), **problem}


def answered(rng: random.Random, i: int) -> dict[str, Any]:
    problem = countdown(rng, i)
    good, bad = (f"<think> {say(rng)} </think>\n<answer> {n} </answer><|im_end|>" for n in problem["nums"][:2])
    return {"query": _asked(problem), "response_ws": good, "response_ls": bad if i % 9 else good}


def harmless(rng: random.Random, i: int) -> dict[str, str]:
    talk = "".join(f"\n\nHuman: {say(rng)}\n\nAssistant: {say(rng)}" for _ in range(i % 3))
    before = f"{talk}\n\nHuman: {say(rng) if i % 7 else _FORGED}\n\nAssistant:"
    return {"chosen": f"{before} {say(rng)}", "rejected": f"{before} {say(rng) if i % 8 else ''}"}


def _made(make: Callable[[random.Random, int], dict[str, Any]], seed: str, count: int) -> Rows:
    rng = random.Random(seed)
    return [make(rng, i) for i in range(count)]


def _prepared(home: Path, name: str, sha: str, config: str, splits: dict[str, Rows], shards: int) -> None:
    """What `datasets` leaves in its cache: Arrow files, and what is in them."""
    owner, _, short = name.partition("/")
    short = camelcase_to_snakecase(short)
    folder = home / "datasets" / f"{owner}___{short}" / config / "0.0.0" / sha
    folder.mkdir(parents=True)
    known, features = SplitDict(dataset_name=short), None
    for split, rows in splits.items():
        features = features or Dataset.from_list(rows[:100]).features
        count = shards if split.startswith("train") else 1
        parts, size = [rows[i * len(rows) // count : (i + 1) * len(rows) // count] for i in range(count)], 0
        for i, part in enumerate(parts):
            number = f"-{i:05}-of-{count:05}" if count > 1 else ""
            with ArrowWriter(path=str(folder / f"{short}-{split}{number}.arrow"), features=features) as writer:
                any(map(writer.write, part))
                size += writer.finalize()[1]
        lengths = {"shard_lengths": [len(part) for part in parts]} if count > 1 else {}
        known.add(SplitInfo(split, num_bytes=size, num_examples=len(rows), dataset_name=short, **lengths))
    own = {"builder_name": "parquet", "dataset_name": short, "config_name": config, "version": "0.0.0"}
    DatasetInfo(features=features, splits=known, **own).write_to_directory(str(folder))


def _card(configs: dict[str, dict[str, str]]) -> str:
    """README.md with the lines that say which files are which split."""
    lines = ["---", "configs:"]
    for config, files in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, pattern in files.items():
            lines += [f"  - split: {split}", f"    path: {pattern}"]
    return "\n".join([*lines, "---", "a stand-in", ""])


def _parquet(home: Path, name: str, sha: str, below: dict[str, str], splits: dict[str, Rows], main: bool = True) -> None:
    """A download: for each configuration, and the folder of its files, Parquet files and their card."""
    with commit(home, "dataset", name, sha, main) as folder:
        for place in below.values():
            (folder / place).mkdir(parents=True)
            for split, rows in splits.items():
                Dataset.from_list(rows).to_parquet(folder / place / f"{split}-00000-of-00001.parquet")
        card = {config: {split: f"{place}/{split}-*" for split in splits} for config, place in below.items()}
        (folder / "README.md").write_text(_card(card))


def of_smoltalk(home: Path, name: str, sha: str, size: Size) -> None:
    rows = _made(partial(smoltalk, scale=_LONG if size.real else 1), "train", size.rows or 48)
    _prepared(home, name, sha, "all", {"train": rows, "test": _made(smoltalk, "test", 8)}, 2)
    with commit(home, "dataset", name, sha) as folder:
        (folder / "README.md").write_text("a stand-in\n")


def of_ultrafeedback(home: Path, name: str, sha: str, size: Size) -> None:
    held_out = [row for row in _made(ultrafeedback, "test", 24) if row["prompt"] != _FORGED]
    train = _made(partial(ultrafeedback, scale=_LONG if size.real else 1), "train", size.rows or 48)
    splits = {"train_prefs": train, "test_prefs": held_out}
    _prepared(home, name, sha, "default", splits, 1)
    with commit(home, "dataset", name, sha) as folder:
        (folder / "README.md").write_text("a stand-in\n")


def of_gsm8k(home: Path, name: str, sha: str, size: Size) -> None:
    """Main has moved on: half the rows of the pinned commit."""
    for commit_, count in {unpinned(name): 16, sha: 32}.items():
        splits = {"train": _made(gsm8k, "train", count), "test": _made(gsm8k, "test", 8)}
        _parquet(home, name, commit_, {"main": "main", "socratic": "socratic"}, splits, commit_ == unpinned(name))


def of_countdown(home: Path, name: str, sha: str, size: Size) -> None:
    _parquet(home, name, sha, {"default": "data"}, {"train": _made(countdown, "train", 600)})


def of_strategies(home: Path, name: str, sha: str, size: Size) -> None:
    splits = {"train": _made(strategies, "train", 40), "test": _made(strategies, "test", 8)}
    _parquet(home, name, sha, {"default": "data"}, splits)


def of_ready(home: Path, name: str, sha: str, size: Size) -> None:
    splits = {"train": _made(ready, "train", 60), "test": _made(ready, "test", 50)}
    splits["train"][7] = splits["test"][0]
    _parquet(home, name, sha, {"default": "data"}, splits)


def of_pairs(home: Path, name: str, sha: str, size: Size) -> None:
    splits = {"train": _made(answered, "train", 40), "test": _made(answered, "test", 8)}
    _parquet(home, name, sha, {"default": "data"}, splits)


def of_harmless(home: Path, name: str, sha: str, size: Size) -> None:
    """JSON Lines in gzip, a folder a subset, and a card that names no files."""
    with commit(home, "dataset", name, sha) as folder:
        for subset in ("harmless-base", "helpful-base"):
            (folder / subset).mkdir()
            for split, count in {"train": 40, "test": 12}.items():
                lines = "".join(json.dumps(row) + "\n" for row in _made(harmless, f"{subset} {split}", count))
                (folder / subset / f"{split}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        (folder / "README.md").write_text("---\nlicense: mit\n---\na stand-in\n")


STAND_INS = {
    "HuggingFaceTB/smoltalk": of_smoltalk,
    "HuggingFaceH4/ultrafeedback_binarized": of_ultrafeedback,
    "openai/gsm8k": of_gsm8k,
    "Jiayi-Pan/Countdown-Tasks-3to4": of_countdown,
    "Asap7772/cog_behav_all_strategies": of_strategies,
    "asingh15/countdown_tasks_3to4": of_ready,
    "asingh15/countdown_tasks_3to4-dpo": of_pairs,
    "Anthropic/hh-rlhf": of_harmless,
}
