"""How completions end and how many answers they hold: the audit beside every evaluation and in the log of RLOO and GRPO.

In the study's family policies that never learned to stop, answers cut at the limit and completions with several answers went
unseen behind one pass@1: 51 to 86 % of RLOO's samples there held several answers, since training ended at `</answer>` and the
evaluation didn't. How many answers a completion holds is asked of the verifier (`answers`), where it has such a notion. What
ends a completion follows from the policy's own files in training and evaluation alike, so only a token limit of its own, or
generation_kwargs, can make the two differ. Left out: which of several stop tokens it was.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from qwen_align.method.judge import Pools, Row
from qwen_align.metric import interval
from qwen_align.reward import text_of
from qwen_align.verifier import Verdict, Verifier

if TYPE_CHECKING:
    from datasets import Dataset

    from qwen_align.model import Policy

FEW = 0.1  # share of completions above which a warning is due
WINDOW = 5  # logged lines that a number of the rollouts is averaged over
# Of generation_kwargs, for transformers and for vLLM.
_ENDING = re.compile("stop|stop_strings|stop_token_ids|eos_token_id|ignore_eos|max_(new_tokens|tokens|length|time)")


@dataclass(frozen=True)
class StopCriteria:
    """What ends a policy's completions."""

    label: str
    limit: int | None  # tokens; None: not known
    tokens: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()  # from its training, a sentence each


def differences(training: dict[str, Any], limit: int) -> list[str]:
    """Where a training that samples ends completions otherwise than an evaluation of up to `limit` tokens, a sentence each."""
    args = training.get("method", {}).get("args") or {}
    if "num_generations" not in args:  # nothing is sampled
        return []
    found = []
    if (own := args.get("max_completion_length", limit)) != limit:
        found.append(
            f"training samples completions of up to method.args.max_completion_length={own} tokens, and they are measured up "
            f"to max_completion_length={limit}; expected one limit"
        )
    return found + [
        f"training ends completions by method.args.generation_kwargs.{key}={value}, which the evaluation doesn't, so what "
        "follows there was never trained; expected the stop token alone"
        for key, value in (args.get("generation_kwargs") or {}).items()
        if _ENDING.fullmatch(key)
    ]


def stop_criteria(label: str, loaded: "Policy", limit: int) -> StopCriteria:
    """What ends this policy's completions; how it was trained is read from its run folder, if it has one."""
    weights, tokenizer = loaded
    ends: Any = weights.generation_config.eos_token_id
    saved = Path(str(weights.name_or_path))
    folder = saved.parent
    training: Any = {}
    if saved.name == "model" and (folder / "run.json").is_file() and (folder / "config.yaml").is_file():
        training = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=True)
    tokens = tokenizer.convert_ids_to_tokens(ends if isinstance(ends, list) else [ends])
    return StopCriteria(label, limit, tuple(tokens), tuple(differences(training, limit)))


def shares(values: Sequence[Sequence[bool]]) -> interval.Interval:
    """The share of true values, (problems, samples), with its interval over problems."""
    return interval.mean([fmean(row) for row in values], shares=True)


def audit(verifier: Verifier | None, rows: Sequence[Row], pools: Pools, stop: StopCriteria) -> dict[str, Any]:
    """How the completions of each problem end and what answers they hold; warnings are printed, too."""
    found: dict[str, Any] = {}
    if stop.limit is not None:
        found |= {"max_completion_length": stop.limit, "stop_tokens": list(stop.tokens)}
    if any(c.tokens for pool in pools for c in pool):
        found["ended_by_stop"] = shares([[c.finished for c in pool] for pool in pools])
    if verifier and verifier.answers:
        found |= _of_answers(verifier, verifier.answers, rows, pools)
    found["warnings"] = [*stop.differences, *_warnings(found, stop)]
    for text in found["warnings"]:
        print(f"warning: {stop.label}: {text}", flush=True)
    return found


def _of_answers(verifier: Verifier, answers: Callable[[str], list[str]], rows: Sequence[Row], pools: Pools) -> dict[str, Any]:
    """How many answers there are, and what judging the first instead of the last would change."""
    held = [[answers(c.text) for c in pool] for pool in pools]
    # Of one answer the verdict is known; a verifier may also find one without a marker, which is the only one then.
    first = [
        [verifier.verify(texts[0], row) if len(texts) > 1 else c.verdict for texts, c in zip(of_pool, pool, strict=True)]
        for row, of_pool, pool in zip(rows, held, pools, strict=True)
    ]
    changed = [[a != c.verdict for a, c in zip(*both, strict=True)] for both in zip(first, pools, strict=True)]
    return {
        "answers_per_completion": interval.mean([fmean(map(len, pool)) for pool in held]),
        "several_answers": shares([[len(texts) > 1 for texts in pool] for pool in held]),
        "no_answer": shares([[not texts for texts in pool] for pool in held]),
        "last_answer_correct": shares([[c.correct for c in pool] for pool in pools]),
        "first_answer_correct": shares([[verdict is Verdict.CORRECT for verdict in pool] for pool in first]),
        "first_changes_verdict": shares(changed),
        "verdicts_changed": sum(map(sum, changed)),
    }


