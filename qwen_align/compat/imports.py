"""What libraries import at their top and one process seldom uses is imported at its first use: a third of a stage's start.

The module is in sys.modules from the start and runs when it is asked for an attribute that it lacks: `import wandb` costs
nothing, `wandb.init` imports it, and so does a user's reward. Libraries take a few names from such modules while they are
imported themselves. These names stand in the module beforehand and do, until it has run, what the real ones would do without a
compiler at work, a sharded tensor or an engine. importlib's LazyLoader does not serve: in Python 3.11 the second `import` of a
name runs the module. Left out: workers of a launcher, which use most of it, and pandas, from which datasets takes base classes.
"""

import functools
import importlib
import importlib.metadata
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any


@dataclass
class _Deferred:
    standing_in: dict[str, Any]
    afterwards: Callable[[ModuleType], None]
    loader: Any = None
    lock: Any = field(default_factory=threading.RLock)
    running: bool = False


class _AtFirstUse(ModuleType):
    """A module that has not run yet."""

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":  # `from X import Y` asks each module for it
            raise AttributeError("not a package")
        run(self)
        if "_deferred" in self.__dict__:  # asked for by what it imports itself
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self, name)


class _Loader(Loader):
    """Makes a module that runs at its first use."""

    def __init__(self, deferred: _Deferred) -> None:
        self.deferred = deferred

    def create_module(self, spec: ModuleSpec) -> None:
        return None  # as any other

    def exec_module(self, module: ModuleType) -> None:
        _waiting.pop(module.__name__, None)
        module.__dict__.update(self.deferred.standing_in, _deferred=self.deferred)
        module.__class__ = _AtFirstUse


class _Imported(Loader):
    """Finds what is imported already."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


_waiting: dict[str, _Deferred] = {}  # by name, until somebody imports it


class _Finder:
    """Comes before Python's own finders."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if deferred := _waiting.get(name):
            spec = PathFinder.find_spec(name, path)
            if spec is not None:
                deferred.loader, spec.loader = spec.loader, _Loader(deferred)
            return spec
        parent = sys.modules.get(name.rpartition(".")[0])
        if parent is None or "_deferred" not in parent.__dict__ or parent.__dict__["_deferred"].running:
            return None
        run(parent)  # before a module inside of it, which may be imported on the way
        if (module := sys.modules.get(name)) is None:
            return None
        # Python takes the module's own spec then, and would run its code a second time.
        module.__spec__ = spec = ModuleSpec(name, _Imported(module), is_package=hasattr(module, "__path__"))
        return spec


def run(module: ModuleType) -> None:
    """Run a module if it is one that has not run yet. Another thread waits for that, as it would for an import."""
    deferred: _Deferred | None = module.__dict__.get("_deferred")
    if deferred is None:
        return
    if parent := module.__name__.rpartition(".")[0]:
        run(importlib.import_module(parent))
    with deferred.lock:
        if "_deferred" not in module.__dict__ or deferred.running:
            return
        deferred.running, spec = True, module.__spec__
        assert spec is not None
        spec.loader = module.__loader__ = deferred.loader
        for name in deferred.standing_in:
            del module.__dict__[name]
        try:
            deferred.loader.exec_module(module)
        except BaseException:
            deferred.running = False
            module.__dict__.update(deferred.standing_in)
            raise
        deferred.afterwards(module)
        del module.__dict__["_deferred"]
        module.__class__ = ModuleType


def _defer(name: str, afterwards: Callable[[ModuleType], None] = lambda _: None, **standing_in: Any) -> None:
    """Let a module run at its first use, unless it is imported already."""
    if name not in sys.modules:
        _waiting[name] = _Deferred(standing_in, afterwards)


