"""conf/ as files: which groups there are, which options each has, and which keys an option knows. No Hydra here.

A checkout has conf/ beside the package, a wheel carries it inside. Folders given with --config-dir come after it. A reward
needs no file: `reward=package.function` and `reward=FILE.py:NAME` are options too, a node of that target with nothing set.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from qwen_align.errors import ConfigError

_PACKAGE = Path(__file__).parent.parent
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
extra: list[Path] = []  # --config-dir
LAYER: dict[str, Any] = {"name": None, "weight": 1.0, "clip": None}  # of every reward: the layer's, not the callable's


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as OmegaConf reads it: 1e-5 is a number, though YAML 1.1 calls it text."""


_SCIENTIFIC = re.compile(r"[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _SCIENTIFIC, list("-+0123456789"))


def names() -> list[str]:
    """The groups, in alphabetical order; bench/ holds the speed suites of another program."""
    found = {p.name for folder in (CONF, *extra) if folder.is_dir() for p in folder.iterdir() if p.is_dir()}
    return sorted(found - {"hydra", "bench"})


def options(group: str) -> list[str]:
    """The options of a group that are files, in alphabetical order."""
    return sorted({p.stem for folder in (CONF, *extra) for p in (folder / group).glob("*.yaml")})


def is_target(group: str, option: str) -> bool:
    """Whether an option is no file but the target itself: package.function or FILE.py:NAME."""
    named = ".py:" in option or re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", option)
    return group == "reward" and bool(named) and option not in options(group)


def stands_apart(group: str, option: str) -> bool:
    """Whether an option is a file of ours that brings no option of another group, so that it can be put in another's place."""
    return group in ("method", "adapter", "reward") and (CONF / group / f"{option}.yaml").is_file()


@lru_cache
def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds {type(content).__name__}; expected keys with values")
    return content


def read(group: str | None, option: str) -> dict[str, Any]:
    """One option as plain data, options of the same group that it builds on included; {} where there is none."""
    if group and is_target(group, option):
        return {"_target_": option, **LAYER}
    path = next((p for f in (CONF, *extra) if (p := f / (group or "") / f"{option}.yaml").is_file()), None)
    if path is None:
        return {}
    content = dict(_load(path))
    for entry in reversed(content.pop("defaults", []) if group else []):
        if isinstance(entry, str) and entry != "_self_":
            content = merged(read(group, (Path(option).parent / entry).as_posix().removeprefix(f"/{group}/")), content)
    return LAYER | content if group == "reward" and option != "several" else content


def defaults(path: Path) -> list[Any]:
    """The defaults list of an option's file."""
    return _load(path).get("defaults") or []


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two trees as one; where both have a value, that of `above`."""
    both = {k: merged(below[k], v) for k, v in above.items() if isinstance(v, dict) and isinstance(below.get(k), dict)}
    return below | above | both


def flatten(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) for every node of a tree, inner ones first and included."""
    for key, value in node.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")


def top_level() -> dict[str, Any]:
    """config.yaml's own keys."""
    return {key: value for key, value in _load(CONF / "config.yaml").items() if key not in ("defaults", "hydra")}
