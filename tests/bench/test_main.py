"""The command line of the bench: a suite's own YAML with overrides, mistakes in one line."""

import json
import sys
from pathlib import Path

import pytest

from qwen_align.bench import __main__ as program
from qwen_align.bench.row import Row
from qwen_align.config import groups


@pytest.mark.parametrize("suite", groups.options("bench"))
def test_a_suite_runs_with_the_settings_of_its_yaml(suite):
    found = program.settings_of([f"suite={suite}"])
    assert found == (suite, groups.read("bench", suite), Path("runs/bench"), None)


def test_overrides_go_over_the_yaml():
    given = ["suite=reward", "rounds=1", "pairs=rows.jsonl", "runs_dir=elsewhere", "save=there"]
    _, node, folder, save = program.settings_of(given)
    assert save == Path("there")
    assert (node["rounds"], node["pairs"], node["texts"], folder) == (1, "rows.jsonl", 200, Path("elsewhere/bench"))


def test_rows_are_written_where_runs_are(tmp_path, monkeypatch, capsys):
    row = Row("case", "verdicts", 10.0, 5.0, 2.0, 1.5, 2.5, 3)
    monkeypatch.setattr(program.component, "construct", lambda node: [row] * node["rounds"])
    monkeypatch.setattr(sys, "argv", ["bench", "suite=verifier", "rounds=2", f"runs_dir={tmp_path}", f"save={tmp_path}"])
    assert program.main() == 0
    assert len(program.baseline.read(tmp_path, program.baseline.device())) == 1
    assert (tmp_path / "bench" / "verifier.md").read_text().count("| case | 10 verdicts/s |") == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"][0]["ratio"] == 2.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["suite=verifer"], "suite=verifer: expected one of generation, reward, speed, verifier (did you mean verifier?)"),
        (["suite=verifier", "round=3"], "round=3: no such setting; suite=verifier has rounds, gsm8k (did you mean rounds?)"),
        (["suite=verifier", "rounds=many"], "rounds=many: expected a whole number"),
        (["suite=speed", "pairs=true"], "pairs=True: expected a whole number"),
        (["suite=speed", "growth=some"], "growth=some: expected true or false"),
        (["suite=verifier", "_target_=os.system"], "_target_=os.system: no such setting"),
        (["suite=verifier", "fast"], "fast=None: no such setting"),
    ],
)
def test_a_mistake_is_one_line(overrides, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench", *overrides])
    assert program.main() == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {message}")
    assert len(errors.splitlines()) == 1
