"""Which of N completions is given as the answer, and what the choice leaves to train on.

`verifier` takes the first that the verifier accepts (the study's way), `reward` the one with the highest score, `majority` the
first that gives the commonest answer (self-consistency, arXiv 2203.11171). Winners and pairs are for rejection-sampling
fine-tuning (arXiv 2308.01825) and dpo: only of completions that the verifier accepts, and only of training problems. Left out:
several winners of one problem. No torch here, so that the parent can check the settings.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from qwen_align import reward, run_folder
from qwen_align.config.job import plain
from qwen_align.errors import ConfigError, nearest
from qwen_align.generator import Completion
from qwen_align.method.judge import Pools, Row
from qwen_align.reward import Reward
from qwen_align.verifier import Verifier

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def first_accepted(accepted: Sequence[bool]) -> int:
    """The first true one, else the first."""
    return next((i for i, yes in enumerate(accepted) if yes), 0)


def highest(scores: Sequence[float]) -> int:
    """The first of the highest scores."""
    return max(range(len(scores)), key=lambda i: scores[i])


def commonest(answers: Sequence[str | None]) -> int:
    """The first with the most frequent answer; of equally frequent ones the answer that came first, of none the first."""
    votes = Counter(answer for answer in answers if answer is not None)
    return answers.index(votes.most_common(1)[0][0]) if votes else 0


PICK: dict[str, Callable[[Sequence[Any]], int]] = {"verifier": first_accepted, "reward": highest, "majority": commonest}


def check(settings: Mapping[str, Any], verifier: Verifier | None) -> None:
    """Raise ConfigError for settings of best_of_n that contradict each other, or that this verifier can't serve."""
    select = settings["select"]
    if select not in PICK:
        raise ConfigError(f"method.select={select}: expected one of {', '.join(PICK)}{nearest(str(select), PICK)}")
    if settings["early_stop"] and select != "verifier":
        raise ConfigError(
            f"method.early_stop=true: sampling stops when the verifier accepts, but method.select={select} needs all samples; "
            "expected select=verifier or early_stop=false"
        )
    if settings["view"] not in ("evaluation", "prompts"):
        raise ConfigError(
            f"method.view={settings['view']}: expected evaluation (to measure) or prompts (to export winners to train on)"
        )
    if select == "majority" and verifier and verifier.answer is None:
        raise ConfigError(
            f"method.select=majority: data.verifier={verifier.name} gives no answer to vote on; expected verifier or reward"
        )


def rewards(node: DictConfig | None, rows: Sequence[Row], with_ids: bool = True) -> list[Reward]:
    """The rewards of a node, none for null, each asked about two trial answers to the rows first.

    Raises:
        ConfigError: what `reward.build` and `reward.rehearse` refuse.
    """
    built = reward.build(plain(node)) if node else []
    reward.rehearse(built, rows, with_ids)
    return built


def completion_ids(tokenizer: "PreTrainedTokenizerBase", completions: Sequence[Completion]) -> list[list[int]]:
    """Each text as token ids, with the stop token where the policy gave one, as TRL hands them to rewards."""
    if not completions:
        return []
    found = tokenizer([c.text for c in completions], add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [[*ids, tokenizer.eos_token_id] if c.finished else ids for ids, c in zip(found, completions, strict=True)]


def weighted(
    rewards: Sequence[Reward],
    rows: Sequence[Row],
    pools: Sequence[Sequence[Completion]],
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> list[list[float]]:
    """The weighted sum of the rewards for every completion; -inf where none applies.

    Raises:
        ConfigError: a reward that reads a column which the rows lack, or token ids where there is no tokenizer.
        RuntimeError: a reward that raised, or gave a value that is not finite.
    """
    owners = [row for row, pool in zip(rows, pools, strict=True) for _ in pool]
    flat = [completion for pool in pools for completion in pool]
    columns = {key: [row[key] for row in owners] for key in rows[0]}
    reading = tokenizer is not None and any(one.reads_ids for one in rewards)
    ids = completion_ids(tokenizer, flat) if tokenizer is not None and reading else None
    totals = [-math.inf] * len(flat)
    for one in rewards:
        values = one.score([row["prompt"] for row in owners], [c.text for c in flat], columns, ids)
        for i, value in enumerate(values):
            if value is not None:
                totals[i] = value * one.weight + (0.0 if totals[i] == -math.inf else totals[i])
    left = iter(totals)
    return [[next(left) for _ in pool] for pool in pools]


def criteria(
    select: str,
    verifier: Verifier | None,
    rewards: Sequence[Reward],
    rows: Sequence[Row],
    pools: Pools,
    tokenizer: "PreTrainedTokenizerBase | None",
) -> list[list[Any]]:
    """What PICK[select] chooses by, for every completion."""
    if select == "verifier":
        return [[completion.correct for completion in pool] for pool in pools]
    if select == "reward":
        return weighted(rewards, rows, pools, tokenizer)
    assert verifier and verifier.answer, "check refuses majority without answers"
    return [[verifier.answer(completion.text) for completion in pool] for pool in pools]


def export(folder: Path, rows: Sequence[Row], pools: Pools, chosen_by: Sequence[Sequence[Any]], select: str) -> tuple[int, int]:
    """Write demonstrations.jsonl and preferences.jsonl; returns how many lines each has.

    A winner is the best accepted completion, its rejected counterpart the first that the verifier refuses (select=reward: the
    one with the lowest score). A problem without an accepted completion gives neither.
    """
    demonstrations, preferences = [], []
    for row, pool, by in zip(rows, pools, chosen_by, strict=True):
        accepted = [i for i, completion in enumerate(pool) if completion.correct]
        refused = [i for i, completion in enumerate(pool) if not completion.correct]
        if not accepted:
            continue
        winner = pool[accepted[PICK[select]([by[i] for i in accepted])]]
        chosen = [{"role": "assistant", "content": winner.text}]
        demonstrations.append(row | {"completion": chosen})
        if refused:
            loser = refused[highest([-by[i] for i in refused])] if select == "reward" else refused[0]
            rejected = [{"role": "assistant", "content": pool[loser].text}]
            preferences.append(row | {"chosen": chosen, "rejected": rejected})
    run_folder.write_jsonl(folder / "demonstrations.jsonl", demonstrations)
    run_folder.write_jsonl(folder / "preferences.jsonl", preferences)
    return len(demonstrations), len(preferences)
