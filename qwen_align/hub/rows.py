"""Whether a data set can be read: what `datasets` has prepared in its own cache, else the files of a folder or of the Hub.

Offline, `datasets` 5.2 looks at what it prepared alone and not at a download in the Hub's cache; `load` finds that one.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote_plus

from huggingface_hub import constants

from qwen_align.errors import ConfigError
from qwen_align.hub.files import Files, Need, complete, snapshot, with_all_shards

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS = re.compile(r"\.(parquet|jsonl?|ndjson|csv|tsv|arrow|txt|zip|tar)(\.(gz|zst|bz2|xz|lz4))?$")
_NO_ROWS = re.compile(r"(^|/)dataset_infos?\.json$")
_SPLIT = re.compile(r"(?<![a-z])(train|test|valid|validation|val|dev|eval)(?![a-z])")  # how `datasets` tells files apart


@dataclass(frozen=True)
class Source(Need):
    """Rows that a view reads."""

    kind: ClassVar[str] = "dataset"
    advice: str = "data=countdown makes its own problems"
    splits: tuple[str, ...] = ()  # that it needs; none: whatever is there
    config: str | None = None  # the Hub's configuration of the data set
    data_dir: str | None = None  # the folder of it that is read; None: all


def _snake_case(name: str) -> str:
    """As datasets.naming has it: how a data set's folder in the cache is called."""
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)
    return re.sub(r"([a-z\d])([A-Z])", r"\1_\2", name).lower()


def prepared(source: Source) -> Path | None:
    """The folder where `datasets` has prepared these rows, the newest of several."""
    if source.folder:
        return None
    owner, _, short = source.name.rpartition("/")
    config = source.config or "*"
    if source.data_dir:
        suffix = f"data_dir={quote_plus(source.data_dir)}"
        config = f"default-{suffix}" if len(suffix) <= 32 else "default-*"  # a longer one is hashed
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets").expanduser()
    found = cache.glob(f"{owner + '___' if owner else ''}{_snake_case(short)}/{config}/*/*")
    return max((path for path in found if path.is_dir()), key=lambda path: path.stat().st_mtime, default=None)


def _info(folder: Path | None) -> dict[str, Any]:
    """What `datasets` wrote down when it prepared a data set; {} where it has not."""
    file = folder / "dataset_info.json" if folder else None
    return json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}


def _prepared_lacks(source: Source, folder: Path) -> str | None:
    if not (info := _info(folder)):
        return "dataset_info.json"
    for split in source.splits or info["splits"]:
        if split not in info["splits"]:
            return f"split {split}"
        shards = len(info["splits"][split].get("shard_lengths") or [0])
        stem = f"{_snake_case(info['dataset_name'])}-{split}"
        names = [f"{stem}-{i:05}-of-{shards:05}.arrow" for i in range(shards)] if shards > 1 else [f"{stem}.arrow"]
        for name in names:
            if not (folder / name).is_file() or not (folder / name).stat().st_size:
                return name
    return None


def counted(source: Source) -> tuple[int, float] | None:
    """(rows of the first split, bytes of one) as `datasets` wrote them down when it prepared them; None where it has not."""
    splits = _info(prepared(source)).get("splits", {})
    found = splits.get(next(iter(source.splits or splits), ""), {})
    return (found["num_examples"], found["num_bytes"] / found["num_examples"]) if found.get("num_examples") else None


def _lacks(source: Source, files: Files) -> str | None:
    below = f"{source.data_dir}/" if source.data_dir else ""
    names = [n for n in files.names if n.startswith(below) and _ROWS.search(n) and not _NO_ROWS.search(n)]
    if not names:
        return f"data file{f' in {below}' if below else ''} (Parquet, JSONL, CSV ...)"
    for name in with_all_shards(names, first=0):
        if name not in files.whole:
            return name
    card = files.folder / "README.md" if files.folder else None
    if card is None or (card.is_file() and "data_files:" in card.read_text(encoding="utf-8", errors="replace")):
        return None  # the card says which files are which split, and the Hub's own is not here yet
    for split in source.splits:
        named = any(re.search(rf"(?<![a-z]){re.escape(split)}(?![a-z])", name) for name in names)
        if not named and (split != "train" or any(map(_SPLIT.search, names))):  # files that name no split are all train
            return f"file of the split {split}"
    return None


def require(source: Source) -> None:
    """Raise ConfigError unless the files of a data set's splits are there."""
    folder = prepared(source)
    if folder is None:
        complete(source, lambda files: _lacks(source, files))
    elif missing := _prepared_lacks(source, folder):
        advice = "delete that folder, and it is made again where there is a network"
        raise ConfigError(f"{source.setting}: {folder} has no {missing}; {advice}")


def downloaded(source: Source) -> Path | None:
    """Where the rows lie in the Hub's cache, if `datasets` can neither find them prepared nor ask for them."""
    if source.folder or not constants.HF_HUB_OFFLINE or prepared(source):
        return None
    return snapshot(source.name, source.kind, source.revision)


def load(source: Source, split: str, columns: tuple[str, ...], limit: int | None = None) -> "Dataset":
    """These columns of one split, and of its rows the first `limit`, or all; a folder has no configuration and no revision."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    config, revision = (None, None) if source.folder else (source.config, source.revision)
    try:
        place = source.folder or downloaded(source) or source.name
        rows = load_dataset(str(place), config, data_dir=source.data_dir, split=split, revision=revision)
    except (OSError, ValueError, DatasetsError) as error:
        why = f"cannot be loaded from the Hub, its cache or a folder ({str(error).splitlines()[0]})"
        raise ConfigError(f"{source.setting}: {why}{source.offline}") from error
    for column in columns:
        if column not in rows.column_names:
            raise ConfigError(f"{source.setting}: has no column {column}; it has {', '.join(rows.column_names)}")
    return rows.select(range(min(limit or len(rows), len(rows)))).select_columns(list(columns))
