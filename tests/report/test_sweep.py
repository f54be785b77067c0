"""Sweeps: one job's failure is not the others', the same command goes on, and one table comes out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY

from qwen_align.errors import ConfigError
from qwen_align.report import sweep
from qwen_align.stage import launch, run_folder

SFT = ("-m", *TINY, "method=sft")


@pytest.fixture
def stages_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that a stage ran with; nothing is trained: it ends with pass@1 = seed / 10, and fails with seed 3."""
    ran: list[int] = []

    def fake(folder: Path, _hardware: object, _lock: int) -> int:
        seed = int(
            next(line for line in (folder / "config.yaml").read_text().splitlines() if line.startswith("seed:"))[5:]
        )
        ran.append(seed)
        if seed == 3:
            run_folder.update(folder, state="failed", error="the third seed is unlucky")
            return 1
        value = {"mean": seed / 10, "low": 0.0, "high": 1.0}
        run_folder.write_json(folder / "metrics.json", {"headline": {"name": "pass@1", "n": 20, **value}})
        run_folder.update(folder, state="finished")
        return 0

    monkeypatch.setattr(launch, "run", fake)
    return ran


def sweeps(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("runs/sweeps/*/sweep.json"))]


def test_a_failed_job_is_listed_and_the_others_run(run_main, stages_run, tmp_path):
    code, out, errors = run_main(*SFT, "seed=3,1,2")
    assert code == 1
    assert stages_run == [3, 1, 2]
    assert "2 of 3 jobs that began are finished. The same command runs only what is missing." in out
    assert errors.startswith(
        "error: job 0 (seed=3): sft failed: the third seed is unlucky; the whole story is in runs/"
    )
    assert len(errors.splitlines()) == 1
    (found,) = sweeps(tmp_path)
    assert [job["state"] for job in found["jobs"]] == ["failed", "finished", "finished"]


def test_the_same_command_runs_only_what_is_missing(run_main, stages_run, tmp_path):
    run_main(*SFT, "seed=1,2,3")
    stages_run.clear()
    run_main(*SFT, "seed=1,2,3")
    assert stages_run == [3]
    assert len(sweeps(tmp_path)) == 1, "the same command is the same sweep"


def test_jobs_that_differ_in_seed_alone_are_one_row_with_an_interval_over_seeds(run_main, stages_run, tmp_path):
    code, out, _ = run_main(*SFT, "seed=1,2", "adapter=none,lora")
    assert code == 0
    (found,) = sweeps(tmp_path)
    assert [(row["settings"], row["seeds"]) for row in found["rows"]] == [
        ({"adapter": "none"}, ["1", "2"]), ({"adapter": "lora"}, ["1", "2"]),
    ]  # fmt: skip
    metric = found["rows"][0]["metrics"]["pass@1"]
    assert metric["mean"] == pytest.approx(0.15)
    assert metric["high"] - metric["mean"] == pytest.approx(12.7062 * 0.1 / 2, rel=1e-4), "t(0.975, 1) x s / sqrt(2)"
    assert "95 % interval over seeds (Student's t)" in out
    page = (tmp_path / "runs" / "sweeps" / found["name"] / "sweep.html").read_text()
    assert "0.150 [-0.485, 0.785]" in page


def test_one_seed_has_no_interval():
    assert sweep.over_seeds([0.5]) == {"mean": 0.5}


def test_a_failed_seed_is_not_in_the_mean_and_the_row_says_so(run_main, stages_run, tmp_path):
    _, out, _ = run_main(*SFT, "seed=1,2,3")
    assert "1, 2, 3 (2 of 3 finished)" in out
    assert sweeps(tmp_path)[0]["rows"][0]["metrics"]["pass@1"]["values"] == [0.1, 0.2]


def test_a_mistake_in_one_job_is_its_own(run_main, stages_run):
    code, _, errors = run_main(*SFT, "seed=1,abc")
    assert code == 2
    assert errors.startswith("error: job 1 (seed=abc): seed=abc: expected a whole number")
    assert stages_run == [1]


def test_an_interrupted_job_ends_the_sweep(run_main, monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "run", lambda folder, hardware, lock: launch.INTERRUPTED)
    code, out, _ = run_main(*SFT, "seed=1,2")
    assert code == launch.INTERRUPTED
    assert [job["state"] for job in sweeps(tmp_path)[0]["jobs"]] == ["interrupted"]
    assert "0 of 1 jobs" in out


def test_a_job_that_left_no_word_was_killed(tmp_path):
    run_folder.write_json(tmp_path / "0" / "job.json", {"number": 0, "words": ["seed=1"]})
    (job,) = sweep.jobs_of(tmp_path)
    assert (job.state, job.code) == ("failed", 1)
    assert "killed" in job.error


def test_a_plan_of_a_sweep_leaves_nothing_behind(run_main, tmp_path):
    code, out, _ = run_main("sweep=methods", "plan=true")
    assert (code, out.count("run folder")) == (0, 9)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_narrows_a_named_sweep(run_main):
    code, out, errors = run_main("sweep=beta", "seed=1", "++method.args.beta=0.0,0.1", "plan=true")
    assert (code, errors, out.count("run folder")) == (0, "", 2)


def test_names_are_the_same_for_the_same_words():
    words = ["sweep=methods", "seed=1,2", "force=true", "hydra/launcher=joblib"]
    assert sweep.name_of(words) == sweep.name_of(["seed=1,2", "sweep=methods"])
    assert sweep.name_of(words).startswith("methods-")
    assert sweep.name_of(words) != sweep.name_of(["sweep=methods", "seed=1"])
    assert sweep.name_of([*words, "name=mine"]) == "mine"


def test_an_unknown_objective_lists_what_is_there(run_main, stages_run, tmp_path):
    code, _, errors = run_main(*TINY, "method=sft", "seed=1", "objective=headline.men")
    assert code == 2
    assert "objective=headline.men: metrics.json has no such number (did you mean headline.mean?)" in errors
    assert "it has headline.n, headline.mean\n" in errors


def test_the_objective_is_a_number_by_its_dotted_path(tmp_path):
    run_folder.write_json(tmp_path / "metrics.json", {"evaluation": {"pass@1": {"mean": 0.25}, "on": True}})
    assert sweep.objective(tmp_path, "evaluation.pass@1.mean") == 0.25
    assert sweep.objective(tmp_path, sweep.DEFAULT_OBJECTIVE) is None
    with pytest.raises(ConfigError):
        sweep.objective(tmp_path, "evaluation.on")


def test_a_launcher_that_is_not_installed_names_its_extra(run_main, monkeypatch):
    monkeypatch.setattr(sweep, "is_installed", lambda package: False)
    code, _, errors = run_main(*SFT, "hydra/launcher=joblib")
    assert code == 2
    assert (
        errors
        == "error: hydra/launcher=joblib: hydra-joblib-launcher is not installed; pip install 'qwen-align[joblib]' has it\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(not sweep.is_installed("hydra-joblib-launcher"), reason="needs the extra qwen-align[joblib]")
def test_two_jobs_at_once_train_the_stage_that_both_need_once(tmp_path):
    words = [
        "-m",
        *TINY,
        "method=sft,rloo",
        "seed=1",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        f"runs_dir={tmp_path}",
    ]
    command = [sys.executable, "-m", "qwen_align", *words]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("== sft ->") == 1
    assert done.stdout.count("== rloo ->") == 1
    assert len(list(tmp_path.glob("sft-*"))) == 1
