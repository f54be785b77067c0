"""What a suite measures is right before it is fast."""

import sys

import pytest

from qwen_align import bench
from qwen_align.bench import __main__ as program
from qwen_align.bench import verifier
from qwen_align.errors import ConfigError
from qwen_align.stage import run_folder


def test_a_ratio_is_their_time_over_ours(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(clock)))
    row = bench.interleaved("case", "units", lambda: 6.0, lambda: 2.0, rounds=3)
    assert (row.ours, row.theirs, row.ratio, row.low, row.high) == (6.0, 2.0, 3.0, 3.0, 3.0)


def test_the_unsafe_checker_agrees_on_plain_arithmetic():
    cases = verifier.arithmetic(4, 200)
    ours = [verifier.countdown.verify(*case) == "correct" for case in cases]
    assert ours == [verifier.UNSAFE_verdict(*case) for case in cases]
    assert 0 < sum(ours) < 200


def test_no_hostile_case_is_called_correct():
    assert all(
        verifier.countdown.verify(*case) != "correct"
        for name, case in verifier.hostile().items()
        if "brackets" not in name
    )


def test_gsm8k_style_answers_hold_as_many_right_as_wrong():
    pairs = verifier.gsm8k_answers(None)
    assert sum(verifier.math.verify(text, gold) == "correct" for text, gold in pairs) == len(pairs) / 2
    with pytest.raises(ConfigError, match="gsm8k=nothing"):
        verifier.gsm8k_answers("nothing")


def test_a_table_and_json_are_written(tmp_path, capsys):
    row = bench.Row("case", "verdicts", 10.0, 5.0, 2.0, 1.5, 2.5, 3, "a note")
    bench.write("verifier", [row], tmp_path, {"cores": 2})
    assert "| case | 10 verdicts/s | 5 verdicts/s | 2.00 | 1.50 .. 2.50 | 3 | a note |" in capsys.readouterr().out
    assert run_folder.read_json(tmp_path / "verifier.json")["rows"][0]["ratio"] == 2.0


def test_an_unknown_suite_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "suite=verifer"])
    assert program.main() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: suite=verifer: expected one of generation, ") and "did you mean verifier?" in error
