"""Reward functions as they should not be."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass
class Faulty:
    """Does what `fault` says at its second step: its third call, since it is rehearsed before training."""

    fault: str = "hang"
    calls: int = 0
    garbage: ClassVar[dict[str, Any]] = {"nan": float("nan"), "text": "good", "list": [1.0]}

    def __call__(self, completions: Sequence[Any], **_: Any) -> Any:
        self.calls += 1
        values = [float(len(completion)) for completion in completions]
        if self.calls < 3:
            return values
        if self.fault == "hang":
            print("hanging", flush=True)
            time.sleep(600)
        if self.fault == "raise":
            raise ZeroDivisionError("no words")
        if self.fault == "nothing":
            return None
        return values[:-1] if self.fault == "short" else [self.garbage[self.fault], *values[1:]]