def _warnings(found: dict[str, Any], stop: StopCriteria) -> list[str]:
    warnings = []
    ended = found["ended_by_stop"].mean if "ended_by_stop" in found else 1.0
    if ended == 0.0:
        token = f" ({' or '.join(stop.tokens)})" if stop.tokens else ""
        warnings.append(never_stops("none of the sampled completions", token))
    elif 1 - ended > FEW:
        limit = "" if stop.limit is None else f"={stop.limit}"
        warnings.append(
            f"{1 - ended:.0%} of the sampled completions are cut at max_completion_length{limit}, so unfinished answers are "
            "judged; raise it, in training as well"
        )
    if "several_answers" in found and found["several_answers"].mean > FEW:
        last, first = (found[f"{which}_answer_correct"].mean for which in ("last", "first"))
        warnings.append(
            f"{several(found['several_answers'].mean)}; the last one is judged: {last:.3f} correct, the first one would give "
            f"{first:.3f}"
        )
    return warnings


def never_stops(what: str, token: str = "") -> str:
    """The warning about a policy that only the token limit ends."""
    return (
        f"{what} ends by a stop token{token}: the policy never learned to stop; train it on demonstrations that end with one "
        "(stages.sft.args.max_length cuts none of them), or raise max_completion_length"
    )


def several(share: float) -> str:
    """The beginning of a warning about completions that go on after their answer."""
    return f"{share:.0%} of the completions hold several answers, so they go on after the first"


def of_rollouts(answers: Callable[[str], list[str]] | None, completions: Sequence[Any]) -> dict[str, float]:
    """Numbers for a trainer's log about one batch of its completions, texts or messages; {} without `answers`."""
    if answers is None or not completions:
        return {}
    counts = [len(answers(text_of(completion))) for completion in completions]
    return {
        "completions/answers": fmean(counts),
        "completions/several_answers": fmean([count > 1 for count in counts]),
        "completions/no_answer": fmean([not count for count in counts]),
    }


def of_log(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a trainer's last logged lines say of its own completions, under the names of `audit`; {} where none was sampled."""
    last = [line for line in lines if "completions/clipped_ratio" in line][-WINDOW:]
    if not last:
        return {}
    names = {
        "truncated": "completions/clipped_ratio",
        "mean_tokens": "completions/mean_length",
        "answers_per_completion": "completions/answers",
        "several_answers": "completions/several_answers",
        "no_answer": "completions/no_answer",
    }
    found = {ours: fmean([line[key] for line in last]) for ours, key in names.items() if all(key in line for line in last)}
    return {"logged_lines": len(last), "ended_by_stop": 1 - found["truncated"], **found}


def of_demonstrations(rows: "Dataset", stop: int | None) -> dict[str, Any]:
    """How many tokenised demonstrations (input_ids, labels) never train the stop token, for a stage's metrics; warns aloud.

    {} where the rows have no labels, as TRL's own have with packing.
    """
    if stop is None or "labels" not in rows.column_names:
        return {}
    without = 0
    for batch in rows.select_columns(["labels"]).with_format("arrow").iter(batch_size=1000):
        labels = batch.column("labels").combine_chunks()
        ends = np.concatenate([[0], np.cumsum(labels.flatten().to_numpy(zero_copy_only=False) == stop)])
        offsets = np.concatenate([[0], np.cumsum(labels.value_lengths().to_numpy(zero_copy_only=False))])
        without += int((ends[offsets[1:]] == ends[offsets[:-1]]).sum())
    found: dict[str, Any] = {"demonstrations": {"rows": len(rows), "without_stop_token": without}}
    if without <= FEW * len(rows):
        return found
    text = f"{without} of {len(rows)} demonstrations never show the stop token: they teach to go on; raise args.max_length"
    if without == len(rows):
        text = (
            "no demonstration shows the stop token, so the policy can't learn to stop: method.args.max_length cuts all of "
            "them, or model.chat_template ends an answer with another token than model.stop_token"
        )
    print(f"warning: {text}", flush=True)
    return found | {"warnings": [{"step": 0, "kind": "no_stop_token", "text": text}]}
