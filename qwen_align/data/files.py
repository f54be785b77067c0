"""Rows of the user's own files: JSONL, CSV or Parquet, read by suffix, every row that can't be used named with its line."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_align.data.conversation import BadRow
from qwen_align.errors import ConfigError

if TYPE_CHECKING:
    from datasets import Dataset

_LISTED = 20  # bad rows in one message
Record = dict[str, Any]


def cell(record: Record, column: str, read: Callable[[Any], Any] | None = None) -> Any:
    """A record's value, as `read` makes of it; raises BadRow where there is none, or `read` a ValueError."""
    if column not in record:
        raise BadRow(f"has no column {column}, only {', '.join(map(str, record))}")
    try:
        return read(record[column]) if read else record[column]
    except ValueError as error:
        raise BadRow(f"{column} {error}") from error


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    record = BadRow("is not JSON")
                yield number, record if isinstance(record, (dict, BadRow)) else BadRow("is not an object")


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for record in reader:
                uneven = None in record or None in record.values()
                yield reader.line_num, BadRow("has another number of cells than the header") if uneven else record
        except csv.Error as error:
            yield reader.line_num + 1, BadRow(f"is not CSV, nor is anything after it ({error})")


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    from pyarrow import parquet

    yield from enumerate(parquet.read_table(path).to_pylist(), 1)


_READERS = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
SUFFIXES = ", ".join(_READERS)


def check(key: str, path: str | Path | None) -> None:
    """Raise ConfigError unless there is such a file, of a kind that is read here, or None is wanted."""
    if path is None:
        return
    if Path(path).suffix.lower() not in _READERS:
        raise ConfigError(f"{key}={path}: expected a file that ends with {SUFFIXES}")
    if not Path(path).expanduser().is_file():
        raise ConfigError(f"{key}={path}: no such file")


def read(key: str, path: Path, row: Callable[[Record], Record], skip: bool = False, advice: str = "") -> "Dataset":
    """The rows that `row` makes of the records of a file that `key` names; ConfigError if it raises BadRow, or `skip` them.

    `advice` ends the message about these records.
    """
    rows: list[Record] = []
    bad: list[str] = []
    try:
        for number, record in _READERS[path.suffix.lower()](path):
            try:
                if isinstance(record, BadRow):
                    raise record
                rows.append(row(record))
            except BadRow as error:
                bad.append(f"line {number} {error}")
    except (OSError, ValueError) as error:  # pyarrow's errors and wrong encodings are among them
        raise ConfigError(f"{key}={path}: cannot be read ({str(error).splitlines()[0]})") from error
    if bad:
        more = f"; and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
        listed = f"{len(bad)} of {len(bad) + len(rows)} rows cannot be used: {'; '.join(bad[:_LISTED])}{more}"
        if not skip:
            raise ConfigError(f"{key}={path}: {listed}{advice}")
        print(f"{key}={path}: {listed}; left out", flush=True)
    if not rows:
        raise ConfigError(f"{key}={path}: holds no row that can be used")
    return _dataset(f"{key}={path}", rows)


def _dataset(source: str, rows: list[Record]) -> "Dataset":
    """The rows, each with every column that some row has."""
    from datasets import Dataset

    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    for name, column in columns.items():
        try:
            Dataset.from_dict({name: column})
        except (ValueError, TypeError, OverflowError) as error:
            why = f"holds values of different types ({str(error).splitlines()[0]})"
            raise ConfigError(f"{source}: the column {name} {why}; expected one type") from error
    return Dataset.from_dict(columns)
