"""Columns of the user's files: which of them are meant where they have other names, and whether one holds several types."""

import difflib
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

_NAMES = {  # our column -> what it is called in English, French and German files, without accents
    "prompt": "prompt question query instruction input problem user frage aufgabe anweisung eingabe consigne enonce entree",
    "completion": "completion answer response output reply solution assistant reponse sortie antwort ausgabe loesung losung",
    "messages": "messages conversations conversation dialogue dialog chat turns gesprach nachrichten",
    "chosen": "chosen preferred accepted better winner choisi choisie prefere preferee retenu gewahlt gewaehlt bevorzugt",
    "rejected": "rejected dispreferred worse loser rejete rejetee refuse abgelehnt verworfen schlechter",
    "label": "label class category classe categorie etiquette klasse kategorie etikett",
    "answer": "answer solution reponse antwort loesung losung resultat ergebnis",
    "nums": "numbers nombres zahlen",
    "target": "cible ziel zielzahl",
}


def _words(name: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.findall(r"[a-z]+", plain)


def _meant(ours: str, theirs: str, there: list[str]) -> str | None:
    """The column that is meant: of one of our column's other names, or nearly of the name that was given."""
    names = _NAMES.get(ours, ours).split()
    for wanted in ([*_words(theirs)], names):
        for test in (lambda words, name: words == [name], lambda words, name: name in words):
            for name in wanted:
                if found := next((column for column in there if test(_words(column), name)), None):
                    return found
    return next(iter(difflib.get_close_matches(theirs, there, n=1, cutoff=0.75)), None)


def to_add(wanted: Mapping[str, str], there: Iterable[Any]) -> str:
    """'; add data.columns.prompt=question ...' for wanted columns that a record has under another name; '' without such."""
    columns = [str(name) for name in there]
    words: list[tuple[str, str]] = []
    for ours, theirs in wanted.items():
        if theirs not in columns:
            free = [name for name in columns if name not in wanted.values() and name not in [w[1] for w in words]]
            if found := _meant(ours, theirs, free):
                words.append((ours, found))
    if "messages" in wanted and words:  # a whole conversation, or a prompt with a completion
        whole = len(words) == 1 and words[0][0] == "messages"
        words = words if whole else [(ours, found) for ours, found in words if ours != "messages"]
    plain = {found: found if re.fullmatch(r"[A-Za-z_]\w*", found, re.ASCII) else f'"{found}"' for _, found in words}
    added = " ".join(shlex.quote(f"data.columns.{ours}={plain[found]}") for ours, found in words)
    return f"; add {added}" if added else ""


def _kind(value: Any) -> str:
    kinds = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


def note_types(row: Mapping[str, Any], where: str, types: dict[str, dict[str, str]]) -> None:
    """Put the types of a row's values, those inside lists and objects too, among what is known: column -> type -> the first."""
    for name, value in row.items():
        if value is None or (isinstance(value, list) and value and isinstance(value[0], dict) and "role" in value[0]):
            continue  # messages are checked elsewhere
        kinds = types.setdefault(name, {})
        if (kind := _kind(value)) not in kinds:
            kinds[kind] = f"{where}: {repr(value)[:40]}"
        if isinstance(value, dict):
            note_types({f"{name}.{key}": inner for key, inner in value.items()}, where, types)
        elif isinstance(value, list):
            for inner in value:
                note_types({f"{name}[]": inner}, where, types)
