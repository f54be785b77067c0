"""One override of the command line: is it a group, an option or a key that exists, and what does Hydra want to see for it?

A misspelled override is an error before Hydra composes, with the nearest right one; a blind `+` is refused with it. Which
settings a reward has depends on the chosen one, so keys under `reward` are left to `check.composed`, which knows the choice.
"""

import re
from collections.abc import Iterable
from typing import Any

from qwen_align.config import groups, renamed, schema
from qwen_align.errors import ConfigError, nearest


def _options(value: str) -> list[str]:
    """The options in a group's value: one, a sweep `a,b` or `choice(a,b)`, a list `[a,b]`."""
    named = re.sub(r"^choice\((.*)\)$", r"\1", value)
    return [option.strip(" '\"") for option in re.split(r"[,\[\]]", named) if option.strip()]


def targets(overrides: list[str]) -> list[str]:
    """The rewards that are named by a target instead of an option: Hydra has to be told of these."""
    values = [value for key, _, value in (o.partition("=") for o in overrides) if re.fullmatch(r"\+*reward(@.+)?", key)]
    return [option for value in values for option in _options(value) if groups.is_target("reward", option)]


def expanded(overrides: list[str]) -> list[str]:
    """The overrides as Hydra composes them: `reward=[a,b]` as several rewards, `reward._target_=X` as the option X.

    Another target is another reward, which the settings of the option that it replaces don't belong to. With `reward=OPTION`
    typed beside it, the option's settings stay. ConfigError for a list of another group, or one name twice.
    """
    found: list[str] = []
    chosen = any(override.startswith("reward=") for override in overrides)
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "reward._target_" and not chosen:
            override = f"reward={value}"
        found += _several(override, key, value) if key in groups.names() and "[" in value else [override]
    return found


def _several(override: str, key: str, value: str) -> list[str]:
    if key != "reward" or not re.fullmatch(r"\s*\[[^\[\]]+\]\s*", value):
        raise ConfigError(f"{override}: expected one option, a sweep like a,b, or for rewards a list like reward=[a,b]")
    chosen: dict[str, str] = {}
    for option in _options(value):
        name = re.split("[.:]", option)[-1] if groups.is_target(key, option) else option
        if name in chosen:
            raise ConfigError(f"{override}: {name} is there twice; a second one under a name: +reward@reward.NAME={option}")
        chosen[name] = option
    return ["reward=several", *(f"+reward@reward.{name}={option}" for name, option in chosen.items())]


def checked(override: str) -> str:
    """One override, with the ++ that Hydra wants for a TRL or PEFT field; ConfigError for what is unknown, with the nearest."""
    match = re.match(r"(?P<plus>[+~]{0,2})(?P<key>[\w./@:-]+)(?P<rest>=.*)?$", override, re.DOTALL)
    if override.startswith("-") or not match or match["key"].startswith("hydra"):
        return override
    key, rest = match["key"], match["rest"] or ""
    if not rest and not match["plus"]:
        raise ConfigError(f"{override}: expected key=value, a group=option, or a flag such as --help")
    if (group := key.partition("@")[0]) in groups.names():
        _check_options(override, group, rest[1:])
        return override
    added = override if override.startswith("~") else f"++{override.lstrip('+')}"  # a key that may be new to Hydra
    if field := re.fullmatch(r"(?:method|stages\.(?P<stage>\w+))\.(?P<name>.+)", key):
        is_new = _check_method(f"{key}{rest}", field["stage"], field["name"])
        return added if is_new or field["stage"] or rest.startswith("={") else override
    if key.startswith("reward.") or (key.startswith("adapter.") and key.split(".")[1] in _adapter_fields()):
        return added
    known = _known_keys()
    if known.get(key.rpartition(".")[0]) == {}:  # below a node of free form, such as data.columns
        return added
    if key not in known:
        names = [*known, *groups.names(), *(f"adapter.{name}" for name in _adapter_fields())]
        near = _moved(key) or nearest(key, names) or nearest(key.rpartition(".")[2], names)
        raise ConfigError(f"{key}{rest}: no such key{near}")
    return override


