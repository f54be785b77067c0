"""Which of N completions is given as the answer, and what the choice leaves to train on.

`verifier` takes the first that the verifier accepts (the study's way), `reward` the one with the highest score, `majority` the
first that gives the commonest answer (self-consistency, arXiv 2203.11171). Winners and pairs are for rejection-sampling
fine-tuning (arXiv 2308.01825) and dpo: only of completions that the verifier accepts, and only of training problems. Left out:
several winners of one problem. No torch here, so that the parent can check the settings.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_align.errors import ConfigError, nearest
from qwen_align.reward import Reward, scores
from qwen_align.stage import run_folder

if TYPE_CHECKING:
    from qwen_align.generator import Completion

CORRECT = "correct"


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


PICK: dict[str, Callable[[Sequence[Any]], int]] = {
    "verifier": first_accepted, "reward": highest, "majority": commonest,
}  # fmt: skip


def check(settings: dict[str, Any]) -> None:
    """Raise ConfigError for settings of best_of_n that contradict each other."""
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


def weighted(
    rewards: Sequence[Reward], rows: Sequence[dict[str, Any]], pools: Sequence[Sequence["Completion"]]
) -> list[list[float]]:
    """The weighted sum of the rewards for every completion; -inf where none applies.

    Raises:
        ConfigError: a reward that reads a column which the rows lack.
        RuntimeError: a value that is not finite.
    """
    owners = [row for row, pool in zip(rows, pools, strict=True) for _ in pool]
    texts = [completion.text for pool in pools for completion in pool]
    totals = [-math.inf] * len(texts)
    for reward in rewards:
        missing = sorted(set(reward.needs) - rows[0].keys())
        if missing:
            raise ConfigError(
                f"reward={reward.name}: needs the column {missing[0]}; the data has {', '.join(rows[0].keys())}"
            )
        columns = {key: [row[key] for row in owners] for key in reward.needs}
        for i, score in enumerate(scores(reward, [row["prompt"] for row in owners], texts, columns)):
            if score is not None:
                totals[i] = score * reward.weight + (0.0 if totals[i] == -math.inf else totals[i])
    flat = iter(totals)
    return [[next(flat) for _ in pool] for pool in pools]


def values(
    select: str, data: Any, rewards: Sequence[Reward], rows: Sequence[dict[str, Any]],
    pools: Sequence[Sequence["Completion"]], verdicts: Sequence[Sequence[str]],
) -> list[list[Any]]:  # fmt: skip
    """What PICK[select] chooses by, for every completion."""
    if select == "verifier":
        return [[verdict == CORRECT for verdict in row] for row in verdicts]
    if select == "reward":
        return weighted(rewards, rows, pools)
    return [[data.answer(completion.text) for completion in pool] for pool in pools]


def export(
    folder: Path, rows: Sequence[dict[str, Any]], pools: Sequence[Sequence["Completion"]],
    verdicts: Sequence[Sequence[str]], chosen_by: list[list[Any]], select: str,
) -> tuple[int, int]:  # fmt: skip
    """Write demonstrations.jsonl and preferences.jsonl; returns how many lines each has.

    A winner is the best accepted completion, its rejected counterpart the first that the verifier refuses (select=reward: the
    one with the lowest score). A problem without an accepted completion gives neither.
    """
    demonstrations, preferences = [], []
    for row, pool, judged, by in zip(rows, pools, verdicts, chosen_by, strict=True):
        accepted = [i for i, verdict in enumerate(judged) if verdict == CORRECT]
        refused = [i for i, verdict in enumerate(judged) if verdict != CORRECT]
        if not accepted:
            continue
        winner = accepted[PICK[select]([by[i] for i in accepted])]
        said = [{"role": "assistant", "content": pool[winner].text}]
        demonstrations.append({**row, "completion": said})
        if refused:
            loser = refused[highest([-by[i] for i in refused])] if select == "reward" else refused[0]
            against = [{"role": "assistant", "content": pool[loser].text}]
            preferences.append({**row, "chosen": said, "rejected": against})
    for name, lines in (("demonstrations", demonstrations), ("preferences", preferences)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        run_folder.write_text(folder / f"{name}.jsonl", text)
    return len(demonstrations), len(preferences)
