"""One word of the command line: is it a group, an option or a key that exists, and what does Hydra want to see for it?

A misspelled word is an error before Hydra composes, with the nearest right one; blind `+` is refused with it.
"""

import re

from qwen_align.config import groups, schema
from qwen_align.errors import ConfigError, nearest

_RENAMED = {  # names that people know from older releases and from papers
    "kl_coef": "beta", "init_kl_coef": "beta", "rloo_k": "num_generations", "cliprange": "epsilon",
    "num_ppo_epochs": "num_iterations", "response_length": "max_completion_length", "max_seq_length": "max_length",
    "max_new_tokens": "max_completion_length", "warmup_ratio": "warmup_steps", "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu", "lr": "learning_rate", "batch_size": "per_device_train_batch_size", "epochs": "num_train_epochs",
    "group_by_length": "train_sampling_strategy", "k": "num_generations", "grad_accum": "gradient_accumulation_steps",
}  # fmt: skip


def _args_targets() -> dict[str, str]:
    """method -> the TRL config class of its args."""
    found = {name: groups.read("method", name).get("args", {}).get("_target_") for name in groups.options("method")}
    return {name: target for name, target in found.items() if target}


def _known_keys() -> set[str]:
    """Every key that some choice of options accepts; TRL's and PEFT's fields are kept apart."""
    known = {key for key, _ in groups.flatten(groups.top_level())}
    for group in groups.names():
        if group == "experiment":
            continue
        for option in groups.options(group):
            known |= {key for key, _ in groups.flatten(groups.read(group, option), f"{group}.")}
    return known


def expanded(words: list[str]) -> list[str]:
    """The words with `reward=[a,b]` as Hydra composes it: several rewards, each a node of its own name.

    Raises:
        ConfigError: a list where Hydra could only merge its options into one, or one name twice.
    """
    found: list[str] = []
    for word in words:
        key, _, value = word.partition("=")
        if key not in groups.names() or "[" not in value:
            found.append(word)
            continue
        names = re.findall(r"[^,\[\]\s]+", value)
        if key != "reward" or not re.fullmatch(r"\s*\[[^\[\]]+\]\s*", value):
            raise ConfigError(f"{word}: expected one option, a sweep like a,b, or for rewards a list like reward=[a,b]")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"{word}: {twice} is there twice; a second one under a name: +reward@reward.NAME={twice}")
        found += ["reward=several", *(f"+reward@reward.{name}={name}" for name in names)]
    return found


def checked(token: str) -> str:
    """One command-line word, checked; a known TRL or PEFT field gets the ++ that Hydra wants for it.

    Raises:
        ConfigError: an unknown group, option or key, with the nearest right one.
    """
    match = re.match(r"(?P<plus>[+~]{0,2})(?P<key>[\w./@:-]+)(?P<rest>=.*)?$", token, re.DOTALL)
    if token.startswith("-") or not match or match["key"].startswith("hydra"):
        return token
    key, rest = match["key"], match["rest"]
    group = key.partition("@")[0]
    if group in groups.names():
        if token.startswith("~") and group != "experiment":
            raise ConfigError(f"{token}: every run needs a {group}; expected one of {', '.join(groups.options(group))}")
        for option in re.findall(r"[^,\[\]\s]+", (rest or "")[1:]):
            if not re.search(r"[(){}'\"$]", option) and option not in [*groups.options(group), "null"]:
                raise ConfigError(
                    f"{group}={option}: expected one of {', '.join(groups.options(group))}"
                    f"{nearest(option, groups.options(group))}"
                )
        return token
    if rest is None and "=" not in token and not match["plus"]:
        raise ConfigError(f"{token}: expected key=value, a group=option, or a flag such as --help")
    if field := re.fullmatch(r"(method|stages\.(?P<stage>\w+))\.(?P<name>.+)", key):
        return _method_override(token, key, rest or "", field["stage"], field["name"])
    if key.startswith("adapter.") and (name := key.split(".")[1]) in schema.fields("peft.LoraConfig"):
        return f"++adapter.{name}{rest}"
    part = re.fullmatch(
        r"reward\.(\w+)\.([\w.]+)", key
    )  # one of several rewards, under a name that the user may have chosen
    if part and part[2] in {
        k for option in groups.options("reward") for k, _ in groups.flatten(groups.read("reward", option))
    }:
        return token
    known = _known_keys() | {f"adapter.{name}" for name in schema.fields("peft.LoraConfig")}
    if key not in known:
        near = nearest(key, known | set(groups.names())) or nearest(key.rpartition(".")[2], known)
        raise ConfigError(f"{key}{rest or ''}: no such key{near}")
    return token


def _method_override(token: str, key: str, rest: str, stage: str | None, name: str) -> str:
    targets = _args_targets()
    if stage and stage not in groups.options("method"):
        raise ConfigError(f"{key}: no method {stage}{nearest(stage, groups.options('method'))}")
    methods = [stage] if stage else groups.options("method")
    head, _, field = name.partition(".")
    if head == "args" and field:
        field = field.split(".")[0]
        fields = {f for m in methods if m in targets for f in schema.fields(targets[m])}
        if field not in fields:
            hint = f" (did you mean {_RENAMED[field]}?)" if _RENAMED.get(field) in fields else nearest(field, fields)
            raise ConfigError(
                f"{key}{rest}: {', '.join(targets[m] for m in methods if m in targets)} has no {field}{hint}"
            )
        return token if token.startswith("~") else f"++{token.lstrip('+')}"
    known = {k for m in methods for k, _ in groups.flatten(groups.read("method", m))}
    if name not in known:
        raise ConfigError(f"{key}{rest}: no such key{nearest(name, known)}")
    return f"++{token.lstrip('+')}" if stage or rest.startswith("={") else token  # a node's new keys are new to Hydra


def misplaced(key: str) -> str:
    """What to say of a key that the chosen option of its group lacks."""
    group = key.partition(".")[0]
    having = [
        option
        for option in (groups.options(group) if group in groups.names() else [])
        if key in {name for name, _ in groups.flatten(groups.read(group, option), f"{group}.")}
    ]
    which = (
        f"; {' and '.join(f'{group}={option}' for option in having)} {'has' if len(having) == 1 else 'have'} it"
        if having
        else ""
    )
    return f"{key}: not a key of the option that is chosen here{which}"
