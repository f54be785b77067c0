"""The user's own files as rows, read by suffix; the parent checks them with the reader that a stage uses later.

Nothing is guessed that could be guessed wrong: a byte order mark says UTF-8 or UTF-16, the header of a CSV its separator (the
one of , ; tab | that is in it most, as German and French spreadsheets write them). Other encodings are named with the setting
that reads them. Left out: compressed files, and all sheets of an .xlsx but the first.
"""

import csv
import importlib.util
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_align.data import columns
from qwen_align.data.conversation import BadRow
from qwen_align.errors import ConfigError

if TYPE_CHECKING:
    from datasets import Dataset

_LISTED = 20  # reasons in one message
Record = dict[str, Any]
Found = Iterator[tuple[str, Any]]  # (where, record or BadRow)


def cell(record: Record, column: str, read: Callable[[Any], Any] | None = None) -> Any:
    """A record's value, as `read` makes of it; raises BadRow where there is none, or `read` a ValueError."""
    if column not in record:
        raise BadRow(f"has no column {column}, only {', '.join(map(str, record))}")
    try:
        return read(record[column]) if read else record[column]
    except ValueError as error:
        raise BadRow(f"{column} {error}", record[column]) from error


@dataclass(frozen=True)
class File:
    """A file that `key` names, and what makes a row of one of its records or raises BadRow."""

    key: str
    path: Path
    row: Callable[[Record], Record]
    skip: bool = False  # leave bad rows out and say which, in place of ConfigError
    advice: str = ""  # ends the message about them
    wanted: Mapping[str, str] = field(default_factory=dict)  # our columns -> the file's, that data.columns may rename
    encoding: str | None = None
    separator: str | None = None

    def __str__(self) -> str:
        return f"{self.key}={self.path}"


def _encoding(file: File) -> str:
    with file.path.open("rb") as opened:
        head = opened.read(64)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if file.encoding is None and b"\0" in head:
        likely = "utf-16-le" if head[0] else "utf-16-be"
        raise ConfigError(f"{file}: cannot be read (it is UTF-16 without its mark){_readable(file, likely)}")
    return file.encoding or "utf-8-sig"


def _readable(file: File, encoding: str) -> str:
    return f"; save it as UTF-8{f', or add data.encoding={encoding}' if file.wanted else ''}"


def _undecodable(file: File) -> str:
    """Where a file is not in the encoding it should have, and which one would do."""
    with file.path.open("rb") as opened:
        for number, line in enumerate(opened, 1):
            try:
                line.decode(file.encoding or "utf-8")
            except UnicodeError as error:
                start = getattr(error, "start", 0)
                piece, encoding = line[max(0, start - 20) : start + 20].strip(), "cp1252"
                if any(byte in b"\x81\x8d\x8f\x90\x9d" for byte in line):
                    encoding = "latin-1"
                wrong = f"cannot be read (line {number} is not {file.encoding or 'UTF-8'}: in {encoding} it says"
                return f"{wrong} {piece.decode(encoding, 'replace')!r}){_readable(file, encoding)}"
    return f"cannot be read as {file.encoding or 'UTF-8'}"


def _parsed(text: str) -> Any:
    try:
        record = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(record, ensure_ascii=False).encode()  # half of a surrogate pair can't be tokenized
    except UnicodeEncodeError:
        return BadRow("holds half a character (a lone \\ud... escape)", text.strip())
    except (ValueError, RecursionError) as error:
        return BadRow("is not JSON", f"{text.strip()[:40]} ({getattr(error, 'msg', 'nested too deeply')})")
    return record if isinstance(record, dict) else BadRow("is not an object", record)


def _json(file: File) -> Found:
    """JSON lines, or one list of objects, whatever the suffix says."""
    with file.path.open(encoding=_encoding(file)) as opened:
        first = next((line for line in opened if line.strip()), "").strip()
        opened.seek(0)
        if first[:1] == "[" and (file.path.suffix.lower() == ".json" or not first.endswith("]")):
            try:
                records = json.load(opened)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{file}: is no JSON list ({error})") from error
            for number, record in enumerate(records, 1):
                yield f"row {number}", record if isinstance(record, dict) else BadRow("is not an object", record)
            return
        if first == "{":
            raise ConfigError(f"{file}: holds one object over several lines; expected an object a line, or a list of objects")
        for number, line in enumerate(opened, 1):
            if line.strip():
                yield f"line {number}", _parsed(line)


def _csv(file: File) -> Found:
    csv.field_size_limit(2**31 - 1)
    with file.path.open(encoding=_encoding(file), newline="") as opened:
        header = opened.readline()
        skipped = re.match(r"sep=(.)\s*$", header)  # how a spreadsheet is told
        outside = re.sub(r'"[^"]*("|$)', "", header)
        found = "\t" if file.path.suffix.lower() == ".tsv" else max(",;\t|", key=outside.count)
        if not skipped:
            opened.seek(0)
        reader = csv.DictReader(opened, delimiter=file.separator or (skipped[1] if skipped else found), strict=True)
        try:
            names = list(reader.fieldnames or ())
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise ConfigError(f"{file}: its first line names the column {twice!r} twice: {', '.join(names)}")
            for record in reader:
                uneven = None in record or None in record.values()
                wrong = BadRow("has another number of cells than the header", list(record.values())) if uneven else record
                yield f"line {reader.line_num + bool(skipped)}", wrong
        except csv.Error as error:
            yield f"line {reader.line_num + 1}", BadRow(f"is not CSV, nor is anything after it ({error})")


