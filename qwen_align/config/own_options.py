"""The user's own YAMLs, those of --config-dir that a command names, before Hydra composes them: its errors name no cure.

Left out: files that these build on through `defaults`; what is wrong there is told by Hydra.
"""

import re
from pathlib import Path

from qwen_align.config import groups
from qwen_align.errors import ConfigError, nearest


def check(overrides: list[str]) -> None:
    """Raise ConfigError for a named option whose file can't work."""
    for text in overrides:
        group, _, value = text.lstrip("+~").partition("=")
        for option in value.split(",") if group in groups.names() else ():
            for folder in groups.extra:
                if (path := folder / group / f"{option}.yaml").is_file():
                    _check_file(path, group, option)


def _check_file(path: Path, group: str, option: str) -> None:
    content = groups.read(group, option)
    if group not in ("experiment", "sweep"):
        if not isinstance(content.get("_target_"), str):
            raise ConfigError(
                f"{group}={option}: {path} has no _target_; expected _target_: package.function in its first line"
            )
        return
    if not re.match(r"(\s*#[^\n]*\n)*?\s*#\s*@package\s+_global_", path.read_text(encoding="utf-8")):
        raise ConfigError(f"{group}={option}: {path} has no package; expected # @package _global_ as its first line")
    for entry in groups.defaults(path):
        for key, chosen in entry.items() if isinstance(entry, dict) else ():
            named = key.removeprefix("override ").strip().lstrip("/")
            if named.startswith("hydra/") or "@" in named:
                continue
            if named not in groups.names():
                raise ConfigError(f"{group}={option}: {path}: no group {named}{nearest(named, groups.names())}")
            known = groups.options(named)
            is_there = not isinstance(chosen, str) or chosen in known or groups.is_target(named, chosen) or "$" in chosen
            if not is_there:
                raise ConfigError(f"{named}={chosen}: {path}: expected one of {', '.join(known)}{nearest(chosen, known)}")
            if not key.startswith("override ") and named not in ("experiment", "sweep"):
                raise ConfigError(f"{group}={option}: {path}: {key} is chosen already; expected - override /{named}: {chosen}")
    for key, value in content.items():
        if key in groups.names() and not isinstance(value, dict):
            cure = f"defaults: [override /{key}: {value}]"
            raise ConfigError(f"{group}={option}: {path}: {key}={value} under its keys is no choice; expected {cure}")
