"""What classes and functions accept, read from their source text: nothing is imported to ask.

Importing TRL costs seconds; parsing the few files that declare its fields costs a tenth of one. A name is followed from its
module through `from .x import Name` and the dicts of lazy modules (`_import_structure = {"x": ["Name"]}`), a class to its bases
through the imports of its own file, so any trainer's config class is known, a user's FILE.py:Class too. Left out: names that
exist only once code has run (`setattr`, `globals()`), and settings that are no annotated fields.
"""

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from qwen_align.errors import nearest

_HEAVY = {"torch", "transformers", "trl", "datasets", "peft", "accelerate", "evaluate"}
_ENUMS = ("transformers.trainer_utils", "transformers.training_args")
_WHOLE = (
    "the trainer's log-probs are those of the whole distribution, so sampling from a part of it biases the gradient; "
    "evaluation.top_p and evaluation.top_k are free"
)
# Fields whose nonsense TRL accepts without a word: (test, what would be right).
_RANGES = {
    "temperature": (lambda v: v > 0, "a number above 0"),
    "learning_rate": (lambda v: v >= 0, "a number from 0 on"),
    "top_p": (lambda v: v == 1, f"1: {_WHOLE}"),
    "min_p": (lambda v: v == 0, f"0: {_WHOLE}"),
    "top_k": (lambda v: v == 0, f"0: {_WHOLE}"),
    "beta": (lambda v: v >= 0, "a number from 0 on"),
    "num_generations": (lambda v: v >= 2, "a whole number from 2 on: an advantage needs siblings to compare with"),
    "max_completion_length": (lambda v: v > 0, "a whole number from 1 on"),
    "max_length": (lambda v: v > 0, "a whole number from 1 on"),
    "per_device_train_batch_size": (lambda v: v > 0, "a whole number from 1 on"),
    "num_iterations": (lambda v: v > 0, "a whole number from 1 on"),
    "save_steps": (lambda v: v > 0, "a number above 0"),
    "logging_steps": (lambda v: v > 0, "a number above 0"),
    "weight_decay": (lambda v: v >= 0, "a number from 0 on"),
}
_CHOICES = {"vllm_mode": ("server", "colocate")}


@dataclass(frozen=True)
class _Definition:
    """Where a name is bound: its statement, and the file that holds it."""

    node: ast.stmt
    file: Path


@lru_cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _python(base: Path) -> Path | None:
    """The file of a module at a path without suffix: a package's __init__.py, or NAME.py."""
    return next((path for path in (base / "__init__.py", base.with_name(f"{base.name}.py")) if path.is_file()), None)


@lru_cache
def _file(module: str) -> Path | None:
    """The file of a dotted module; find_spec would import the packages around it, so only the first part is asked for."""
    top, _, rest = module.partition(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    if not rest:
        return origin if origin.suffix == ".py" else None
    return _python(origin.parent.joinpath(*rest.split("."))) if spec.submodule_search_locations else None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module that may bind a name, those under `if` and `try` included."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from _statements(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            yield from _statements(node.body + [n for h in node.handlers for n in h.body] + node.orelse)


def _imported_from(node: ast.ImportFrom, file: Path) -> Path | None:
    """The file of the module that an import names."""
    if not node.level:
        name = node.module or ""
        return _file(name) or _python(file.parent.joinpath(*name.split(".")))  # a user's file beside this one
    base = file.parents[node.level - 1]
    return _python(base.joinpath(*node.module.split("."))) if node.module else base / "__init__.py"


def _lazy(node: ast.Assign, name: str, file: Path) -> Path | None:
    """The file that a lazy module's `_import_structure` names for an attribute."""
    if ast.unparse(node.targets[0]) != "_import_structure" or not isinstance(node.value, ast.Dict):
        return None
    for key, value in zip(node.value.keys, node.value.values, strict=True):
        if (
            isinstance(key, ast.Constant)
            and isinstance(value, ast.List)
            and name in [ast.unparse(e)[1:-1] for e in value.elts]
        ):
            return _python(file.parent.joinpath(*str(key.value).split(".")))
    return None


def _bound(file: Path, name: str, seen: frozenset[tuple[Path, str]] = frozenset()) -> _Definition | None:
    """Where a module gets a name from."""
    if (file, name) in seen:
        return None
    seen |= {(file, name)}
    for node in _statements(_tree(file).body):
        origin: tuple[Path | None, str] | None = None
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if node.name == name:
                return _Definition(node, file)
        elif isinstance(node, ast.ImportFrom):
            named = next((alias.name for alias in node.names if (alias.asname or alias.name) in (name, "*")), None)
            if named:
                origin = _imported_from(node, file), name if named == "*" else named
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if name in [target.id for target in targets if isinstance(target, ast.Name)]:
                return _Definition(node, file)
            if isinstance(node, ast.Assign) and (lazy := _lazy(node, name, file)):
                origin = lazy, name
        if origin and origin[0] and (found := _bound(origin[0], origin[1], seen)):
            return found
    return None


@lru_cache
def _find(target: str) -> _Definition | None:
    """The definition of `package.module.name`, `package.name`, `package.module.Class.name` or `FILE.py:NAME`."""
    if ".py:" in target:
        path, _, name = target.rpartition(":")
        return _bound(Path(path), name) if Path(path).is_file() else None
    outer, _, name = target.rpartition(".")
    if not outer:
        return None
    if file := _file(outer):
        return _bound(file, name)
    above = _find(outer)
    return next((d for d in _lineage(above) for d in _members(d) if _name(d) == name), None) if above else None


def _members(cls: _Definition) -> list[_Definition]:
    return [_Definition(node, cls.file) for node in cls.node.body] if isinstance(cls.node, ast.ClassDef) else []


def _name(definition: _Definition) -> str | None:
    return getattr(definition.node, "name", None)


def _lineage(cls: _Definition) -> list[_Definition]:
    """A class after the classes that it inherits from, as far as their source is there."""
    bases = cls.node.bases if isinstance(cls.node, ast.ClassDef) else []
    named = [base.value if isinstance(base, ast.Subscript) else base for base in bases]
    found = [_bound(cls.file, b.id) if isinstance(b, ast.Name) else _find(ast.unparse(b)) for b in named]
    return [*(above for base in found if base for above in _lineage(base)), cls]


def defines(target: str) -> bool:
    """Whether a dotted name or FILE.py:NAME exists, as far as source text can tell; True for modules without any."""
    if ".py:" not in target:
        try:
            spec = importlib.util.find_spec(target.partition(".")[0])
        except (ImportError, ValueError):
            return False
        if spec is not None and not str(spec.origin).endswith(".py"):  # built in, or compiled
            return True
    return _find(target) is not None


def nearest_name(target: str) -> str:
    """' (did you mean ...?)' with the closest name that the source of a target's module has, or nothing."""
    module, _, name = target.rpartition(".")
    file = _file(module) if module else None
    return nearest(name, set(re.findall(r"[A-Za-z_]\w+", file.read_text(encoding="utf-8")))) if file else ""


@lru_cache
def fields(target: str) -> dict[str, ast.expr]:
    """Field name -> annotation of a config class such as `trl.RLOOConfig`, those that it inherits included; {} if unknown."""
    cls = _find(target)
    lines = [line for above in (_lineage(cls) if cls else []) for line in getattr(above.node, "body", [])]
    named = [line for line in lines if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]
    return {line.target.id: line.annotation for line in named if "ClassVar" not in ast.unparse(line.annotation)}  # type: ignore[union-attr]


@lru_cache
def compared_with(target: str, name: str) -> tuple[str, ...]:
    """The texts that a trainer's file compares a variable or attribute with, where the class holds no list of them.

    Of a config class `X` of `x_config.py` it is the file `x_trainer.py` that is read; () where there is none.
    """
    config = _find(target)
    file = config.file.with_name(config.file.name.replace("_config", "_trainer")) if config else None
    if file is None or not file.is_file():
        return ()
    found: list[str] = []
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Compare) and ast.unparse(node.left).rpartition(".")[2] == name:
            values = [leaf.value for leaf in ast.walk(node.comparators[0]) if isinstance(leaf, ast.Constant)]
            found += [value for value in values if isinstance(value, str)]
    return tuple(dict.fromkeys(found))


