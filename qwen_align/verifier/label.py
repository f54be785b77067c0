"""Judge a classification: is the last label in a completion, among those given, the row's?

A label counts where it stands as a whole word or phrase outside thinking, whatever its case and spacing: `spam` is not in
`spammer` nor in `non-spam`, nor 5 in 3.5. Where labels contain each other the longest at a place wins, so "not fraud" never
says "fraud". Time is linear in the text. Left out: synonyms, several labels at once, negation that is no label of its own.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qwen_align.verifier import Verdict, columns
from qwen_align.verifier.extraction import without_thinking


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


class Label:
    """Exact match with the column `label`; wellformed_wrong for another label, malformed without one. Raises ValueError."""

    def __init__(self, labels: Sequence[Any]) -> None:
        if isinstance(labels, str):
            raise ValueError(f"labels={labels}: expected a list such as [spam, ham]")
        try:
            self.labels = {_folded(columns.text(label)): columns.text(label) for label in labels}
        except ValueError as error:
            raise ValueError(f"labels={list(labels)}: one {error}; yes and no stand in quotes in YAML") from error
        if len(self.labels) < 2 or len(self.labels) < len(labels):
            raise ValueError(f"labels={list(labels)}: expected at least two, each once whatever its case")
        longest_first = sorted(self.labels, key=len, reverse=True)
        phrases = "|".join(r"\s++".join(map(re.escape, label.split())) for label in longest_first)
        self._pattern = re.compile(rf"(?<!\w)(?<!\w-)(?<!\d\.)(?:{phrases})(?!\w|-\w|\.\d)")
        self.COLUMNS = {"label": self.read}

    def read(self, value: Any) -> str:
        """A row's label as it is spelt among those given; ValueError for another."""
        found = self.labels.get(_folded(columns.text(value)))
        if found is None:
            raise ValueError(f"is {str(value)!r:.40}, none of {', '.join(self.labels.values())}")
        return found

    def answers(self, completion: str | None) -> list[str]:
        """The labels that a completion names outside thinking, in order, each a completion of its own."""
        found = self._pattern.findall(without_thinking(completion).casefold())
        return [self.labels[_folded(label)] for label in found]

    def answer(self, completion: str | None) -> str | None:
        """The last label that a completion names."""
        found = self.answers(completion)
        return found[-1] if found else None

    def expected(self, row: Mapping[str, Any]) -> str:
        """A row's own label."""
        return self.read(row["label"])

    def verify(self, completion: str | None, label: Any) -> Verdict:
        """The verdict on the last label that a completion names."""
        found = self.answer(completion)
        if found is None:
            return Verdict.MALFORMED
        return Verdict.CORRECT if found == self.read(label) else Verdict.WELLFORMED_WRONG


build = Label  # what a node calls with its settings: {_target_: label, labels: [spam, ham]}
