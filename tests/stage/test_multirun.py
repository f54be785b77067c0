"""Several jobs of one command: one job's failure is not the others', and the same command goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY

from qwen_align import run_folder
from qwen_align.errors import ConfigError
from qwen_align.stage import launch, multirun

pytestmark = pytest.mark.slow

SFT = ("-m", *TINY, "method=sft")
# In place of a worker, nothing is trained: it ends with pass@1 = seed / 10, fails with seed 3 and is interrupted with seed 4.
WORKER = """
import json, re, sys
from pathlib import Path
folder = Path(sys.argv[1])
seed = int(re.search(r"^seed: (.*)$", (folder / "config.yaml").read_text(), re.MULTILINE)[1])
with (folder.parent / "ran").open("a") as ran:
    ran.write(f"{seed} ")
run = json.loads((folder / "run.json").read_text())
run |= {"state": "failed", "error": "the third seed is unlucky"} if seed == 3 else {"state": "finished"}
headline = {"name": "pass@1", "policy": None, "n": 20, "mean": seed / 10, "low": 0.0, "high": 1.0}
(folder / "run.json").write_text(json.dumps(run))
(folder / "metrics.json").write_text(json.dumps({"headline": headline}))
sys.exit({3: 1, 4: 130}.get(seed, 0))
"""


@pytest.fixture(autouse=True)
def untrained(monkeypatch, tmp_path_factory):
    """Stages without training."""
    script = tmp_path_factory.mktemp("worker") / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setattr(launch, "command", lambda hardware, folder: [sys.executable, str(script), str(folder)])


def seeds_run(folder: Path) -> str:
    return (folder / "runs" / "ran").read_text()


def the_sweep(folder: Path) -> dict:
    (path,) = folder.glob("runs/sweeps/*/sweep.json")
    return json.loads(path.read_text())


def test_a_failed_job_is_listed_and_the_others_run(run_main, tmp_path):
    code, out, errors = run_main(*SFT, "seed=3,1,2")
    assert (code, seeds_run(tmp_path)) == (1, "3 1 2 ")
    assert "2 of 3 jobs that began are finished. The same command runs only what is missing." in out
    assert errors.startswith("error: job 0 (seed=3): sft failed: the third seed is unlucky; see runs/")
    assert len(errors.splitlines()) == 1
    assert [job["state"] for job in the_sweep(tmp_path)["jobs"]] == ["failed", "finished", "finished"]


def test_the_same_command_runs_only_what_is_missing(run_main, tmp_path):
    run_main(*SFT, "seed=1,2,3")
    run_main(*SFT, "seed=1,2,3")
    assert seeds_run(tmp_path) == "1 2 3 3 "
    assert the_sweep(tmp_path)["jobs"][2]["state"] == "failed", "the same command is the same sweep"


def test_jobs_that_differ_in_seed_alone_are_one_row_with_an_interval_over_seeds(run_main, tmp_path):
    code, out, _ = run_main(*SFT, "seed=1,2", "adapter=none,lora")
    found = the_sweep(tmp_path)
    assert code == 0
    rows = [(row["settings"], row["seeds"]) for row in found["rows"]]
    assert rows == [({"adapter": "none"}, ["1", "2"]), ({"adapter": "lora"}, ["1", "2"])]
    assert "95 % interval over seeds (Student's t)" in out
    page = (tmp_path / "runs" / "sweeps" / found["name"] / "sweep.html").read_text()
    assert "0.150 [-0.485, 0.785]" in page


def test_a_mistake_in_one_job_is_its_own(run_main, tmp_path):
    code, _, errors = run_main(*SFT, "seed=1,abc")
    assert (code, seeds_run(tmp_path)) == (2, "1 ")
    assert errors.startswith("error: job 1 (seed=abc): seed=abc: expected a whole number")


def test_an_interrupted_job_ends_the_sweep(run_main, tmp_path):
    code, out, _ = run_main(*SFT, "seed=4,1")
    assert (code, seeds_run(tmp_path)) == (launch.INTERRUPTED, "4 ")
    assert [job["state"] for job in the_sweep(tmp_path)["jobs"]] == ["interrupted"]
    assert "0 of 1 jobs" in out


def test_a_job_that_left_no_end_was_killed(tmp_path):
    run_folder.write_json(tmp_path / "0" / "job.json", {"number": 0, "overrides": ["seed=1"]})
    (job,) = multirun.jobs_of(tmp_path)
    assert (job.state, job.code) == ("failed", 1)
    assert "killed" in job.error


def test_a_plan_of_a_sweep_leaves_nothing_behind(run_main, tmp_path):
    code, out, _ = run_main("sweep=methods", "plan=true")
    assert (code, out.count("run folder")) == (0, 9)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_narrows_a_named_sweep(run_main):
    code, out, errors = run_main("sweep=beta", "seed=1", "++method.args.beta=0.0,0.1", "plan=true")
    assert (code, errors, out.count("run folder")) == (0, "", 2)


def test_names_are_the_same_for_the_same_overrides():
    given = ["sweep=methods", "seed=1,2", "force=true", "hydra/launcher=joblib"]
    assert multirun.name_of(given) == multirun.name_of(["seed=1,2", "sweep=methods"])
    assert multirun.name_of(given).startswith("methods-")
    assert multirun.name_of(given) != multirun.name_of(["sweep=methods", "seed=1"])
    assert multirun.name_of([*given, "name=mine"]) == "mine"


def test_an_unknown_objective_lists_what_is_there(run_main):
    code, _, errors = run_main(*TINY, "method=sft", "seed=1", "objective=headline.men")
    assert code == 2
    assert "objective=headline.men: metrics.json has no such number (did you mean headline.mean?)" in errors
    assert "it has headline.n, headline.mean\n" in errors


def test_the_objective_is_a_number_by_its_dotted_path(tmp_path):
    run_folder.write_json(tmp_path / "metrics.json", {"evaluation": {"pass@1": {"mean": 0.25}, "on": True}})
    assert multirun.objective(tmp_path, "evaluation.pass@1.mean") == 0.25
    assert multirun.objective(tmp_path, multirun.DEFAULT_OBJECTIVE) is None
    with pytest.raises(ConfigError, match="has no such number"):
        multirun.objective(tmp_path, "evaluation.on")


def test_a_launcher_that_is_not_installed_names_its_extra(run_main, monkeypatch):
    monkeypatch.setattr(run_folder, "installed_version", lambda package: None)
    code, _, errors = run_main(*SFT, "hydra/launcher=joblib")
    wanted = "hydra-joblib-launcher is not installed; pip install 'qwen-align[joblib]' has it"
    assert (code, errors) == (2, f"error: hydra/launcher=joblib: {wanted}\n")


@pytest.mark.slow
@pytest.mark.skipif(not run_folder.installed_version("hydra-joblib-launcher"), reason="needs the extra qwen-align[joblib]")
def test_two_jobs_at_once_train_the_stage_that_both_need_once(tmp_path):
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    given = ["-m", *TINY, "method=sft,rloo", "seed=1", *launcher, f"runs_dir={tmp_path}"]
    command = [sys.executable, "-m", "qwen_align", *given]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("== sft ->") == 1
    assert done.stdout.count("== rloo ->") == 1
    assert len(list(tmp_path.glob("sft-*"))) == 1
