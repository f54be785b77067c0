"""Countdown solutions by exact search, in the place of a teacher: free, always right, and in the demonstrations' own format.

A generator sees prompts only, so the problem is read back from the text with the data set's own prompt template.
Left out: solutions through fractions or through intermediate results above `largest`; such a prompt gets an empty answer.
"""

import random
import re
import string
from collections.abc import Sequence
from typing import Any

from qwen_align.data.countdown import solve, trace
from qwen_align.data.settings import check_template
from qwen_align.errors import ConfigError
from qwen_align.generator import Answers, Completion, Conversation, Sampling

_DIGITS = {"numbers": r"\d+(?: \d+)*", "target": r"\d+"}


class Solver:
    """Random solutions by seed to prompts made with a template; how tokens are drawn and lengths do not matter to it."""

    needs_policy = False

    def __init__(self, prompt: str | None, largest: int = 1000) -> None:
        if not prompt:
            raise ConfigError("generator=solver: solves Countdown only; expected data=countdown or data=countdown_hub")
        check_template(prompt, "numbers", "target")
        pattern = ""
        for text, field, _, _ in string.Formatter().parse(prompt):
            pattern += re.escape(text)
            if field:  # named again where the prompt repeats it
                pattern += f"(?P={field})" if f"(?P<{field}>" in pattern else f"(?P<{field}>{_DIGITS[field]})"
        self.pattern, self.largest = re.compile(pattern), largest

    def stream(self, prompts: Sequence[Conversation], sampling: Sampling, title: str, policy: Any = None) -> Answers:
        """(index of the prompt, n solutions) in the prompts' order."""
        for index, conversation in enumerate(prompts):
            found = self.pattern.search(conversation[-1]["content"])
            if found is None:
                expected = "expected method.teacher_prompt=null"
                raise ConfigError(f"generator=solver: reads problems that are asked with data.prompt; {expected}")
            numbers, target = [int(word) for word in found["numbers"].split()], int(found["target"])
            rng = random.Random(f"{sampling.seed} {index}")
            solutions = [solve(numbers, target, rng, self.largest) for _ in range(sampling.n)]
            yield index, [Completion(trace(*s) if s else "", 0, True) for s in solutions]
