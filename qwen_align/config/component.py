"""What a `_target_` names: a dotted path, or `FILE.py:NAME` for a function or a class of the user's own.

A file is looked for where the command was typed and in the folders of --config-dir; the parent writes its absolute path into
the config, so that a stage finds it from anywhere. What it holds is code that the user asked for by name; nothing else is run.
"""

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qwen_align.config import groups, source_code
from qwen_align.errors import ConfigError, nearest
from qwen_align.verifier import Verifier

_VERIFIERS = Path(inspect.getfile(Verifier)).parent


def is_file(target: str) -> bool:
    return ".py:" in target


def absolute(key: str, target: str) -> str:
    """The target with the absolute path of its file, any other as it is; ConfigError without such a file or name in it."""
    if not is_file(target):
        return target
    name, _, attribute = target.rpartition(":")
    places = [Path.cwd(), *groups.extra]
    found = next((p for place in places if (p := place / Path(name).expanduser()).is_file()), None)
    if found is None:
        if (place := name.rstrip(":")) != name and Path(place).is_file():
            raise ConfigError(f"{key}={target}: expected one colon: {place}:{attribute}")
        raise ConfigError(f"{key}={target}: no such file in {', '.join(map(str, places))}")
    known = source_code.names_in(found)
    if attribute not in known:
        near, there = nearest(attribute, known), ", ".join(known) or "nothing"
        raise ConfigError(f"{key}={target}: the file has no {attribute}{near}; it has {there}")
    return f"{found.resolve()}:{attribute}"


def settle(job: DictConfig) -> None:
    """Put absolute paths in place of every FILE.py:NAME of a composed job; ConfigError for one that is not there."""
    for key, value in groups.flatten(OmegaConf.to_container(job, resolve=False)):  # type: ignore[arg-type]
        name = key.rpartition(".")[2]
        if isinstance(value, str) and is_file(value) and name in ("_target_", "verifier"):
            OmegaConf.update(job, key, absolute(key, value))
        elif isinstance(value, list) and name in ("checks", "health"):
            OmegaConf.update(job, key, [absolute(key, rule) for rule in value])


@lru_cache
def _module(path: str) -> ModuleType:
    """A file as a module; what lies beside it can be imported from it."""
    spec = importlib.util.spec_from_file_location(f"user_{hashlib.sha256(path.encode()).hexdigest()[:8]}", path)
    assert spec and spec.loader, "the path ends with .py"
    module = importlib.util.module_from_spec(spec)
    if (folder := str(Path(path).parent)) not in sys.path:
        sys.path.append(folder)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up
    spec.loader.exec_module(module)
    return module


def _imported(path: str) -> Any:
    """A module, or a class in one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        outer, _, name = path.rpartition(".")
        if not outer or error.name != path or not hasattr(owner := _imported(outer), name):
            raise
        return getattr(owner, name)


def locate(target: str, key: str = "_target_") -> Any:
    """What a target names; ConfigError if it can't be imported, or has no such name."""
    where, _, name = absolute(key, target).rpartition(":" if is_file(target) else ".")
    if not where or not name:
        raise ConfigError(f"{key}={target}: expected a dotted path such as package.module.name, or FILE.py:NAME")
    try:
        owner = _module(where) if is_file(target) else _imported(where)
        if hasattr(owner, name):
            return getattr(owner, name)
    except Exception as error:  # whatever the module does
        raise ConfigError(f"{key}={target}: cannot be imported ({type(error).__name__}: {error})") from error
    raise ConfigError(f"{key}={target}: {where} has no {name}{nearest(name, dir(owner))}")


def settings(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node without its `_target_`."""
    return {key: value for key, value in node.items() if key != "_target_"}


def construct(node: Mapping[str, Any], key: str = "_target_") -> Any:
    """A component from its node, nodes inside as plain data; ConfigError for a wrong target or settings, or what it raises."""
    target, given = node["_target_"], settings(node)
    kind = locate(target, key if key == "_target_" else f"{key}._target_")
    check_arguments(key, target, kind, given)
    try:
        return kind(**given)
    except Exception as error:
        if isinstance(error, ConfigError) or target.startswith("qwen_align."):
            raise
        raise ConfigError(f"{key}: {target} raised {type(error).__name__}: {error}") from error


def check_arguments(key: str, target: str, kind: Callable[..., Any], given: Mapping[str, Any], some: bool = False) -> None:
    """Raise ConfigError unless a callable takes these keyword arguments; `some`: others will follow."""
    try:
        signature = inspect.signature(kind)
    except ValueError:  # a builtin without a signature
        return
    try:
        (signature.bind_partial if some else signature.bind)(**given)
    except TypeError as error:
        unknown = next((name for name in given if name not in signature.parameters), "")
        near = nearest(unknown, signature.parameters)
        raise ConfigError(f"{key}: {target} does not take these settings ({error}){near}") from error


def verifier(spec: str | Mapping[str, Any] | None, key: str = "data.verifier") -> Verifier | None:
    """The verifier that a config names: one of qwen_align/verifier/ by its name, a dotted path, FILE.py:NAME, or a node."""
    if spec is None:
        return None
    node: Mapping[str, Any] = {"_target_": spec} if isinstance(spec, str) else spec
    target, given = node.get("_target_"), settings(node)
    if not isinstance(target, str):
        raise ConfigError(f"{key}={dict(node)}: expected a name, FILE.py:NAME, or a node with _target_")
    if "." in target:
        judge = locate(target, key)
        if given or inspect.isclass(judge):
            judge = construct(node, key)
    elif not _judges(_VERIFIERS / f"{target}.py"):
        known = verifiers()
        raise ConfigError(f"{key}={target}: expected null, {', '.join(known)} or FILE.py:NAME{nearest(target, known)}")
    else:
        judge = importlib.import_module(f"{Verifier.__module__}.{target}")
        if build := getattr(judge, "build", None):
            check_arguments(key, target, build, given)
            try:
                judge = build(**given)
            except ValueError as error:
                raise ConfigError(f"{key}.{error}") from error
        elif given:
            raise ConfigError(f"{key}={target}: takes no settings; got {', '.join(given)}")
    try:
        return Verifier(judge, re.split("[.:]", target)[-1])
    except ValueError as error:
        raise ConfigError(f"{key}={error}") from error


def _judges(path: Path) -> bool:
    return path.is_file() and not {"verify", "build"}.isdisjoint(source_code.names_in(path))


def verifiers() -> list[str]:
    """The verifiers that are there by name: modules of their room with a `verify` or a `build`."""
    return sorted(path.stem for path in _VERIFIERS.glob("[a-z]*.py") if _judges(path))


def code_hash(target: str) -> str | None:
    """A hash of the user's file behind a target, so that changed code is another stage; None for installed packages."""
    if is_file(target):
        return hashlib.sha256(Path(target.rpartition(":")[0]).read_bytes()).hexdigest()
    spec = source_code.top_spec(target)
    origin = Path(spec.origin if spec and spec.origin else "")
    if not origin.is_file() or target.startswith("qwen_align.") or {"site-packages", "dist-packages"} & set(origin.parts):
        return None
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
