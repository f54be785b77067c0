"""Tables, paths and durations as people read them."""

from pathlib import Path

import pytest

from qwen_align.stage import text


def test_the_columns_of_a_table_are_aligned():
    assert text.table([("a", "bcd"), ("efgh", "i")]) == "a     bcd\n----  ---\nefgh  i"


def test_a_path_below_the_working_directory_is_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert text.short_path(tmp_path / "runs" / "a") == "runs/a"
    assert text.short_path(Path("/elsewhere/a")) == "/elsewhere/a"


@pytest.mark.parametrize(("seconds", "shown"), [(3.6, "4 s"), (123, "2:03 min"), (3723, "1:02:03")])
def test_a_duration_has_the_unit_that_it_needs(seconds, shown):
    assert text.duration(seconds) == shown
