"""A run folder: what one stage was asked for, how far it is, and what came out.

    config.yaml  the resolved settings          run.json      state, parents, versions, git, data, times
    metrics.jsonl  one line a logging step      metrics.json  what the stage ends with
    samples.jsonl  completions with verdicts    checkpoints/  model/  log.txt

JSON is written under a temporary name and renamed, so a reader never sees half a file. A lock is held with flock by the
parent and inherited by the worker: it ends with the last process that holds it, so no stale lock can remain.
"""

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from qwen_align.errors import ConfigError
from qwen_align.stage.text import short_path

FORMAT = 2  # of run.json: what its keys mean; a folder of another format is named with one line, never half read
read_only = False  # in every process of a stage but the first: rank 0 alone writes
_VERSIONED = ("qwen-align", "torch", "trl", "transformers", "datasets", "accelerate", "peft", "deepspeed", "hydra-core")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    if read_only:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all, dataclasses as objects."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=dataclasses.asdict) + "\n")


def write_jsonl(path: Path, lines: Iterable[Any]) -> None:
    """Write lines of JSON, all of them or none."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def read_json(path: Path) -> Any:
    """The content of a JSON file, or {} where there is none; ConfigError for a torn one, or a run.json that is no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if path.name == "run.json" and not isinstance(found, dict):
            raise ValueError(f"holds a {type(found).__name__}")
    except ValueError as error:
        cure = "remove its folder, or name another" if path.name == "run.json" else "remove it"
        raise ConfigError(f"{path}: is no whole JSON ({error}); {cure}") from error
    return found


def check_writable(key: str, folder: Path) -> None:
    """Raise ConfigError where a folder can't be made or written, as far as that shows without making it."""
    there = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
    if not there.is_dir():
        wrong = f"{there} is no folder"
    elif os.access(there, os.W_OK | os.X_OK):
        return
    else:
        wrong = os.strerror(errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES)
    raise ConfigError(f"{key}={folder}: cannot write there ({wrong}); choose another folder")


def read_jsonl(path: Path) -> list[Any]:
    """The complete lines of a JSONL file; a line torn by a kill is left out."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines[:-1] if line]


def update(folder: Path, **changes: Any) -> dict[str, Any]:
    """Merge changes into run.json and return it."""
    manifest = read_json(folder / "run.json") | changes
    write_json(folder / "run.json", manifest)
    return manifest


def rows_hash(rows: Any) -> str:
    """A hash of what rows say: a list of plain ones, or a Dataset, which is read as Arrow, batch by batch."""
    if isinstance(rows, list):
        return fingerprint(rows)
    import pyarrow

    digest = hashlib.sha256()
    for table in rows.with_format("arrow").iter(1000):
        plain = table.replace_schema_metadata(None).combine_chunks()
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, plain.schema) as stream:
            stream.write_table(plain)
        digest.update(sink.getvalue())
    return digest.hexdigest()[:16]


def record_view(folder: Path, view: str, rows: Any) -> None:
    """Note in run.json how many rows a view had and their hash, so that it shows whether two runs saw the same data."""
    known = read_json(folder / "run.json").get("data", {})
    update(folder, data=known | {view: {"rows": len(rows), "hash": rows_hash(rows)}})


def state(folder: Path) -> str:
    """missing, planned, running, finished, failed or interrupted; running is only what run.json says."""
    return read_json(folder / "run.json").get("state", "missing")


def fingerprint(value: Any) -> str:
    """A hash of settings; equal settings in another order give the same one."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _is_whole_json(path: Path) -> bool:
    """Trainers write into the file itself, so a kill can leave the beginning."""
    try:
        return bool(read_json(path))
    except (OSError, ValueError):
        return False


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first. trainer_state.json is written last, and without an optimizer a resume drifts.

    Of several processes each writes its random state, in no order, so the last file says nothing of them. DeepSpeed names its
    optimizer files in `latest`.
    """
    processes = read_json(folder / "run.json").get("world_size", 1)
    random = [f"rng_state_{rank}.pth" for rank in range(processes)] if processes > 1 else []
    found = [
        path
        for path in (folder / "checkpoints").glob("checkpoint-*")
        if (path / "scheduler.pt").is_file()
        and all(zipfile.is_zipfile(path / name) for name in random)  # a zip's directory is its end
        and _is_whole_json(path / "trainer_state.json")
        and ((path / "optimizer.pt").is_file() or (path / "latest").is_file())
    ]
    return sorted(found, key=lambda p: int(p.name.rpartition("-")[2]))


def lock(folder: Path, wait: bool = True) -> int | None:
    """The descriptor of a folder's lock, which a child may inherit; None where another process holds it and `wait` is false."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise ConfigError(f"runs_dir={folder.parent}: cannot write there ({error.strerror}); choose another folder") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except BaseException as error:
        os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def print_owner(folder: Path) -> None:
    """Print which process holds a folder's lock and is waited for."""
    owner = (folder / ".lock").read_text(encoding="utf-8").strip()
    print(f"{short_path(folder)} is in use by process {owner}; waiting for it", flush=True)


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold a folder's lock, waiting for another owner; gives its descriptor."""
    if (descriptor := lock(folder, wait=False)) is None:
        print_owner(folder)
        descriptor = lock(folder)
    assert descriptor is not None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def provenance() -> dict[str, Any]:
    """Package versions and the state of the git checkout that the code runs from, if there is one."""
    versions = {name: installed_version(name) or "not installed" for name in _VERSIONED}
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return {"versions": versions, "git": git.stdout.strip() or None}
