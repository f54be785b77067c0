"""The verifiers against the usual kinds: a regex with `eval` for Countdown, Math-Verify called directly for maths.

UNSAFE_verdict below exists only to be measured. It is the checker that most public Countdown code uses, and it is wrong too:
it runs what a model wrote, hangs on 9**9**9 and calls 7//2*8 correct. Hostile cases run it in a process that is killed.
With gsm8k=FILE (JSONL, field `answer`) GSM8K's own rows are judged instead of answers of that style made here.
"""

import json
import logging
import multiprocessing
import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qwen_align.bench.row import Row, interleaved
from qwen_align.data.countdown import reachable, solve, trace
from qwen_align.errors import ConfigError
from qwen_align.verifier import countdown, math

Case = tuple[str, list[int], int]
UNSAFE_LIMIT = 1.0  # seconds after which the unsafe checker is killed on a hostile case


def UNSAFE_verdict(text: str, numbers: list[int], target: int) -> bool:
    """The usual checker. Never use it: it evaluates text that a model wrote."""
    found = list(re.finditer(r"<answer>(.*?)</answer>", text, re.DOTALL))
    if not found:
        return False
    equation = found[-1].group(1).strip()
    try:
        same = sorted(int(n) for n in re.findall(r"\d+", equation)) == sorted(numbers)
        if not same or not re.match(r"^[\d+\-*/().\s]+$", equation):
            return False
        return abs(eval(equation, {"__builtins__": None}, {}) - target) < 1e-5  # what is being measured
    except Exception:
        return False


def arithmetic(count: int, how_many: int, seed: int = 0) -> list[Case]:
    """Plain completions: a trace and an expression with the right numbers, one in two with the right value."""
    rng = random.Random(seed)
    cases: list[Case] = []
    while len(cases) < how_many:
        numbers = [rng.randint(1, 50) for _ in range(count)]
        targets = [v for v in reachable(tuple(sorted(numbers)), 1000)[-1] if v > 0]
        solution = solve(numbers, target := rng.choice(targets), rng)
        assert solution is not None
        cases.append((trace(*solution) + "<|im_end|>", numbers, target + rng.randint(0, 1)))
    return cases


def hostile() -> dict[str, Case]:
    """Completions made to hurt a verifier."""
    answer = "<answer>{}</answer>".format
    return {
        "power tower": (answer("9**9**9"), [9, 9, 9], 1),
        "unclosed tags, 200 kB": ("<answer>" * 25_000, [1, 2], 3),
        "unclosed thinking, 200 kB": ("<think>" * 28_000 + answer("1+2"), [1, 2], 3),
        "10,000 brackets": (answer("(" * 10_000 + "1+2" + ")" * 10_000), [1, 2], 3),
        "a literal of 100,000 digits": (answer("9" * 100_000 + "+1"), [1, 2], 3),
        "a sum of 10,000 numbers": (answer("+".join(["1"] * 10_000)), [1, 2], 3),
        "injection": (answer("__import__('os').system('true')"), [1, 2], 3),
    }


def _killed_after(limit: float, case: Case) -> float:
    """Seconds that the unsafe checker takes for one case, in a process that is killed at the limit."""
    began = time.perf_counter()
    process = multiprocessing.get_context("fork").Process(target=UNSAFE_verdict, args=case)
    process.start()
    process.join(limit)
    seconds = time.perf_counter() - began
    process.kill()
    process.join()
    return seconds


def _all(verdict: Callable[..., object], cases: Sequence[tuple[Any, ...]]) -> Callable[[], float]:
    return lambda: float(len([verdict(*case) for case in cases]))


def _hostile_row(name: str, case: Case, rounds: int) -> Row:
    seconds = _killed_after(UNSAFE_LIMIT, case)
    if seconds < UNSAFE_LIMIT:
        return interleaved(name, "verdicts", _all(countdown.verify, [case]), _all(UNSAFE_verdict, [case]), rounds, "hostile")
    began = time.perf_counter()
    countdown.verify(*case)
    ours = time.perf_counter() - began
    note = f"hostile; the unsafe checker was killed after {UNSAFE_LIMIT:.0f} s, so the ratio is a lower bound"
    return Row(name, "verdicts", 1 / ours, 1 / seconds, seconds / ours, seconds / ours, seconds / ours, 1, note)


def gsm8k_answers(path: str | None) -> list[tuple[str, str]]:
    """(completion, gold) pairs: right and wrong answers in the forms that models give them."""
    rng = random.Random(0)
    if path is None:
        golds = [f"{rng.randint(1, 20_000):,}" for _ in range(300)]
        bodies = [f"She has {rng.randint(2, 90)} of them, so {rng.randint(2, 9)} * 12 is what is left." for _ in golds]
    elif not Path(path).is_file():
        raise ConfigError(f"gsm8k={path}: no such file; expected JSONL with the field answer")
    else:
        answers = [json.loads(line)["answer"] for line in Path(path).read_text(encoding="utf-8").splitlines()]
        bodies = [answer.rpartition("####")[0] for answer in answers]
        golds = [answer.rpartition("####")[2].strip() for answer in answers]
    pairs = []
    for body, gold in zip(bodies, golds, strict=True):
        wrong = str(int(float(gold.replace(",", ""))) + 1)
        for form in ("{}\n#### {}", "{} The answer is {}.", "{} \\boxed{{{}}}"):
            pairs += [(form.format(body, gold), gold), (form.format(body, wrong), gold)]
    return pairs


def _math_row(path: str | None, rounds: int) -> Row:
    from math_verify import parse, verify

    logging.disable(logging.WARNING)
    pairs = gsm8k_answers(path)
    direct = lambda text, gold: verify(parse(gold), parse(text))  # noqa: E731
    ours = [math.verify(text, gold) == "correct" for text, gold in pairs]
    differ = sum(a != bool(direct(text, gold)) for a, (text, gold) in zip(ours, pairs, strict=True))
    source = "GSM8K's own" if path else "GSM8K-style, made here"
    note = f"{source}; {len(pairs)} verdicts, {differ} differ, {sum(ours)} correct by ours, {math.timeouts()} time-outs"
    name = "maths answers against Math-Verify"
    return interleaved(name, "verdicts", _all(math.verify, pairs), _all(direct, pairs), rounds, note)


def run(rounds: int, gsm8k: str | None) -> list[Row]:
    """Countdown on plain arithmetic and on hostile text, maths on GSM8K answers."""
    rows = []
    for count in (3, 4, 6):
        cases = arithmetic(count, 1000)
        one, other = sum(countdown.verify(*c) == "correct" for c in cases), sum(UNSAFE_verdict(*c) for c in cases)
        note = f"{one} and {other} of {len(cases)} called correct"
        ours, theirs = _all(countdown.verify, cases), _all(UNSAFE_verdict, cases)
        rows.append(interleaved(f"plain arithmetic, {count} numbers", "verdicts", ours, theirs, rounds, note))
    rows += [_hostile_row(name, case, rounds) for name, case in hostile().items()]
    return [*rows, _math_row(gsm8k, max(rounds // 5, 3))]
