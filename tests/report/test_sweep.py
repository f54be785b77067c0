"""The table over the jobs of a sweep."""

import pytest
from run_folders import around

from qwen_align import run_folder
from qwen_align.metric.interval import Interval
from qwen_align.report import sweep
from qwen_align.stage.multirun import DEFAULT_OBJECTIVE, Job


def finished(folder, number: int, *overrides: str, mean: float = 0.5, **changes) -> Job:
    """A job with a run folder of its own."""
    run = folder / f"run-{number}"
    headline = {"name": "best_of_4", "policy": None, "n": 20, **around(mean)}
    evaluation = {"n": 20, "pass@1": around(mean / 2), "best_of_4": around(mean)}
    run_folder.write_json(run / "metrics.json", {"headline": headline, "evaluation": evaluation})
    return Job(number, list(overrides), "finished", folder=str(run), **changes)


def test_an_interval_over_seeds_is_students():
    found = sweep.over_seeds([0.1, 0.2])
    assert found.mean == pytest.approx(0.15)
    assert found.high - found.mean == pytest.approx(12.7062 * 0.1 / 2, rel=1e-4), "t(0.975, 1) x s / sqrt(2)"


def test_one_seed_has_no_interval():
    assert sweep.over_seeds([0.5]) == 0.5
    assert isinstance(sweep.over_seeds([0.5, 0.5]), Interval)


def test_a_row_has_the_settings_that_differ_and_its_metrics(tmp_path):
    jobs = [finished(tmp_path, i, "method=sft", f"seed={i}", f"+adapter={a}") for i, a in enumerate(("none", "none", "lora"))]
    assert sweep.results(sweep.grouped(jobs, DEFAULT_OBJECTIVE)) == [
        ["adapter", "seeds", "best-of-4", "pass@1"],
        ["none", "0, 1", "0.500 [0.500, 0.500]", "0.250 [0.250, 0.250]"],
        ["lora", "2", "0.500", "0.250"],
    ]


def test_an_objective_of_ones_own_comes_first(tmp_path):
    jobs = [finished(tmp_path, 0, "seed=1", objective=0.75)]
    head, row = sweep.results(sweep.grouped(jobs, "evaluation.best_of_4.high"))
    assert (head[1], row[1]) == ("evaluation.best_of_4.high", "0.750")


def test_a_failed_seed_is_not_in_the_mean_and_the_row_says_so(tmp_path):
    jobs = [finished(tmp_path, 0, "seed=1"), Job(1, ["seed=2"], "failed", "unlucky")]
    (row,) = sweep.grouped(jobs, DEFAULT_OBJECTIVE)
    assert row.seeds == "1, 2 (1 of 2 finished)"
    assert row.values["pass@1"] == [0.25]


def test_jobs_that_failed_for_one_reason_are_one_failure():
    jobs = [Job(i, [f"seed={i}"], "failed", "no memory" if i else None) for i in range(3)]
    assert {why: [job.number for job in these] for why, these in sweep.failures(jobs).items()} == {
        "failed": [0],
        "no memory": [1, 2],
    }


def test_a_job_is_named_by_what_others_do_not_share():
    jobs = [Job(i, ["method=sft", f"seed={i}"]) for i in range(2)]
    assert sweep.own_overrides(jobs) == {0: "seed=0", 1: "seed=1"}


def test_files_and_terminal_have_the_same_table(tmp_path, capsys):
    for job in (finished(tmp_path, 0, "seed=1"), Job(1, ["seed=2"], "failed", "unlucky")):
        run_folder.write_json(tmp_path / "sweep" / str(job.number) / "job.json", job)
    sweep.write(tmp_path / "sweep", DEFAULT_OBJECTIVE, "a command")
    page = (tmp_path / "sweep" / "sweep.md").read_text()
    assert "| 1, 2 (1 of 2 finished) | 0.500 | 0.250 |" in page
    assert "| seed=2 | failed | unlucky |" in page
    assert "[run-0](../run-0/report.html)" in page
    assert "1 of 2 jobs that began are finished." in capsys.readouterr().out
    (row,) = run_folder.read_json(tmp_path / "sweep" / "sweep.json")["rows"]
    assert row["metrics"]["pass@1"] == {"mean": 0.25, "values": [0.25]}
    assert row["seeds"] == ["1", "2"]


def test_a_sweep_without_jobs_writes_nothing(tmp_path):
    assert sweep.write(tmp_path, DEFAULT_OBJECTIVE, "a command") == []
    assert list(tmp_path.iterdir()) == []
