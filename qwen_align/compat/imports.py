"""What libraries import at their top and one process seldom uses is imported at its first use: a third of a stage's start.

The module is in sys.modules from the start and runs its code when it is asked for an attribute that it lacks: `import wandb`
costs nothing, `wandb.init` imports it, and so does a user's reward that needs it. Some libraries take names from such a module
while they are imported themselves; these few stand in it beforehand and do, until it is there, what the real ones would do
without a compiler at work, a sharded tensor or an engine. importlib's LazyLoader does not serve: in Python 3.11 a second `import`
of the same name runs the module. Left out: workers of a launcher, which use most of it, and pandas, from which datasets takes
base classes.
"""

import functools
import importlib
import importlib.metadata
import os
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any


class _AtFirstUse(ModuleType):
    """A module whose code has not run yet. `standing_in` are the names that it has all the same, until then."""

    def __init__(self, spec: ModuleSpec, standing_in: dict[str, Any], afterwards: Callable[[ModuleType], None]) -> None:
        super().__init__(spec.name)
        self.__spec__, self.__loader__, self.__file__ = spec, spec.loader, spec.origin
        self.__package__ = spec.parent
        self.__dict__ |= standing_in | {"_waiting": (threading.RLock(), [*standing_in], afterwards)}

    def __getattr__(self, name: str) -> Any:
        if waiting := self.__dict__.get("_waiting"):
            with waiting[0]:
                if self.__dict__.pop("_waiting", None):
                    _run(self, *waiting)
            return getattr(self, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def _run(module: _AtFirstUse, lock: Any, standing_in: list[str], afterwards: Callable[[ModuleType], None]) -> None:
    before = {name: module.__dict__.pop(name) for name in standing_in}
    spec = module.__spec__
    assert spec is not None and spec.loader is not None
    try:
        if spec.submodule_search_locations is not None:
            module.__path__ = spec.submodule_search_locations
        if spec.parent and spec.parent != spec.name:
            importlib.import_module(spec.parent)
        spec.loader.exec_module(module)
    except BaseException:
        module.__dict__.pop("__path__", None)
        module.__dict__.update(before, _waiting=(lock, standing_in, afterwards))
        raise
    module.__class__ = ModuleType  # type: ignore[assignment]
    afterwards(module)


def _defer(name: str, afterwards: Callable[[ModuleType], None] = lambda _: None, **standing_in: Any) -> None:
    """Let a module run at its first use, if it is installed and nobody has imported it yet."""
    parent, _, child = name.rpartition(".")
    holder = sys.modules.get(parent)
    path = getattr(holder, "__path__", None) if not isinstance(holder, _AtFirstUse) else holder.__spec__.submodule_search_locations
    if parent and path is None:
        top = PathFinder.find_spec(parent)
        path = top.submodule_search_locations if top else []
    spec = PathFinder.find_spec(name, path) if name not in sys.modules else None
    if spec is not None:
        sys.modules[name] = _AtFirstUse(spec, standing_in, afterwards)
        if isinstance(holder, ModuleType) and not isinstance(holder, _AtFirstUse):
            setattr(holder, child, sys.modules[name])


def _forwarded(module: str, name: str) -> Callable[..., Any]:
    """A function that imports the real one when it is called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(_loaded(module), name)(*args, **kwargs)

    return call


def _loaded(name: str) -> ModuleType:
    module = importlib.import_module(name)
    if isinstance(module, _AtFirstUse):
        module.__dict__.get("_waiting") and module.__path__  # noqa: B018 - any name that stands in for none
    return module