def _check_options(override: str, group: str, value: str) -> None:
    known = groups.options(group)
    if override.startswith("~") and group != "experiment":
        raise ConfigError(f"{override}: every run needs a {group}; expected one of {', '.join(known)}")
    for option in _options(value):
        special = re.search(r"[(){}$]", option)  # an interpolation, glob(...)
        if not special and option not in [*known, "null"] and not groups.is_target(group, option):
            files = ", package.function or FILE.py:NAME" if group == "reward" else ""
            raise ConfigError(f"{group}={option}: expected one of {', '.join(known)}{files}{nearest(option, known)}")


def _check_method(shown: str, stage: str | None, name: str) -> bool:
    """Whether a key of a method may be new to Hydra; ConfigError where there is no such key."""
    known = groups.options("method")
    if stage and stage not in known:
        raise ConfigError(f"{shown.partition('=')[0]}: no method {stage}{nearest(stage, known)}")
    nodes = [groups.read("method", method) for method in ([stage] if stage else known)]
    head, _, field = name.partition(".")
    if head == "args" and field:
        field = field.partition(".")[0]
        classes = [node["args"]["_target_"] for node in nodes if "args" in node]
        fields = {name for target in classes for name in schema.fields(target)}
        if field not in fields:
            near = _moved(field, f"{shown.partition('.args.')[0]}.args", fields) or nearest(field, fields)
            raise ConfigError(f"{shown}: {', '.join(classes) or f'method={stage}'} has no {field}{near}")
        return True
    keys = {key: value for node in nodes for key, value in groups.flatten(node)}
    parts = name.split(".")
    if any(keys.get(".".join(parts[:n])) == {} for n in range(1, len(parts))):  # below a node of free form, such as rows
        return True
    if name not in keys:
        raise ConfigError(f"{shown}: no such key{_moved(name) or nearest(name, keys)}")
    return False


def _moved(key: str, args: str = "method.args", fields: Iterable[str] = ()) -> str:
    """'; set method.args.learning_rate': where a field that stands elsewhere belongs, or what an old name is called now."""
    methods = [groups.read("method", option) for option in groups.options("method")]
    trained = fields or {name for node in methods for name in schema.fields(node.get("args", {}).get("_target_", ""))}
    places = {name: f"adapter.{name}" for name in _adapter_fields()} | {name: f"{args}.{name}" for name in trained}
    return f"; set {places[key]}" if key in places else renamed.hint(key.rpartition(".")[2], places)


def _adapter_fields() -> set[str]:
    nodes = [groups.read("adapter", option) for option in groups.options("adapter")]
    return {name for node in nodes for name in schema.fields(node["_target_"])}


def _known_keys() -> dict[str, Any]:
    """Every key that some choice of options accepts, and its default; TRL's and PEFT's fields are kept apart."""
    named = [name for name in groups.names() if name != "experiment"]
    nodes = [groups.top_level(), *({name: groups.read(name, option)} for name in named for option in groups.options(name))]
    return {key: value for node in nodes for key, value in groups.flatten(node)}


def owners(key: str) -> str:
    """'; data=countdown has it': the options of a key's group that have it, or nothing."""
    group = key.partition(".")[0]
    having = [option for option in groups.options(group) if key in dict(groups.flatten({group: groups.read(group, option)}))]
    named = " and ".join(f"{group}={option}" for option in having)
    return f"; {named} {'has' if len(having) == 1 else 'have'} it" if having else ""


def misplaced(key: str) -> str:
    """The error for a key that the chosen option of its group lacks."""
    return f"{key}: not a key of the option that is chosen here{renamed.hint(key.rpartition('.')[2], {}) or owners(key)}"
