"""conf/ as files: which groups there are, which options each has, and which keys an option knows. No Hydra here.

A checkout has conf/ beside the package, a wheel carries it inside. Folders given with --config-dir come after it.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).parent.parent
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"
extra: list[Path] = []  # --config-dir


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as OmegaConf reads it: 1e-5 is a number, though YAML 1.1 calls it text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _folders() -> list[Path]:
    return [CONF, *extra]


def names() -> list[str]:
    """The groups, in alphabetical order; bench/ holds the speed suites of another program."""
    found = {p.name for folder in _folders() if folder.is_dir() for p in folder.iterdir() if p.is_dir()}
    return sorted(found - {"hydra", "bench"})


def options(group: str) -> list[str]:
    """The options of a group, in alphabetical order."""
    return sorted({p.stem for folder in _folders() for p in (folder / group).glob("*.yaml")})


@lru_cache
def _read(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader) or {}


def read(group: str | None, option: str) -> dict[str, Any]:
    """One option's YAML as plain data, options of the same group that it builds on included; {} where there is none."""
    path = next((p for f in _folders() if (p := f / (group or "") / f"{option}.yaml").is_file()), None)
    if path is None:
        return {}
    content = dict(_read(path))
    for entry in content.pop("defaults", []) if group else []:
        if isinstance(entry, str) and entry != "_self_":
            content = merged(read(group, entry.rpartition("/")[2]), content)
    return content


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
    content = dict(_read(CONF / "config.yaml"))
    content.pop("defaults", None)
    content.pop("hydra", None)
    return content
