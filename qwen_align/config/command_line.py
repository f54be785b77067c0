"""The words of a command line: Hydra's flags first, then overrides as Hydra reads them; ConfigError for what is mistyped.

`method = rloo`, `--method rloo` and `seed: 1` are told the word that does. A value with accents, `~` or `=` gets the quotes
that Hydra's grammar wants around it. Left out: whether an override's key exists (`overrides`).
"""

import re
import shlex

from qwen_align.config import groups, overrides
from qwen_align.errors import ConfigError, nearest

_LONG = {
    "-c": "--cfg",
    "-p": "--package",
    "-cp": "--config-path",
    "-cn": "--config-name",
    "-cd": "--config-dir",
    "-i": "--info",
}
_VALUES = {
    **{"--cfg": "job hydra all", "--info": "all config defaults defaults-tree plugins searchpath"},
    **dict.fromkeys(("--package", "--config-path", "--config-name", "--config-dir", "--experimental-rerun"), ""),
}
_FLAGS = "--help -h --hydra-help --version --resolve --run -r --multirun -m --shell-completion -sc".split()
# Hydra's grammar takes these unquoted (UNQUOTED_VALUE); brackets, quotes, commas and $ mean something to it.
_READABLE, _TEXT = r"[A-Za-z0-9_/\-+.%*@?|: \t]*", r"[^\[\]{}()\"'\\,$=][^\[\]{}()\"'\\,$]*"


def words(given: list[str]) -> list[str]:
    """Flags with their values as one word each, before the overrides: Hydra's parser wants those side by side."""
    flags: list[str] = []
    found: list[str] = []
    rest = list(given)
    while rest:
        word = rest.pop(0)
        flag, has_value, value = word.partition("=")
        flag = _LONG.get(flag, flag)
        if flag in _VALUES:
            choices = _VALUES[flag].split()
            if not has_value:
                optional = flag == "--info" and (not rest or rest[0] not in choices)
                value = "all" if optional else rest.pop(0) if rest else ""
            if not value or (choices and value not in choices):
                raise ConfigError(f"{word} {'' if has_value else value}".strip() + f": expected {_expected(flag)}")
            flags.append(f"{flag}={value}")
        elif word in _FLAGS:
            flags.append(word)
        elif word.startswith("-") or not re.match(r"[^=\s]+=", word) or (word.endswith("=") and rest and _is_bare(rest[0])):
            if not word.startswith("~"):
                raise _misspelled(word, rest)
            found.append(word)
        else:
            found += _option(word)
    return [*flags, *found]


def _expected(flag: str) -> str:
    return f"{flag} with one of {', '.join(_VALUES[flag].split())}" if _VALUES[flag] else f"a name after it: {flag} NAME"


def _is_bare(word: str) -> bool:
    return "=" not in word and not word.startswith(("-", "+", "~"))


def _misspelled(word: str, rest: list[str]) -> ConfigError:
    """The error for a word that is no override, with the one that is probably meant."""
    key, sign, value = re.fullmatch(r"-*([^=:\s]*)\s*([=:]?)\s*(.*)", word, re.DOTALL).groups()  # type: ignore[union-attr]
    path = [part.removesuffix(".yaml") for part in key.removeprefix("conf/").split("/")]
    if not sign and len(path) == 2 and path[0] in groups.names():
        key, value = path
    after = list(rest)
    typed = word
    while not value and after and (after[0].startswith("=") or _is_bare(after[0])):
        value = after[0].lstrip("=")
        typed += f" {after.pop(0)}"
    if key in ("plan", "force") and not value:
        value = "true"
    if key and value:
        try:
            overrides.checked(f"{key}={value}")
            return ConfigError(f"{typed}: expected {shlex.quote(f'{key}={value}')}, one word without dashes or blanks")
        except ConfigError as error:
            if not word.startswith("-"):
                return error
            return ConfigError(f"{typed}: no such flag; as an override it is key=value, and {error}")
    flags = [*_FLAGS, *_VALUES]
    near = nearest(word, flags) if word.startswith("-") else nearest(f"--{key}", flags)
    return ConfigError(f"{word or repr(word)}: expected key=value, a group=option, or a flag such as --help{near}")


def _option(word: str) -> list[str]:
    """An override as Hydra takes it: `adapter=null` is the option none, a text with accents is quoted."""
    key, _, value = word.partition("=")
    group = key.lstrip("+")
    if group in groups.names() and value.lower() in ("null", "none", ""):
        known = groups.options(group)
        if group in ("experiment", "sweep"):
            return []
        if value and "none" in known:
            return [f"{key}=none"]
        raise ConfigError(f"{word}: every run needs a {group}; expected one of {', '.join(known)}")
    if not re.fullmatch(_READABLE, value) and re.fullmatch(_TEXT, value):
        return [f'{key}="{value}"']
    return [word]


def unreadable(override: str) -> str:
    """The error for an override that Hydra can't parse, with the quoting that does."""
    key, _, value = override.lstrip("+").partition("=")
    if value.rstrip().endswith(","):
        return f"{key}={value}: ends with a comma; expected {key}={value.rstrip(' ,')}"
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    shown = shlex.quote(f'{key}="{quoted}"')
    pairs = [f"{a} without {b}" for a, b in ("[]", "{}", "()") if value.count(a) != value.count(b)]
    why = f"brackets don't match ({pairs[0]})" if pairs else "is no value that Hydra can read"
    return f"{key}={value}: {why}; a text is quoted inside the shell's quotes: {shown}"


def ambiguous(override: str) -> str:
    """The error for several values of one key in a command that is no sweep."""
    key, _, value = override.lstrip("+").partition("=")
    text = shlex.quote(f'{key}="{value}"')
    what = "one of them" if key in groups.names() else f"one of them, a list [{value}], or a text {text}"
    return f"{key}={value}: several values make a sweep; expected -m before it, or {what}"
