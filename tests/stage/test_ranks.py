"""Of several processes that ended: which one failed first."""

import torch

from qwen_align import run_folder
from qwen_align.stage import ranks

LOST = "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"


def status(error: str | None, ended: float, code: int = 1) -> dict:
    return {"pid": 1, "host": "here", "ended": ended, "error": error, "code": code}


def test_the_first_error_counts_not_what_it_did_to_others():
    assert ranks.first_failure({0: status(LOST, 2.0), 1: status("ValueError: boom", 1.0)}, 2) == (1, "ValueError: boom", 1)
    assert ranks.first_failure({0: status(LOST, 1.0), 1: status("ValueError: boom", 2.0)}, 2) == (1, "ValueError: boom", 1)


def test_a_process_without_an_end_was_killed():
    rank, error, code = ranks.first_failure({0: status(LOST, 1.0), 1: {"pid": 1, "host": "here"}}, 2)
    assert (rank, code) == (1, 1)
    assert "killed" in error


def test_an_error_of_its_own_beats_the_silence_of_one_that_the_launcher_killed():
    statuses = {0: {"pid": 1, "host": "here"}, 1: status("ValueError: boom", 1.0)}
    assert ranks.first_failure(statuses, 2) == (1, "ValueError: boom", 1)


def test_an_error_that_all_have_is_that_of_rank_0():
    statuses = {0: status("data.problems=0: no", 2.0, 2), 1: status("data.problems=0: no", 1.0, 2)}
    assert ranks.first_failure(statuses, 2) == (0, "data.problems=0: no", 2)


def test_nothing_began():
    assert ranks.first_failure({}, 2) is None


def test_statuses_are_read_back_and_cleared(tmp_path):
    ranks.write_status(tmp_path, 0)
    ranks.write_status(tmp_path, 1, ended=1.0, error="boom", code=1)
    statuses = ranks.read_statuses(tmp_path)
    assert "ended" not in statuses[0]
    assert statuses[1]["error"] == "boom"
    ranks.clear_statuses(tmp_path)
    assert ranks.read_statuses(tmp_path) == {}


def test_a_rank_in_the_environment_counts_only_under_our_launcher(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert ranks.place() == (0, 1)
    monkeypatch.setenv("QWEN_ALIGN_LAUNCHER", "deepspeed")
    assert ranks.place() == (3, 8)


def test_slurms_variables_become_torchs(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")  # so that they are restored
    for name, value in {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("QWEN_ALIGN_LAUNCHER", "srun")
    assert ranks.place() == (5, 8)


def test_all_ranks_but_the_first_leave_the_run_folder_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "read_only", True)
    run_folder.update(tmp_path, state="running")
    run_folder.write_text(tmp_path / "a", "b")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_two_processes_needs_the_random_state_of_both(tmp_path):
    step = tmp_path / "checkpoints" / "checkpoint-2"
    step.mkdir(parents=True)
    run_folder.update(tmp_path, world_size=2)
    for name in ("trainer_state.json", "scheduler.pt", "optimizer.pt"):
        (step / name).write_text('{"global_step": 2}')
    torch.save({"cpu": torch.get_rng_state()}, step / "rng_state_0.pth")
    assert run_folder.checkpoints(tmp_path) == []
    whole = (step / "rng_state_0.pth").read_bytes()
    (step / "rng_state_1.pth").write_bytes(whole[: len(whole) // 2])
    assert run_folder.checkpoints(tmp_path) == [], "rank 1 was killed while it wrote"
    (step / "rng_state_1.pth").write_bytes(whole)
    assert run_folder.checkpoints(tmp_path) == [step]


def test_deepspeeds_optimizer_files_are_known_by_their_index(tmp_path):
    step = tmp_path / "checkpoints" / "checkpoint-2"
    step.mkdir(parents=True)
    for name in ("trainer_state.json", "scheduler.pt"):
        (step / name).write_text('{"global_step": 2}')
    assert run_folder.checkpoints(tmp_path) == []
    (step / "latest").write_text("global_step2")
    assert run_folder.checkpoints(tmp_path) == [step]
