"""Two ways that take turns, and how rows are written: tables, a line of JSON, plots, a baseline."""

import json

import pytest

from qwen_align import run_folder
from qwen_align.bench import baseline, output
from qwen_align.bench import row as rows


def a_row(name="case", ours=10.0, **more):
    return rows.Row(name, "verdicts", ours, 5.0, 2.0, 1.5, 2.5, 3, "a note", **more)


def of_side(total=100.0):
    budget = {"generation": 0.6 * total, "backward": 0.3 * total, "rest": 0.1 * total}
    return {
        "ms_per_step": total,
        "budget_ms": budget,
        "tokens_per_s": 1234.0,
        "peak_memory_mb": 700.0,
        "model_flop_utilisation": 0.25,
    }


def test_a_ratio_is_their_time_over_ours(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(rows.time, "perf_counter", lambda: float(next(clock)))
    row = rows.interleaved("case", "units", lambda: 6.0, lambda: 2.0, rounds=3)
    assert (row.ours, row.theirs, row.ratio, row.low, row.high) == (6.0, 2.0, 3.0, 3.0, 3.0)


@pytest.fixture
def written(tmp_path, capsys):
    output.write(
        "speed", [a_row(details={"ours": of_side(), "theirs": of_side(200.0)})], tmp_path, {"device": "D", "date": "t"}, {}
    )
    return tmp_path, capsys.readouterr().out


def test_a_table_and_json_are_written(written):
    folder, printed = written
    assert "| case | 10 verdicts/s | 5 verdicts/s | 2.00 | 1.50 .. 2.50 | 3 | a note |" in printed
    assert run_folder.read_json(folder / "speed.json")["rows"][0]["ratio"] == 2.0


def test_the_last_line_is_the_rows_as_json(written):
    line = json.loads(written[1].splitlines()[-1])
    assert (line["suite"], line["device"], line["rows"][0]["details"]["theirs"]["ms_per_step"]) == ("speed", "D", 200.0)


def test_the_budget_of_each_side_is_a_line_of_its_own(written):
    assert "| ms a step | all | generation | backward | rest | tokens/s | memory MB | FLOP utilisation |" in written[1]
    assert "| case: theirs | 200 | 120.0 | 60.0 | 20.0 | 1,234 | 700 | 25% |" in written[1]


def test_budgets_and_series_are_drawn(tmp_path):
    series = [a_row(f"{x} prompts", series="8 prompts", point=float(x), units=8.0 * x) for x in (8, 16)]
    output.drawing.draw(tmp_path, "speed", [a_row(details={"ours": of_side(), "theirs": of_side()}), *series])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speed-budget.png", "speed-growth.png"]


def test_rows_of_two_series_are_two_curves():
    points = [a_row(str(x), series=name, point=x) for name in ("length", "size") for x in (8.0, 16.0)]
    assert [[row.series for row in curve] for curve in output.drawing.series([a_row(), *points])] == [
        ["length"] * 2,
        ["size"] * 2,
    ]


def test_a_row_is_compared_with_the_baseline_of_its_name():
    text = output.table([a_row(), a_row("new")], {"case": {"ours": 5.0}})
    assert "| of the baseline |" in text
    assert "| 3 | 2.00 x | a note |" in text and "| 3 | | a note |" in text


def test_a_saved_row_replaces_the_one_of_its_name_and_leaves_the_others(tmp_path):
    for rows_of_a_run in ([a_row(ours=1.0), a_row("other", ours=2.0)], [a_row(ours=3.0)]):
        path = baseline.save(tmp_path, "A GPU, 80 GB", rows_of_a_run, {"date": "today"})
    assert path.name == "a-gpu-80-gb.json"
    assert {name: row["ours"] for name, row in baseline.read(tmp_path, "A GPU, 80 GB").items()} == {"case": 3.0, "other": 2.0}
    assert baseline.read(tmp_path, "another") == {}
