"""Figures of earlier runs by device: launch/baselines/DEVICE.json, to compare with and to write (`save=launch/baselines`).

A file has a row for each case by its name, with its date and the commit that it was measured on. Rows of a new run replace
those of their names and leave the others.
"""

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qwen_align import run_folder
from qwen_align.bench.row import Row
from qwen_align.config import groups

FOLDER = groups.CONF.parent / "launch" / "baselines"


def device() -> str:
    """The GPU's name, else the CPU's and how many cores this process may use."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text(encoding="utf-8")) if info.is_file() else None
    return f"{found[1] if found else platform.processor() or platform.machine()}, {cores} cores"


def path_of(folder: Path, name: str) -> Path:
    """Where the baseline of a device is."""
    return folder / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def read(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Row by name, of an earlier run on a device of this name; none where there was no run."""
    found: dict[str, dict[str, Any]] = run_folder.read_json(path_of(folder, name)).get("rows", {})
    return found


def save(folder: Path, name: str, rows: Sequence[Row], about: dict[str, Any]) -> Path:
    """Write rows among those that are there."""
    new = {row.name: {**asdict(row), **about} for row in rows}
    run_folder.write_json(path_of(folder, name), {"device": name, "rows": read(folder, name) | new})
    return path_of(folder, name)
