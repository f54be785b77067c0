"""Work on rows that is done once."""

import os
from dataclasses import dataclass
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, Value

from qwen_align.data import cached

MANY = cached._SMALL + 1
TYPES = {"twice": Value("int64"), "process": Value("int64")}


@dataclass
class Twice:
    """Twice each number, and the process that reckoned it; odd ones are left out."""

    factor: int = 2

    def __call__(self, batch: dict) -> dict:
        kept = [n for n in batch["n"] if n % 2 == 0]
        return {"twice": [n * self.factor for n in kept], "process": [os.getpid()] * len(kept)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path / "qwen_align"


def rows(count: int) -> Dataset:
    return Dataset.from_dict({"n": list(range(count))})


def test_a_small_set_stays_in_memory(folder):
    found = cached.mapped(rows(10), Twice(), [], TYPES, "twice")
    assert found["twice"][:] == [0, 4, 8, 12, 16]
    assert set(found["process"]) == {os.getpid()}
    assert not folder.exists()


def test_a_large_set_is_worked_on_by_other_processes_in_its_order():
    found = cached.mapped(rows(MANY), Twice(), [], TYPES, "twice")
    assert found["twice"][:] == [2 * n for n in range(0, MANY, 2)]
    assert os.getpid() not in set(found["process"])


def test_what_was_done_is_found_again():
    first = cached.mapped(rows(MANY), Twice(), [1], TYPES, "twice")
    again = cached.mapped(rows(MANY), Twice(), [1], TYPES, "twice")
    assert again["process"][:] == first["process"][:]


@pytest.mark.parametrize(("count", "settings"), [(MANY + 1, [1]), (MANY, [2])])
def test_other_rows_or_settings_are_other_work(count, settings):
    first = cached.mapped(rows(MANY), Twice(), [1], TYPES, "twice")
    other = cached.mapped(rows(count), Twice(3), settings, TYPES, "twice")
    assert not set(first["process"]) & set(other["process"])
    assert other["twice"][1] == 6


def test_a_cache_that_cannot_be_written_is_not_needed(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", blocked)
    monkeypatch.setattr(cached.tempfile, "gettempdir", lambda: str(tmp_path))
    assert cached.mapped(rows(MANY), Twice(), [], TYPES, "twice")["twice"][1] == 4
    assert list(tmp_path.glob("qwen_align-*/*.arrow"))
