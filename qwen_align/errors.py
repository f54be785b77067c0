"""The one error a user can cause: it names the config key, the value, and what would be right, and shows no traceback."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A setting that cannot work; the message is complete in itself."""


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' with the closest known word, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""
