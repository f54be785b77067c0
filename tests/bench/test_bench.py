"""Two ways that take turns, and how their rows are written."""

from qwen_align import bench, run_folder


def test_a_ratio_is_their_time_over_ours(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(clock)))
    row = bench.interleaved("case", "units", lambda: 6.0, lambda: 2.0, rounds=3)
    assert (row.ours, row.theirs, row.ratio, row.low, row.high) == (6.0, 2.0, 3.0, 3.0, 3.0)


def test_a_table_and_json_are_written(tmp_path, capsys):
    row = bench.Row("case", "verdicts", 10.0, 5.0, 2.0, 1.5, 2.5, 3, "a note")
    bench.write("verifier", [row], tmp_path, {"cores": 2})
    assert "| case | 10 verdicts/s | 5 verdicts/s | 2.00 | 1.50 .. 2.50 | 3 | a note |" in capsys.readouterr().out
    assert run_folder.read_json(tmp_path / "verifier.json")["rows"][0]["ratio"] == 2.0
