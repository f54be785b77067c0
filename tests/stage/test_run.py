"""The stages of a plan in processes: side by side, failed, interrupted, killed, resumed, reused."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from processes import finish, logged, once, same_weights, start
from tiny import TINY

from qwen_align import run_folder
from qwen_align.stage import launch, run
from qwen_align.stage.run import StageFailed

LONG = (*TINY, "stages.sft.args.max_steps=80", "stages.sft.batch_size=32", "stages.rloo.args.max_steps=40")
LONG += ("stages.rloo.args.save_steps=4",)


def worker_of(stage) -> int:
    return run_folder.read_json(stage.folder / "run.json")["pid"]


@pytest.mark.slow
def test_interrupted_and_killed_runs_end_with_the_weights_of_an_uninterrupted_one(tmp_path, stages_of):
    runs = tmp_path / "runs"
    sft, rloo = stages_of(*LONG, f"runs_dir={runs}", "method=rloo")

    first = start(runs, *LONG, "method=rloo")
    once((sft.folder / "metrics.jsonl").is_file, first)
    children = psutil.Process(first.pid).children()
    (server,) = [
        child for child in children if "qwen_align.stage.fork_server" in child.cmdline() and child.pid != worker_of(sft)
    ]
    server.kill()
    once(lambda: len(logged(rloo.folder, "reward")) >= 6, first)
    first.send_signal(signal.SIGTERM)
    code, output = finish(first)
    assert code == 130, output
    assert rloo.state == "interrupted"
    assert "goes on from step" in output
    assert output.count("stages start in fresh processes, not from the fork server: it ended with exit code -9") == 1
    assert sft.state == "finished"
    sft_written = (sft.folder / "metrics.json").stat().st_mtime_ns

    second = start(runs, *LONG, "method=rloo")
    stopped_at = int(run_folder.checkpoints(rloo.folder)[-1].name.rpartition("-")[2])
    once(lambda: len(logged(rloo.folder, "reward")) >= stopped_at + 8, second)
    os.kill(worker_of(rloo), signal.SIGKILL)
    code, output = finish(second)
    assert code == 1, output
    assert "ended by signal 9" in output

    code, output = finish(start(runs, *LONG, "method=rloo"))
    assert code == 0, output
    assert "resuming from checkpoint-" in output
    assert (sft.folder / "metrics.json").stat().st_mtime_ns == sft_written, "the finished stage ran again"
    steps = [line["step"] for line in run_folder.read_jsonl(rloo.folder / "metrics.jsonl") if "reward" in line]
    assert steps == list(range(1, 41)), "the log has every step once"
    assert any(norm > 0 for norm in logged(rloo.folder, "grad_norm"))

    other = tmp_path / "other"
    shutil.copytree(sft.folder, other / sft.folder.name)
    code, output = finish(start(other, *LONG, "method=rloo"))
    assert code == 0, output
    assert "fresh processes" not in output, "its one stage was forked, the others ran in fresh processes too"
    assert same_weights(other / rloo.folder.name, rloo.folder)


@pytest.mark.slow
def test_a_chain_ends_with_a_report_and_a_second_call_reuses_it(tmp_path, run_main):
    given = [*TINY, f"runs_dir={tmp_path}"]
    code, out, _ = run_main(*given)
    assert code == 0, out
    metrics = json.loads((tmp_path / "smoke" / "metrics.json").read_text())
    assert {"sft", "rloo", "seconds"} <= metrics.keys()
    assert (tmp_path / "smoke" / "report.html").stat().st_size > 10_000
    assert "next:" in out
    code, out, _ = run_main(*given)
    assert code == 0
    assert out.count("reused") == 3


# What a stage's processes do in the tests below: a stage of seed 9 fails, each notes when it ran, SIGTERM is an interruption.
WORKER = """
import json, signal, sys, time
from pathlib import Path
from qwen_align import run_folder
folder = Path(sys.argv[1])
signals = []
signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
began, seed = time.time(), (folder / "config.yaml").read_text().partition("\\nseed: ")[2][0]
print("output of seed", seed, flush=True)
while time.time() < began + float(sys.argv[2]) and not signals:
    time.sleep(0.02)