def _parquet(file: File) -> Found:
    from pyarrow import parquet

    records = (record for batch in parquet.ParquetFile(file.path).iter_batches(10_000) for record in batch.to_pylist())
    yield from ((f"row {number}", record) for number, record in enumerate(records, 1))


def _xlsx(file: File) -> Found:
    import openpyxl

    try:
        cells = openpyxl.load_workbook(file.path, read_only=True, data_only=True).worksheets[0].iter_rows(values_only=True)
        header = [str(name) if name is not None else "" for name in next(cells, ())]
        for number, values in enumerate(cells, 2):
            if any(value is not None for value in values):
                yield f"row {number}", {n: v for n, v in zip(header, values, strict=False) if n}
    except (KeyError, IndexError, OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{file}: is no .xlsx ({error})") from error


_READERS = {".jsonl": _json, ".csv": _csv, ".parquet": _parquet, ".json": _json, ".tsv": _csv, ".xlsx": _xlsx}
SUFFIXES = ", ".join(_READERS)


def check(key: str, path: str | Path | None) -> None:
    """Raise ConfigError unless there is such a file, of a kind that is read here, or None is wanted."""
    if path is None:
        return
    suffix, place = Path(path).suffix.lower(), Path(path).expanduser()
    if suffix not in _READERS:
        raise ConfigError(f"{key}={path}: expected a file that ends with {SUFFIXES}")
    if not place.is_file():
        raise ConfigError(f"{key}={path}: {'is a folder, expected a file' if place.is_dir() else 'no such file'}")
    if suffix == ".xlsx" and "openpyxl" not in sys.modules and not importlib.util.find_spec("openpyxl"):
        raise ConfigError(f"{key}={path}: needs `pip install openpyxl`; or save it as CSV (UTF-8) and name that file")


@dataclass
class Scan:
    """What is found on the way through a file."""

    rows: int = 0
    bad: dict[str, tuple[str, list[str], int]] = field(default_factory=dict)  # reason -> (the first, where, how many)
    columns: dict[str, None] = field(default_factory=dict)
    hint: str = ""  # what to add, where columns have other names
    types: dict[str, dict[str, str]] = field(default_factory=dict)  # column -> type -> the first value

    def left_out(self) -> str:
        number = sum(count for _, _, count in self.bad.values())
        listed = []
        for first, where, count in list(self.bad.values())[:_LISTED]:
            more = f" and {count - len(where):,} more" if count > len(where) else ""
            others = f" (likewise {', '.join(where[1:])}{more})" if count > 1 else ""
            listed.append(f"{where[0]} {first}{others}")
        rest = f"; and {len(self.bad) - _LISTED} other reasons" if len(self.bad) > _LISTED else ""
        return f"{number} of {number + self.rows} rows cannot be used: {'; '.join(listed)}{rest}"


def usable(file: File, scan: Scan) -> Iterator[Record]:
    """The rows of a file, one by one; at its end ConfigError if a row is bad, unless those are skipped, or if there is none."""
    if not file.path.stat().st_size:
        raise ConfigError(f"{file}: is empty, so it holds no row that can be used")
    try:
        for where, record in _READERS[file.path.suffix.lower()](file):
            try:
                if isinstance(record, BadRow):
                    raise record
                scan.columns |= dict.fromkeys(record)
                row = file.row(record)
            except BadRow as error:
                first, places, count = scan.bad.get(error.reason, (str(error), [], 0))
                scan.bad[error.reason] = first, [*places, where] if count < 5 else places, count + 1
                if not scan.hint and isinstance(record, dict) and re.search("has no column|holds? no prompt", error.reason):
                    scan.hint = columns.to_add(file.wanted, record)
                continue
            scan.rows += 1
            columns.note_types(row, where, scan.types)
            yield row
    except UnicodeError as error:
        raise ConfigError(f"{file}: {_undecodable(file)}") from error
    except ConfigError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's errors are among them
        raise ConfigError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from error
    if scan.bad and not file.skip:
        raise ConfigError(f"{file}: {scan.left_out()}{scan.hint or file.advice}")
    if not scan.rows:
        why = f" ({scan.left_out()})" if scan.bad else ""
        raise ConfigError(f"{file}: holds no row that can be used{why}{scan.hint}")
    for name, kinds in scan.types.items():
        if len(kinds) > 1:
            found = ", ".join(f"{kind} in {first}" for kind, first in kinds.items())
            raise ConfigError(f"{file}: the column {name} holds values of different types ({found}); expected one type")


def read(file: File) -> "Dataset":
    """The rows of a file as a data set, each with every column that some row has; which are left out is printed."""
    from datasets import Dataset

    rows = list(usable(file, scan := Scan()))
    if scan.bad:
        print(f"{file}: {scan.left_out()}; left out", flush=True)
    found = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    try:
        return Dataset.from_dict(found)
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"{file}: its columns cannot be put together ({str(error).splitlines()[0]})") from error