def _real(module: str, name: str) -> Callable[..., Any]:
    """A function that imports the real one when it is called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        run(found := importlib.import_module(module))
        return getattr(found, name)(*args, **kwargs)

    return call


class _None:
    """Stands in for a class of which nothing can be an instance as long as its module has not run."""


def _dynamo(name: str) -> Any:
    """A name of torch._dynamo, None until it has run."""
    module = sys.modules.get("torch._dynamo")
    return None if module is None or "_deferred" in module.__dict__ else getattr(module, name)


def _disable(fn: Any = None, recursive: bool = True, **options: Any) -> Any:
    """torch._dynamo.disable: there is nothing to disable until torch._dynamo is imported."""
    if not isinstance(fn, FunctionType):
        if fn is None:
            return functools.partial(_disable, recursive=recursive, **options)
        return _real("torch._dynamo", "disable")(fn, recursive, **options)
    disabled: list[Callable[..., Any]] = []

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not disabled and (disable := _dynamo("disable")):
            disabled.append(disable(fn, recursive, **options))
        return (disabled[0] if disabled else fn)(*args, **kwargs)

    return call


def _constant(fn: Any) -> Any:
    """torch._dynamo.assume_constant_result."""
    fn._dynamo_marked_constant = True
    return fn


class _NoError(Exception):
    """Stands in for an error that nothing can raise as long as its module has not run."""


def _let_dtensor_catch(symbolic: ModuleType) -> None:
    if decompositions := sys.modules.get("torch.distributed.tensor._decompositions"):
        decompositions.GuardOnDataDependentSymNode = symbolic.GuardOnDataDependentSymNode  # type: ignore[attr-defined]


def _defer_compiler() -> None:
    allowed: list[Any] = []

    def allow_in_graph(fn: Any) -> Any:
        allowed.append(fn)
        return fn

    def afterwards(dynamo: ModuleType) -> None:
        for fn in allowed:
            dynamo.allow_in_graph(fn)

    traced, symbolic = "torch._dynamo._trace_wrapped_higher_order_op", "torch.fx.experimental.symbolic_shapes"
    _defer(traced, TransformGetItemToIndex=_real(traced, "TransformGetItemToIndex"))
    _defer(
        "torch._dynamo",
        afterwards,
        disable=_disable,
        graph_break=lambda msg="": None,  # does nothing outside of a trace
        assume_constant_result=_constant,
        allow_in_graph=allow_in_graph,
        eval_frame=SimpleNamespace(OptimizedModule=_None),
    )
    names = ("guard_or_false", "guard_or_true", "statically_known_true")
    functions: dict[str, Any] = {name: _real(symbolic, name) for name in names}
    _defer(symbolic, _let_dtensor_catch, GuardOnDataDependentSymNode=_NoError, **functions)  # with sympy


class _Distributions(Mapping[str, list[str]]):
    """importlib.metadata.packages_distributions(), which reads the files of each package, when it is asked for a package."""

    read = staticmethod(importlib.metadata.packages_distributions)

    @functools.cached_property
    def found(self) -> Mapping[str, list[str]]:
        return self.read()

    def __getitem__(self, package: str) -> list[str]:
        return self.found[package]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


def _read_models_once() -> None:
    """transformers looks for names in the text of all its models, line by line, and again for `transformers.models`."""
    name = "transformers.utils.import_utils"

    class Finder:
        @staticmethod
        def find_spec(fullname: str, path: Iterable[str] | None = None, target: Any = None) -> ModuleSpec | None:
            if fullname != name:
                return None
            sys.meta_path.remove(Finder)
            spec = PathFinder.find_spec(fullname, path)  # type: ignore[arg-type]
            execute: Any = spec.loader.exec_module  # type: ignore[union-attr]

            def exec_module(module: ModuleType) -> None:
                execute(module)
                for function, faster in {"create_import_structure_from_path": _by_folder, "fetch__all__": _last_all}.items():
                    setattr(module, function, faster(getattr(module, function)))

            spec.loader.exec_module = exec_module  # type: ignore[union-attr,method-assign]
            return spec

    if name not in sys.modules:
        sys.meta_path.insert(0, Finder)


def _by_folder(read: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Remember what was read of each folder, by whichever kind of path; transformers forgets all but 128."""
    found: dict[str, Any] = {}

    def structure(path: Any) -> Any:
        folder = os.path.dirname(path) if os.path.isfile(path) else os.fspath(path)
        if folder not in found:
            found[folder] = read(folder)
        return found[folder]

    return structure


def _last_all(read: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """Read the last __all__ of a file without looking at the lines before it."""

    def exported(text: str) -> list[str]:
        start = text.rfind("\n__all__") + 1
        return read(text[start:]) if start or text.startswith("__all__") else []

    return exported


def defer() -> None:
    """Before anything heavy is imported, in a process that trains or samples alone."""
    importlib.metadata.packages_distributions = _Distributions
    _read_models_once()
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    _defer("wandb", run=None)
    for name, function in {"scipy.optimize": "linear_sum_assignment", "scipy.stats": "bootstrap"}.items():
        _defer(name, **{function: _real(name, function)})
    _defer("deepspeed", DeepSpeedEngine=_None)
    _defer_compiler()