time.sleep(0.2 * len(signals))
state = "interrupted" if signals else "failed" if seed == "9" else "finished"
run_folder.update(folder, state=state, ran=[began, time.time()], signals=len(signals), error="boom" if seed == "9" else None)
sys.exit({"finished": 0, "failed": 1, "interrupted": 130}[state])
"""


def policies(*seeds: int) -> tuple[str, ...]:
    """A comparison of SFT with each of these seeds."""
    rows = f"method.rows={{sft: {{seeds: {list(seeds)}, overrides: ['method=sft']}}}}"
    return (*TINY, "method=compare", rows, "method.metrics=[pass@1]")


@pytest.fixture
def worker(monkeypatch):
    """worker(seconds): let the processes of a stage be WORKER, which leaves no model."""
    monkeypatch.setattr(run.preflight, "require", lambda stages: None)

    def use(seconds: float = 0.0) -> None:
        argv = lambda hardware, folder: [sys.executable, "-c", WORKER, str(folder), str(seconds)]  # noqa: E731
        monkeypatch.setattr(launch, "command", argv)

    use()
    return use


def overlap(one, other) -> bool:
    (a, b), (c, d) = (run_folder.read_json(stage.folder / "run.json")["ran"] for stage in (one, other))
    return a < d and c < b


@pytest.mark.parametrize("workers", [1, 2])
def test_as_many_stages_run_at_once_as_there_are_workers(stages_of, worker, workers):
    worker(0.5)
    one, other, compare = stages_of(*policies(1, 2))
    run.execute([one, other, compare], force=False, overrides=[], workers=workers)
    assert overlap(one, other) == (workers > 1)
    assert not overlap(other, compare), "what it needs comes first"


def test_side_by_side_output_is_in_the_logs_and_the_terminal_has_a_line_a_stage(stages_of, worker, capfd):
    one, other, compare = stages_of(*policies(1, 2))
    run.execute([one, other, compare], force=False, overrides=[], workers=2)
    out, bar = capfd.readouterr()
    assert "output of seed" not in out
    assert re.findall(r"sft of sft, seed \d: finished after", out) and "compare: finished after" in out
    assert "3/3" in bar
    assert (one.folder / "log.txt").read_text() == "output of seed 1\n"


def test_one_at_a_time_the_output_is_on_the_terminal_too(stages_of, worker, capfd):
    (sft,) = stages_of(*TINY, "method=sft", "seed=3")
    run.execute([sft], force=False, overrides=[])
    assert "output of seed 3" in capfd.readouterr().out


@pytest.mark.parametrize("workers", [1, 2])
def test_one_that_fails_ends_no_other_but_what_needs_it(stages_of, worker, capsys, workers):
    bad, good, compare = stages_of(*policies(9, 1))
    with pytest.raises(StageFailed, match="sft of sft, seed 9 failed: boom; see ") as caught:
        run.execute([bad, good, compare], force=False, overrides=[], workers=workers)
    assert caught.value.code == 1
    assert (bad.state, good.state, compare.state) == ("failed", "finished", "missing")
    assert "missing" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_all_that_run_to_stop_once_and_nothing_else_begins(stages_of, worker, number):
    worker(60)
    stages = stages_of(*policies(1, 2, 3))

    def interrupt() -> None:
        running = stages[:2]
        while not all((stage.folder / "log.txt").is_file() and (stage.folder / "log.txt").stat().st_size for stage in running):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    with pytest.raises(
        StageFailed, match=r"sft of sft, seed \d was interrupted; .*\n.*sft of sft, seed \d was interrupted"
    ) as caught:
        run.execute(stages, force=False, overrides=[], workers=2)
    assert caught.value.code == launch.INTERRUPTED
    assert [stage.state for stage in stages] == ["interrupted", "interrupted", "missing", "missing"]
    assert [run_folder.read_json(stage.folder / "run.json")["signals"] for stage in stages[:2]] == [1, 1]


def test_a_process_that_ends_well_without_a_result_is_an_error(stages_of, monkeypatch):
    monkeypatch.setattr(launch, "command", lambda hardware, folder: [sys.executable, "-c", ""])
    (sft,) = stages_of(*TINY, "method=sft")
    with pytest.raises(StageFailed, match=r"sft ended without a result; see ") as caught:
        run.execute([sft], force=False, overrides=[])
    assert caught.value.code == launch.USER_ERROR


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_folder_in_use_is_waited_for_and_then_reused(tmp_path, stages_of, capsys, worker, workers):
    held, free, compare = stages_of(*policies(1, 2))
    script = (
        "import sys, time; from pathlib import Path; from qwen_align import run_folder\n"
        "folder = Path(sys.argv[1])\n"
        "with run_folder.locked(folder):\n"
        "    print('held', flush=True); time.sleep(1)\n"
        "    run_folder.update(folder, state='finished')\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script, str(held.folder)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    run.execute([held, free, compare], force=False, overrides=[], workers=workers)
    out = capsys.readouterr().out
    assert out.count(f"in use by process {owner.pid}") == 1
    assert "reused" in out
    owner.wait()


def test_force_empties_only_the_last_stage(stages_of, worker):
    one, other, compare = stages_of(*policies(1, 2))
    run.execute([one, other, compare], force=False, overrides=[])
    before = {stage: run_folder.read_json(stage.folder / "run.json")["ran"] for stage in (one, other, compare)}
    (compare.folder / "old.txt").write_text("from before")
    run.execute([one, other, compare], force=True, overrides=[])
    after = {stage: run_folder.read_json(stage.folder / "run.json")["ran"] for stage in before}
    assert [before[stage] == after[stage] for stage in before] == [True, True, False]
    assert not (compare.folder / "old.txt").exists()


def test_run_json_says_where_a_stage_came_from(stages_of, worker):
    stages = sft, _, best_of_n = stages_of(*TINY)
    run.execute(list(stages), force=False, overrides=["experiment=smoke"])
    manifest = run_folder.read_json(best_of_n.folder / "run.json")
    assert manifest["format"] == run_folder.FORMAT
    assert manifest["parents"] == {"init": str(stages[1].folder), "rewards": {}, "policies": {}}
    assert manifest["command"] == "python -m qwen_align experiment=smoke"
    assert run_folder.read_json(sft.folder / "run.json")["parents"]["init"] is None