@lru_cache
def enums() -> dict[str, tuple[str, ...]]:
    """Enum name -> its values, of the enums that training arguments use."""
    found = {}
    for file in map(_file, _ENUMS):
        for node in _tree(file).body if file else []:
            if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and "Enum" in b.id for b in node.bases):
                values = [
                    n.value.value for n in node.body if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant)
                ]
                found[node.name] = tuple(str(v) for v in values)
    return found


def _accepts(value: Any, annotation: ast.expr) -> bool:
    """Whether a plain value fits an annotation; anything this does not understand fits."""
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            names = {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)}
            listed = names & enums().keys()
            if isinstance(value, str) and listed:  # `SchedulerType | str` means one of the enum's values
                return any(value in enums()[name] for name in listed)
            return _accepts(value, left) or _accepts(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str(text)):
            return _accepts(value, ast.parse(text, mode="eval").body)
        case ast.Name(id="bool"):
            return isinstance(value, bool)
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id="float"):
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case ast.Name(id="str"):
            return isinstance(value, str)
        case ast.Name(id="dict") | ast.Subscript(value=ast.Name(id="dict")):
            return isinstance(value, dict)
        case ast.Subscript(value=ast.Name(id="list" | "tuple")):
            return isinstance(value, (list, tuple))
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return value is None or _accepts(value, inner)
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=options)):
            return any(_accepts(value, option) for option in options)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            options = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return value in [o.value for o in options if isinstance(o, ast.Constant)]
    return True


def problem(name: str, value: Any, annotation: ast.expr) -> str | None:
    """What is wrong with a field's value, as 'expected ...', or None."""
    if not _accepts(value, annotation):
        text = ast.unparse(annotation).replace("typing.", "")
        for enum, values in enums().items():
            if re.search(rf"\b{enum}\b", text):
                return f"expected one of {', '.join(values)}"
        example = f", for example [{value}]" if isinstance(value, str) and text.startswith("list[str]") else ""
        return f"expected {text}{example}"
    if name in _RANGES and isinstance(value, (int, float)) and not _RANGES[name][0](value):
        return f"expected {_RANGES[name][1]}"
    if name in _CHOICES and value not in _CHOICES[name]:
        return f"expected one of {', '.join(_CHOICES[name])}"
    return None


@lru_cache
def is_light(target: str) -> bool:
    """Whether the file of a target imports none of the packages that cost seconds, at its top level, and is of none of them."""
    definition = _find(target)
    if definition is None or target.partition(".")[0] in _HEAVY:
        return False
    imported: set[str] = set()
    for node in _tree(definition.file).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    return not imported & _HEAVY


@lru_cache
def methods_of(target: str) -> frozenset[str]:
    """The public method names of a class, inherited ones included: a data class's views are among them."""
    cls = _find(target)
    members = [member.node for above in (_lineage(cls) if cls else []) for member in _members(above)]
    return frozenset(n.name for n in members if isinstance(n, ast.FunctionDef) and not n.name.startswith("_"))
