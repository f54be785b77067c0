"""A file's own scores beside our verdicts on its completions: how many differ, and which.

A difference in correctness changes pass@k, one in form only a mean score. Who wrote the file may have judged otherwise (the
first answer, floats, a number used twice); the listed answers tell which. Left out: finding out why.
"""

from collections.abc import Iterator, Sequence
from math import isclose
from statistics import fmean
from typing import Any

from qwen_align.generator.recorded import SCORES, Problem
from qwen_align.method.judge import Pools
from qwen_align.metric import interval
from qwen_align.verifier import Verdict, Verifier

_LISTED = 20  # differences
_SHOWN = 160  # characters of an answer


def verdict_of(score: float) -> Verdict | None:
    """What a recorded score says; None for one that is none of the three."""
    # A score that went through 32 bits is 0.10000000149.
    return next((verdict for verdict, value in SCORES.items() if isclose(score, value, abs_tol=1e-6)), None)


def _last_answer(text: str, verifier: Verifier) -> str:
    """What a completion answers, as it is written; the end of one without a marked answer."""
    marked = verifier.answers(text) if verifier.answers else []
    return " ".join((marked[-1] if marked else f"... {text[-_SHOWN:]}").split())[:_SHOWN]


def compared(problems: Sequence[Problem], pools: Pools, verifier: Verifier) -> dict[str, Any]:
    """The file's scores beside our verdicts: means with intervals, how many differ, and the first that do.

    They differ in correctness where one of the two says 1, in form where both say wrong and only one well-formed; in a file
    without any 0.1 a 0 is only wrong, and forms are not compared.
    """
    if problems[0].scores is None:
        return {"completions": sum(map(len, pools)), "scored": 0}
    scores = [problem.scores or [] for problem in problems]
    read = [[verdict_of(score) for score in row] for row in scores]
    formed = any(verdict is Verdict.WELLFORMED_WRONG for row in read for verdict in row)
    differing: dict[str, list[dict[str, Any]]] = {"correctness": [], "form": []}
    for number, (problem, row, theirs, ours) in enumerate(zip(problems, scores, read, pools, strict=True)):
        for sample, (score, recorded, own) in enumerate(zip(row, theirs, ours, strict=True)):
            kind = "form" if (recorded is Verdict.CORRECT) == own.correct else "correctness"
            if recorded != own.verdict and (kind == "correctness" or (formed and recorded is not None)):
                where = {"problem": number, "where": problem.where, "sample": sample, "recorded": score}
                differing[kind].append(where | {"ours": own.verdict, "answer": _last_answer(own.text, verifier)})
    correct = [[verdict is Verdict.CORRECT for verdict in row] for row in read]
    found: dict[str, Any] = {
        "completions": sum(map(len, scores)),
        "scored": sum(map(len, scores)),
        "mean_score": interval.mean([fmean(row) for row in scores]),
        "scored_1": interval.mean([fmean(row) for row in correct], shares=True),
        "differ_in_correctness": len(differing["correctness"]),
        "other_scores": sum(verdict is None for row in read for verdict in row),
        "first_differences": [*differing["correctness"], *differing["form"]][:_LISTED],
    }
    if formed:
        here = [fmean([SCORES[c.verdict] for c in pool if c.verdict]) for pool in pools]
        found |= {"differ_in_form": len(differing["form"]), "mean_score_here": interval.mean(here)}
    return found


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What `compared` found, for people."""
    if not found["scored"]:
        yield "the file holds no scores, so nothing is compared"
        return
    here = f"; here the mean is {found['mean_score_here'].mean:.4f}" if "mean_score_here" in found else ""
    yield f"the file's own scores: mean {found['mean_score'].mean:.4f}, {found['scored_1'].mean:.4f} of them 1{here}"
    if found["other_scores"]:
        yield f"{found['other_scores']} scores are none of 1, 0.1, 0; they are taken as not correct"
    form = f", {found['differ_in_form']} more in form" if "differ_in_form" in found else ""
    yield f"of {found['scored']} verdicts {found['differ_in_correctness']} differ in what is correct{form}"
    for one in found["first_differences"]:
        yield (
            f"  problem {one['problem']} ({one['where']}), sample {one['sample']}: recorded {one['recorded']:g}, "
            f"here {one['ours']}: {one['answer']}"
        )
