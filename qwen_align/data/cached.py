"""Work on every row of a large data set, on all cores and once: in chunks, to disk, found again by what went in.

Resumes, other seeds and the jobs of a sweep read the file, which is memory-mapped; its name is a hash of the rows, the settings
and the code. It lies in `qwen_align/` of the cache of `datasets` (HF_DATASETS_CACHE), or in the temporary folder where that
can't be written. Small sets stay in memory.
"""

import ctypes
import fcntl
import hashlib
import inspect
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from datasets import Dataset, Features, config

from qwen_align import byte_pair, chat, run_folder

_SMALL = 4000  # rows that take less than a process to be started
_PR_SET_PDEATHSIG = 1
Columns = dict[str, list[Any]]


def _folder() -> Path:
    usual = Path(config.HF_DATASETS_CACHE) / "qwen_align"
    with suppress(OSError):  # a cache that is shared and read-only
        usual.mkdir(parents=True, exist_ok=True)
    if os.access(usual, os.W_OK):
        return usual
    other = Path(tempfile.gettempdir()) / f"qwen_align-{os.getuid()}"
    other.mkdir(mode=0o700, exist_ok=True)
    return other


def _work(function: Callable[[Columns], Columns], parent: int, batch: Columns) -> Columns:
    """A killed stage leaves nothing running: a process of its own goes down with the one that asked for the work."""
    if os.getpid() != parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return function(batch)


def code_of(*things: Any) -> str:
    """A hash of the source of functions (partial ones too), modules and classes, of other objects their class."""
    own = (thing.func if isinstance(thing, partial) else thing for thing in things)
    kinds = (FunctionType, ModuleType, type)
    sources = (inspect.getsource(thing if isinstance(thing, kinds) else type(thing)) for thing in own)
    return hashlib.sha256("".join(sources).encode()).hexdigest()


def identity(thing: Any) -> Any:
    """A partial function over plain data, sets and other such functions as plain data: the code of its module, and these."""
    if isinstance(thing, partial):
        return [code_of(sys.modules[thing.func.__module__]), *map(identity, thing.args)]
    return sorted(thing) if isinstance(thing, (set, frozenset)) else thing


def mapped(
    rows: Dataset, function: Callable[[Columns], Columns], settings: Any, features: dict[str, Any], title: str
) -> Dataset:
    """What a picklable `function` makes of the columns of each 1,000 rows, instead of them, maybe more rows or fewer.

    `settings`, plain data, are all that its result depends on beside the rows and the code: these name the file.
    """
    name = run_folder.fingerprint([run_folder.rows_hash(rows), settings, code_of(function, chat, byte_pair)])
    work, types, old = partial(_work, function, os.getpid()), Features(features), rows.column_names
    do = partial(rows.map, work, batched=True, remove_columns=old, features=types, desc=title, new_fingerprint=name)
    if len(rows) < _SMALL:
        return do(keep_in_memory=True)
    path = _folder() / f"{name}.arrow"
    with path.with_suffix(".lock").open("w") as lock:  # several stages, ranks and seeds may want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        return do(num_proc=len(os.sched_getaffinity(0)), cache_file_name=str(path))
