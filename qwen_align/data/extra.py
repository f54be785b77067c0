"""`data.extra`: a file of demonstrations that is mixed into a data set's own, for example what method=synthesize wrote.

It is read as `data=local` reads demonstrations: prompt and completion as text or messages, every row that cannot be used named
with its line. Columns that the data set does not have are left out. Left out: weights; to mix more of it, repeat rows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen_align.data import files, local
from qwen_align.data.conversation import completion_of, prompt_of
from qwen_align.data.files import Record, cell
from qwen_align.verifier import Reader


def check(path: str | None) -> None:
    """Raise ConfigError unless there is such a file, or none is wanted."""
    if path is not None:
        files.check("data.extra", path)


def read(path: str | None, columns: Mapping[str, Reader]) -> list[dict[str, Any]]:
    """prompt, completion and these columns (None where a row has no such thing); no rows without a path."""
    if path is None:
        return []

    def demonstration(record: Record) -> Record:
        found = local.conversation("demonstrations", record, {})
        row = {name: cell(record, name, reader) for name, reader in columns.items() if record.get(name) is not None}
        return dict.fromkeys(columns) | row | {"prompt": prompt_of(found), "completion": completion_of(found)}

    rows: list[dict[str, Any]] = files.read("data.extra", Path(path).expanduser(), demonstration).to_list()
    print(f"data.extra={path}: {len(rows)} demonstrations are mixed in", flush=True)
    return rows
