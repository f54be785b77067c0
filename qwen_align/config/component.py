"""What a `_target_` names: a dotted path, or `FILE.py:NAME` for a function or a class of the user's own.

A file is looked for where the command was typed and in the folders of --config-dir; the parent writes its absolute path into
the config, so that a stage finds it from anywhere. What it holds is code that the user asked for by name; nothing else is run.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qwen_align.config import groups
from qwen_align.errors import ConfigError, nearest
from qwen_align.verifier import Verifier

_VERIFIERS = "qwen_align.verifier"


def is_file(target: str) -> bool:
    """Whether a target names something in a file: FILE.py:NAME."""
    return ".py:" in target


def absolute(key: str, target: str) -> str:
    """The target with the absolute path of its file; any other target as it is.

    Raises:
        ConfigError: there is no such file, or it has no such name.
    """
    if not is_file(target):
        return target
    name, _, attribute = target.rpartition(":")
    places = [Path.cwd(), *groups.extra]
    found = next((p for place in places if (p := place / Path(name).expanduser()).is_file()), None)
    if found is None:
        raise ConfigError(f"{key}={target}: no such file in {', '.join(map(str, places))}")
    known = names_in(str(found))
    if attribute not in known:
        raise ConfigError(
            f"{key}={target}: the file has no {attribute}{nearest(attribute, known)}; it has {', '.join(known) or 'nothing'}"
        )
    return f"{found.resolve()}:{attribute}"


def settle(job: DictConfig) -> None:
    """Put absolute paths in place of every FILE.py:NAME of a composed job; ConfigError for one that is not there."""
    for key, value in list(groups.flatten(OmegaConf.to_container(job, resolve=False))):  # type: ignore[arg-type]
        if isinstance(value, str) and is_file(value) and key.rpartition(".")[2] in ("_target_", "verifier"):
            OmegaConf.update(job, key, absolute(key, value))


@lru_cache
def names_in(path: str) -> tuple[str, ...]:
    """The functions and classes that a file defines at its top level, read from its text.

    Raises:
        ConfigError: it is no Python.
    """
    try:
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{path}: is no Python ({error})") from error
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    assigned = [t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
    return (*(n.name for n in tree.body if isinstance(n, kinds)), *assigned)


@lru_cache
def _module(path: str) -> ModuleType:
    """A file as a module; what lies beside it can be imported from it."""
    spec = importlib.util.spec_from_file_location(
        f"qwen_align_file_{hashlib.sha256(path.encode()).hexdigest()[:8]}", path
    )
    assert spec and spec.loader, "the path ends with .py"
    module = importlib.util.module_from_spec(spec)
    if (folder := str(Path(path).parent)) not in sys.path:
        sys.path.append(folder)
    spec.loader.exec_module(module)
    return module


def locate(target: str, key: str = "_target_") -> Any:
    """What a target names.

    Raises:
        ConfigError: it can't be imported, or has no such name.
    """
    where, _, name = absolute(key, target).rpartition(":" if is_file(target) else ".")
    if not where or not name:
        raise ConfigError(f"{key}={target}: expected a dotted path such as package.module.name, or FILE.py:NAME")
    try:
        found: Any = _module(where) if is_file(target) else _imported(where)
    except Exception as error:  # whatever the module does
        raise ConfigError(f"{key}={target}: cannot be imported ({type(error).__name__}: {error})") from error
    if not hasattr(found, name):
        raise ConfigError(f"{key}={target}: {where} has no {name}{nearest(name, dir(found))}")
    return getattr(found, name)


def _imported(path: str) -> Any:
    """A module, or a class in one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        outer, _, name = path.rpartition(".")
        if not outer or error.name != path:
            raise
        return getattr(_imported(outer), name)


def settings(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node without its `_target_`."""
    return {key: value for key, value in node.items() if key != "_target_"}


def construct(node: Mapping[str, Any], key: str = "_target_") -> Any:
    """A component from its node; its nodes inside stay plain data.

    Raises:
        ConfigError: a target that is not there, or arguments that it doesn't take.
    """
    kind = locate(node["_target_"], f"{key}._target_" if key != "_target_" else key)
    given = settings(node)
    check_arguments(key, node["_target_"], kind, given)
    return kind(**given)


def check_arguments(key: str, target: str, kind: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a callable takes these keyword arguments."""
    try:
        inspect.signature(kind).bind(**given)
    except TypeError as error:
        raise ConfigError(f"{key}: {target} does not take these settings ({error})") from error
    except ValueError:  # a builtin without a signature
        return


def verifier(spec: str | Mapping[str, Any] | None, key: str = "data.verifier") -> Verifier | None:
    """The verifier that a config names: one of qwen_align/verifier/ by its name, a dotted path, FILE.py:NAME, or a node.

    Raises:
        ConfigError: there is none, or it does not take its settings.
    """
    if spec is None:
        return None
    node: Mapping[str, Any] = {"_target_": spec} if isinstance(spec, str) else spec
    target, given = node.get("_target_"), settings(node)
    if not isinstance(target, str):
        raise ConfigError(f"{key}={dict(node)}: expected a name, FILE.py:NAME, or a node with _target_")
    if "." in target:
        found = locate(target, key)
        name = target.replace(":", ".").rpartition(".")[2]
        if given or inspect.isclass(found):
            found = construct(node, key)
        return Verifier(found, name)
    if importlib.util.find_spec(f"{_VERIFIERS}.{target}") is None:
        known = verifiers()
        raise ConfigError(f"{key}={target}: expected null, {', '.join(known)} or FILE.py:NAME{nearest(target, known)}")
    module = importlib.import_module(f"{_VERIFIERS}.{target}")
    if hasattr(module, "build"):
        check_arguments(key, target, module.build, given)
        return Verifier(module.build(**given), target)
    if given or not hasattr(module, "verify"):
        raise ConfigError(f"{key}={target}: {'takes no settings' if hasattr(module, 'verify') else 'is no verifier'}")
    return Verifier(module, target)


def verifiers() -> list[str]:
    """The verifiers that are there by name: modules of their room with a `verify` or a `build`."""
    folder = Path(str(importlib.import_module(_VERIFIERS).__file__)).parent
    return sorted(p.stem for p in folder.glob("[a-z]*.py") if {"verify", "build"} & set(names_in(str(p))))


def code_hash(target: str) -> str | None:
    """A hash of the user's file behind a target, so that changed code is another stage; None for installed packages."""
    if is_file(target):
        return hashlib.sha256(Path(target.rpartition(":")[0]).read_bytes()).hexdigest()
    top = target.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    origin = Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None
    if origin is None or top == "qwen_align" or {"site-packages", "dist-packages"} & set(origin.parts):
        return None
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
