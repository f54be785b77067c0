"""Files as rows: what is read by suffix, and how a bad row is named."""

import json

import datasets
import pytest

from qwen_align.data import files
from qwen_align.data.conversation import BadRow
from qwen_align.errors import ConfigError

ROWS = [{"n": 1, "word": "one"}, {"n": 2, "word": "two"}]


@pytest.fixture
def read(tmp_path):
    """read(name, rows, text or bytes): the rows of a file of the test's own, in the form that its suffix says."""

    def read_file(name, content, row=lambda record: record, **settings):
        path = tmp_path / name
        if isinstance(content, list):
            table = datasets.Dataset.from_list(content)
            write = {".jsonl": table.to_json, ".csv": table.to_csv, ".parquet": table.to_parquet}
            write[path.suffix.lower()](path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return files.read(files.File("data.x_path", path, row, **settings))

    return read_file


def odd(record):
    if record["n"] % 2 == 0:
        raise BadRow("is even")
    return record


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "ROWS.JSONL"])
def test_the_suffix_says_how_a_file_is_read(read, name):
    assert read(name, ROWS)["word"][:] == ["one", "two"]


def test_a_bad_row_stops_with_its_line(read, tmp_path):
    with pytest.raises(ConfigError) as caught:
        read("rows.jsonl", "\n" + lines(*ROWS), odd, advice="; skip it")
    path = tmp_path / "rows.jsonl"
    assert str(caught.value) == f"data.x_path={path}: 1 of 2 rows cannot be used: line 3 is even; skip it"


def test_a_skipped_row_is_printed(read, capsys):
    assert read("rows.jsonl", lines(*ROWS), odd, skip=True)["n"][:] == [1]
    assert "1 of 2 rows cannot be used: line 2 is even; left out" in capsys.readouterr().out


@pytest.mark.parametrize(("line", "reason"), [("{", "is not JSON"), ("[1]", "is not an object"), ("7", "is not an")])
def test_a_line_that_is_no_row_is_named(read, line, reason):
    with pytest.raises(ConfigError, match=f"1 of 2 rows cannot be used: line 2 {reason}"):
        read("rows.jsonl", lines(ROWS[0]) + line)


def test_csv_cells_may_hold_lines_and_a_short_row_is_named(read):
    text = '\ufeffa,b\n"one\ntwo",yes\nalone\n'
    assert read("rows.csv", text, skip=True)["a"][:] == ["one\ntwo"]
    with pytest.raises(ConfigError, match="line 4 has another number of cells than the header"):
        read("rows.csv", text)


def test_many_bad_rows_are_counted(read):
    with pytest.raises(
        ConfigError, match=r"50 of 50 rows cannot be used: line 1 is even \(likewise line 2, .*line 5 and 45 more\)"
    ) as caught:
        read("rows.jsonl", lines(*[ROWS[1]] * 50), odd)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", lines(ROWS[1])])
def test_nothing_left_is_an_error_even_when_skipping(read, content):
    with pytest.raises(ConfigError, match="holds no row that can be used"):
        read("rows.jsonl", content, odd, skip=True)


def test_columns_of_two_types_are_a_users_mistake(read):
    with pytest.raises(ConfigError, match="the column word holds values of different types"):
        read("rows.jsonl", lines(ROWS[0], {"word": 3}))


def test_a_column_that_only_later_rows_have_is_kept(read):
    assert read("rows.jsonl", lines({"n": 1}, {"level": 1}))["level"][:] == [None, 1]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_a_file_that_cannot_be_read_is_one_clear_line(read, name):
    with pytest.raises(ConfigError, match=rf"^data\.x_path=.*{name}: cannot be read \(.*\)"):
        read(name, b"a,b\n\xff\xfe,b\n")


@pytest.mark.parametrize(("path", "reason"), [("no.jsonl", "no such file"), ("no.txt", r"ends with \.jsonl, \.csv, \.parquet")])
def test_a_file_that_is_none_is_refused(path, reason):
    with pytest.raises(ConfigError, match=rf"^data\.x_path={path}: .*{reason}"):
        files.check("data.x_path", path)
