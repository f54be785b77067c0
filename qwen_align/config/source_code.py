"""Where a dotted name or FILE.py:NAME is defined, found in source text: nothing is imported to ask.

Importing TRL costs seconds; parsing the few files that are followed costs a tenth of one. A name is followed through
`from .x import Name` and the dicts of lazy modules (`_import_structure = {"x": ["Name"]}`), a class to its bases through the
imports of its file. Left out: names that exist only once code has run (`setattr`, `globals()`).
"""

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import ModuleSpec
from itertools import chain
from pathlib import Path

from qwen_align.errors import ConfigError, nearest

_HEAVY = {"torch", "transformers", "trl", "datasets", "peft", "accelerate", "evaluate"}


@dataclass(frozen=True)
class Definition:
    """Where a name is bound: its statement, or a module's tree, and the file that holds it."""

    node: ast.stmt | ast.Module
    file: Path


@lru_cache
def tree(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{file}: is no Python ({error})") from error


def names_in(file: Path) -> list[str]:
    """The functions and classes that a file defines at its top level, and what it assigns there, under `if` and `try` too."""
    body = list(_statements(tree(file).body))
    assigned = [t.id for n in body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
    return [*(n.name for n in body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))), *assigned]


def top_spec(target: str) -> ModuleSpec | None:
    """The spec of a dotted name's first part; find_spec of the whole would import the packages around it."""
    try:
        return importlib.util.find_spec(target.partition(".")[0])
    except (ImportError, ValueError):
        return None


def _python(base: Path, module: str) -> Path | None:
    path = base.joinpath(*module.split("."))
    return next((p for p in (path / "__init__.py", path.with_name(f"{path.name}.py")) if p.is_file()), None)


@lru_cache
def file_of(module: str) -> Path | None:
    """The file of a dotted module."""
    spec, rest = top_spec(module), module.partition(".")[2]
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    if not rest:
        return origin if origin.suffix == ".py" else None
    return _python(origin.parent, rest) if spec.submodule_search_locations else None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those under `if` and `try` included."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from _statements(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            yield from _statements(node.body + [n for h in node.handlers for n in h.body] + node.orelse)


def _imported_from(node: ast.ImportFrom, file: Path) -> Path | None:
    name = node.module or ""
    if not node.level:
        return file_of(name) or _python(file.parent, name)  # a user's file beside this one
    base = file.parents[node.level - 1]
    return _python(base, name) if name else base / "__init__.py"


def _lazy(node: ast.Assign, name: str, file: Path) -> Path | None:
    """The file that a lazy module's `_import_structure` names for an attribute."""
    if ast.unparse(node.targets[0]) != "_import_structure" or not isinstance(node.value, ast.Dict):
        return None
    names = [[ast.unparse(e)[1:-1] for e in v.elts] if isinstance(v, ast.List) else [] for v in node.value.values]
    module = next((key for key, own in zip(node.value.keys, names, strict=True) if name in own), None)
    return _python(file.parent, str(module.value)) if isinstance(module, ast.Constant) else None


def _bound(file: Path, name: str, seen: frozenset[tuple[Path, str]] = frozenset()) -> Definition | None:
    """Where a file gets a name from; that of an imported module is its whole source."""
    if (file, name) in seen:
        return None
    seen |= {(file, name)}
    for node in _statements(tree(file).body):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            return Definition(node, file)
        origin, there = None, name
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            there = next((a.name for a in node.names if (a.asname or a.name) in (name, "*")), "")
            if there and isinstance(node, ast.Import):
                return Definition(tree(origin), origin) if (origin := file_of(there)) else None
            if there and isinstance(node, ast.ImportFrom):
                origin = _imported_from(node, file)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if name in [target.id for target in targets if isinstance(target, ast.Name)]:
                return Definition(node, file)
            origin = _lazy(node, name, file) if isinstance(node, ast.Assign) else None
        if origin and (found := _bound(origin, name if there == "*" else there, seen)):
            return found
        if origin and origin.name == "__init__.py" and (module := _python(origin.parent, there)):
            return Definition(tree(module), module)
    outer, _, last = name.rpartition(".")
    module_of = _bound(file, outer, seen) if outer else None
    return _bound(module_of.file, last) if module_of and isinstance(module_of.node, ast.Module) else None


@lru_cache
def find(target: str) -> Definition | None:
    """The definition of `package.module.name`, `package.name`, `package.module.Class.name` or `FILE.py:NAME`."""
    if ".py:" in target:
        path, _, name = target.rpartition(":")
        return _bound(Path(path), name) if Path(path).is_file() else None
    outer, _, name = target.rpartition(".")
    if not outer:
        return None
    if file := file_of(outer):
        return _bound(file, name)
    return next((member for member in members(outer) if getattr(member.node, "name", None) == name), None)


def _members(cls: Definition | None) -> list[Definition]:
    if cls is None or not isinstance(cls.node, ast.ClassDef):
        return []
    bases = [ast.unparse(base.value if isinstance(base, ast.Subscript) else base) for base in cls.node.bases]
    inherited = [member for base in bases for member in _members(_bound(cls.file, base))]
    return [*inherited, *(Definition(node, cls.file) for node in cls.node.body)]


def members(target: str) -> list[Definition]:
    """The statements in a class's body, after those that it inherits, as far as their source is there."""
    return _members(find(target))


def defines(target: str) -> bool:
    """Whether a dotted name or FILE.py:NAME exists, as far as source text can tell; True for modules without any."""
    spec = None if ".py:" in target else top_spec(target)
    return bool(spec and not str(spec.origin).endswith(".py")) or find(target) is not None


def nearest_name(target: str) -> str:
    """' (did you mean ...?)' with the closest name that the source of a target's module has, or nothing."""
    module, _, name = target.rpartition(".")
    file = file_of(module) if module else None
    return nearest(name, set(re.findall(r"[A-Za-z_]\w+", file.read_text(encoding="utf-8")))) if file else ""


@lru_cache
def compared_with(target: str, name: str) -> tuple[str, ...]:
    """The texts that the trainer beside a config class (x_trainer.py of x_config.py) compares a variable or attribute with."""
    config = find(target)
    file = config.file.with_name(config.file.name.replace("_config", "_trainer")) if config else None
    if file is None or not file.is_file():
        return ()
    compared = re.findall(rf"\b{name} (?:==|!=|in|not in) (\"\w+\"|[\[({{][^\])}}]*)", file.read_text(encoding="utf-8"))
    return tuple(dict.fromkeys(re.findall(r"\"(\w+)\"", " ".join(compared))))


@lru_cache
def is_light(target: str) -> bool:
    """Whether the file of a target imports none of the packages that cost seconds, at its top level, and is of none of them."""
    if (definition := find(target)) is None or target.partition(".")[0] in _HEAVY:
        return False
    imports = [node for node in tree(definition.file).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = [[a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""] for node in imports]
    return _HEAVY.isdisjoint(name.partition(".")[0] for name in chain.from_iterable(names))


@lru_cache
def methods_of(target: str) -> frozenset[str]:
    """The public method names of a class, inherited ones included: a data class's views are among them."""
    nodes = [member.node for member in members(target)]
    return frozenset(n.name for n in nodes if isinstance(n, ast.FunctionDef) and not n.name.startswith("_"))
