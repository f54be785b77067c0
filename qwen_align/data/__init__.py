"""The data of a stage: the views of a source, and the verifier that judges its completions.

A source is a class with a method a view: demonstrations, preferences, prompts, evaluation. Which views it has follows from its
methods; one that depends on its settings says so in `views()`. The verifier is a component of its own (`data.verifier`), so
that any source takes any.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen_align.config import component
from qwen_align.errors import ConfigError
from qwen_align.verifier import Verifier

if TYPE_CHECKING:
    from datasets import Dataset

VIEWS = ("demonstrations", "preferences", "prompts", "evaluation")


@dataclass(frozen=True)
class Data:
    """A source with its verifier, None where nothing can be judged exactly."""

    source: Any
    verifier: Verifier | None = None

    @property
    def name(self) -> str:
        return type(self.source).__name__

    @property
    def views(self) -> tuple[str, ...]:
        """The views that it offers."""
        own = self.source.views() if hasattr(self.source, "views") else VIEWS
        return tuple(view for view in own if hasattr(self.source, view))

    def rows(self, view: str) -> "Dataset":
        """The rows of a view; ConfigError without such a view, a row, or a column that the verifier reads."""
        if view not in self.views:
            raise ConfigError(f"data: {self.name} has no {view} view; it has {', '.join(self.views) or 'none'}")
        rows: Dataset = getattr(self.source, view)()
        if not len(rows):
            raise ConfigError(f"data: the {view} view of {self.name} is empty; expected at least one row")
        if self.verifier and view in ("prompts", "evaluation"):
            for name in self.verifier.missing(rows.column_names):
                there = f"the {view} view has {', '.join(rows.column_names)}"
                raise ConfigError(f"data.verifier={self.verifier.name}: reads the column {name}; {there}")
        return rows

    def judged(self, purpose: str) -> Verifier:
        """The verifier; ConfigError where there is none to serve the purpose, such as method=evaluate."""
        if self.verifier is None:
            raise ConfigError(
                f"data.verifier=null: {self.name} has no verifier, which {purpose} needs; expected data.verifier=NAME or "
                "FILE.py:NAME, a data set with exact answers such as countdown, or method=compare with a reward that judges"
            )
        return self.verifier


def load(node: Mapping[str, Any]) -> Data:
    """The data of a config node; `verifier` is handed to a source that asks for it, to read its columns by."""
    verifier = component.verifier(node.get("verifier"))
    given = {key: value for key, value in node.items() if key not in ("_target_", "verifier")}
    kind = component.locate(node["_target_"], "data._target_")
    if "verifier" in inspect.signature(kind).parameters:
        given["verifier"] = verifier
    component.check_arguments("data", node["_target_"], kind, given)
    return Data(kind(**given), verifier)
