"""How completions end and how many answers they hold: the audit beside every evaluation and in RLOO's log.

In the study's family policies that never learned to stop, answers cut at the limit and completions with several answers went
unseen behind one pass@1: 51 to 86 % of RLOO's samples there held several answers, since training ended at `</answer>` and the
evaluation didn't. How many answers a completion holds is asked of the data (`answers`, beside `verify`), where it has such a
notion. What ends a completion follows from the policy's own files in training and evaluation alike, so only a token limit of
its own, or generation_kwargs, can make the two differ. Left out: which of several stop tokens it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from qwen_align.generator import Completion
from qwen_align.metric import interval

if TYPE_CHECKING:
    from datasets import Dataset

    from qwen_align.model import Policy

FEW = 0.1  # share of completions above which a warning is due
WINDOW = 5  # logged lines that a number of RLOO's is averaged over
_ENDING = (  # of RLOO's generation_kwargs, for transformers and for vLLM
    "stop", "stop_strings", "stop_token_ids", "eos_token_id", "ignore_eos", "max_new_tokens", "max_tokens", "max_length",
    "max_time",
)  # fmt: skip


@dataclass(frozen=True)
class Stops:
    """What ends a policy's completions."""

    label: str
    limit: int | None  # tokens; None: not known
    tokens: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()  # from its training, in words


def differences(training: dict[str, Any], limit: int) -> list[str]:
    """Where a run of RLOO ends completions otherwise than an evaluation of up to `limit` tokens, in words."""
    args = training.get("method", {}).get("args") or {}
    if "num_generations" not in args:  # only RLOO samples
        return []
    found = []
    if (own := args.get("max_completion_length", limit)) != limit:
        found.append(
            f"RLOO trains on completions of up to method.args.max_completion_length={own} tokens, and they are measured up to "
            f"max_completion_length={limit}; expected one limit"
        )
    for key in _ENDING:
        if key in (kwargs := args.get("generation_kwargs") or {}):
            found.append(
                f"RLOO ends completions by method.args.generation_kwargs.{key}={kwargs[key]}, which the evaluation doesn't, so "
                "what follows there was never trained; expected the stop token alone"
            )
    return found


def stops(label: str, loaded: "Policy", limit: int) -> Stops:
    """What ends this policy's completions; how it was trained is read from its run folder, if it has one."""
    weights, tokenizer = loaded
    ends: Any = weights.generation_config.eos_token_id
    saved = Path(str(weights.name_or_path))
    folder = saved.parent
    training: Any = {}
    if saved.name == "model" and (folder / "run.json").is_file() and (folder / "config.yaml").is_file():
        training = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=True)
    tokens = tokenizer.convert_ids_to_tokens(ends if isinstance(ends, list) else [ends])
    return Stops(label, limit, tuple(tokens), tuple(differences(training, limit)))


def shares(values: Sequence[Sequence[bool]]) -> interval.Interval:
    """The share of true values, (problems, samples), with its interval over problems."""
    return interval.mean([fmean(row) for row in values], shares=True)


def audit(
    data: Any, rows: Sequence[dict[str, Any]], pools: Sequence[Sequence[Completion]],
    verdicts: Sequence[Sequence[str]] | None, stops: Stops,
) -> dict[str, Any]:  # fmt: skip
    """How the completions of each problem end and what answers they hold; warnings are printed, too."""
    found: dict[str, Any] = {}
    if stops.limit is not None:
        found |= {"max_completion_length": stops.limit, "stop_tokens": list(stops.tokens)}
    if any(c.tokens for pool in pools for c in pool):
        found["ended_by_stop"] = shares([[c.finished for c in pool] for pool in pools])
    answers: Callable[[str], list[str]] | None = getattr(data, "answers", None)
    if answers and verdicts is not None:
        held = [[answers(c.text) for c in pool] for pool in pools]
        # Of one answer the verdict is known; a verifier may also find one without a marker, which is the only one then.
        first = [
            [data.verify(texts[0], row) if len(texts) > 1 else verdict for texts, verdict in zip(*both, strict=True)]
            for row, *both in zip(rows, held, verdicts, strict=True)
        ]
        found["answers_per_completion"] = interval.mean([fmean(map(len, pool)) for pool in held])
        found["several_answers"] = shares([[len(texts) > 1 for texts in pool] for pool in held])
        found["no_answer"] = shares([[not texts for texts in pool] for pool in held])
        found["last_answer_correct"] = shares([[verdict == "correct" for verdict in row] for row in verdicts])
        found["first_answer_correct"] = shares([[verdict == "correct" for verdict in row] for row in first])
        changed = [[a != b for a, b in zip(*both, strict=True)] for both in zip(first, verdicts, strict=True)]
        found["first_changes_verdict"] = shares(changed)
        found["verdicts_changed"] = sum(map(sum, changed))
    found["warnings"] = [*stops.differences, *_warnings(found, stops)]
    for text in found["warnings"]:
        print(f"warning: {stops.label}: {text}", flush=True)
    return found


def _warnings(found: dict[str, Any], stops: Stops) -> list[str]:
    told = []
    ended = found["ended_by_stop"]["mean"] if "ended_by_stop" in found else 1.0
    if ended == 0.0:
        token = f" ({' or '.join(stops.tokens)})" if stops.tokens else ""
        told.append(never_stops("none of the sampled completions", token))
    elif 1 - ended > FEW:
        limit = "" if stops.limit is None else f"={stops.limit}"
        told.append(
            f"{1 - ended:.0%} of the sampled completions are cut at max_completion_length{limit}, so unfinished answers are "
            "judged; raise it, in training as well"
        )
    if "several_answers" in found and found["several_answers"]["mean"] > FEW:
        judged, first = (found[f"{which}_answer_correct"]["mean"] for which in ("last", "first"))
        told.append(
            f"{several(found['several_answers']['mean'])}; the last one is judged: {judged:.3f} correct, the first one would "
            f"give {first:.3f}"
        )
    return told


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
    """Numbers for RLOO's log about one batch of its completions, texts or messages; {} for data without `answers`."""
    if answers is None or not completions:
        return {}
    texts = [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]
    counts = [len(answers(text)) for text in texts]
    return {
        "completions/answers": fmean(counts),
        "completions/several_answers": fmean([count > 1 for count in counts]),
        "completions/no_answer": fmean([not count for count in counts]),
    }


def of_log(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What RLOO's last logged lines say of its own completions, under the names of `audit`; {} where none was sampled."""
    last = [line for line in lines if "completions/clipped_ratio" in line][-WINDOW:]
    if not last:
        return {}
    names = {
        "truncated": "completions/clipped_ratio", "mean_tokens": "completions/mean_length",
        "answers_per_completion": "completions/answers", "several_answers": "completions/several_answers",
        "no_answer": "completions/no_answer",
    }  # fmt: skip
    found = {
        ours: fmean([line[key] for line in last]) for ours, key in names.items() if all(key in line for line in last)
    }
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
    text = (
        f"{without} of {len(rows)} demonstrations never show the stop token: they teach to go on; raise args.max_length"
    )
    if without == len(rows):
        text = (
            "no demonstration shows the stop token, so the policy can't learn to stop: method.args.max_length cuts all of "
            "them, or model.chat_template ends an answer with another token than model.stop_token"
        )
    print(f"warning: {text}", flush=True)
    return found | {"warnings": [{"step": 0, "kind": "no_stop_token", "text": text}]}
