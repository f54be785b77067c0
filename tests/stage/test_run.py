"""The whole chain in real processes: interrupted, killed, resumed, reused."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from processes import finish, logged, once, same_weights, start
from tiny import TINY

from qwen_align.stage import run, run_folder

LONG = (
    *TINY, "stages.sft.args.max_steps=80", "stages.sft.batch_size=32", "stages.rloo.args.max_steps=40",
    "stages.rloo.args.save_steps=4",
)  # fmt: skip


@pytest.mark.slow
def test_interrupted_and_killed_runs_end_with_the_weights_of_an_uninterrupted_one(tmp_path, stages_of):
    runs = tmp_path / "runs"
    sft, rloo = stages_of(*LONG, f"runs_dir={runs}", "method=rloo")

    first = start(runs, *LONG, "method=rloo")
    once(lambda: len(logged(rloo.folder, "reward")) >= 6, first)
    first.send_signal(signal.SIGTERM)
    code, said = finish(first)
    assert code == 130, said
    assert rloo.state == "interrupted"
    assert "goes on from step" in said
    assert sft.state == "finished"
    sft_written = (sft.folder / "metrics.json").stat().st_mtime_ns

    second = start(runs, *LONG, "method=rloo")
    stopped_at = int(run_folder.checkpoints(rloo.folder)[-1].name.rpartition("-")[2])
    once(lambda: len(logged(rloo.folder, "reward")) >= stopped_at + 8, second)
    os.kill(run_folder.read_json(rloo.folder / "run.json")["pid"], signal.SIGKILL)
    code, said = finish(second)
    assert code == 1, said
    assert "ended by signal 9" in said

    code, said = finish(start(runs, *LONG, "method=rloo"))
    assert code == 0, said
    assert "resuming from checkpoint-" in said
    assert (sft.folder / "metrics.json").stat().st_mtime_ns == sft_written, "the finished stage ran again"
    steps = [line["step"] for line in run_folder.read_jsonl(rloo.folder / "metrics.jsonl") if "reward" in line]
    assert steps == list(range(1, 41)), "the log has every step once"
    assert any(norm > 0 for norm in logged(rloo.folder, "grad_norm"))

    other = tmp_path / "other"
    shutil.copytree(sft.folder, other / sft.folder.name)
    code, said = finish(start(other, *LONG, "method=rloo"))
    assert code == 0, said
    assert same_weights(other / rloo.folder.name, rloo.folder)


@pytest.mark.slow
def test_a_chain_ends_with_a_report_and_a_second_call_reuses_it(tmp_path, run_main):
    words = [*TINY, f"runs_dir={tmp_path}"]
    code, out, _ = run_main(*words)
    assert code == 0, out
    metrics = json.loads((tmp_path / "quickstart" / "metrics.json").read_text())
    assert {"sft", "rloo", "rloo_minus_sft", "seconds"} <= metrics.keys()
    assert (tmp_path / "quickstart" / "report.html").stat().st_size > 10_000
    assert "next:" in out
    code, out, _ = run_main(*words)
    assert code == 0
    assert out.count("reused") == 3


def test_a_run_folder_in_use_is_waited_for_and_then_reused(tmp_path, stages_of, capsys):
    stage = stages_of(*TINY, f"runs_dir={tmp_path}", "method=sft")[0]
    script = (
        "import sys, time; from pathlib import Path; from qwen_align.stage import run_folder\n"
        "folder = Path(sys.argv[1])\n"
        "with run_folder.locked(folder, ''):\n"
        "    print('held', flush=True); time.sleep(1)\n"
        "    run_folder.update(folder, state='finished')\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script, str(stage.folder)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    assert run.run_stage(stage, afresh=False) == "reused"
    assert f"in use by process {owner.pid}" in capsys.readouterr().out
    owner.wait()


def test_force_empties_only_the_last_stage(tmp_path, stages_of):
    stage = stages_of(*TINY, f"runs_dir={tmp_path}", "method=sft")[0]
    old = stage.folder / "checkpoints" / "checkpoint-1" / "old.txt"
    old.parent.mkdir(parents=True)
    old.write_text("from before")
    run.prepare(stage, afresh=True)
    assert not old.exists()
    assert run_folder.state(stage.folder) == "planned"
