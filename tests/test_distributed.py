"""Two processes on this machine, started by the real `deepspeed` launcher: plain DDP, ZeRO-2 and ZeRO-3, with their ends.

The first ZeRO run on a machine compiles for minutes, into the user's cache. What they show is gloo on CPUs; GPUs,
NCCL, several machines, Slurm and SkyPilot have not been run. RLOO samples with another random state on each process, so its
rewards are no function of the seed alone and only sizes are compared.
"""

import math
import os
import signal
from pathlib import Path

import pytest
from conftest import planned
from processes import finish, gone, logged, once, same_weights, start, weights
from tiny import TINY, under
from trained import finished

from qwen_align import model, run_folder
from qwen_align.config import groups
from qwen_align.reward import model as reward_model
from qwen_align.reward.network import fresh
from qwen_align.stage import launch, ranks, run
from qwen_align.stage.plan import Stage

pytestmark = pytest.mark.slow
STEPS, SAVE = 40, 5
SFT = (
    *(*TINY, "method=sft", "checkpoints.keep=9", *under("evaluation", "problems=2 samples=1")),
    *under("stages.sft.args", f"max_steps={STEPS} save_steps={SAVE} per_device_train_batch_size=2 logging_steps=1"),
)


def stage_of(folder: Path, *overrides: str) -> Stage:
    (stage,) = planned(*overrides, f"runs_dir={folder}")
    return stage


def done(folder: Path, *overrides: str) -> Path:
    """Run to the end; the run folder of the last stage."""
    code, output = finish(start(folder, *overrides))
    assert code == 0, output[-3000:]
    return stage_of(folder, *overrides).folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def one(runs):
    """SFT in one process, this one."""
    stage = stage_of(runs / "one", *SFT, "hardware.threads=1")
    return finished(stage)


def folder_in(runs: Path, name: str) -> Path:
    (runs / name).mkdir(exist_ok=True)
    return runs / name


@pytest.fixture(scope="module")
def ddp(runs):
    return done(folder_in(runs, "ddp"), *SFT, "hardware=cpu_ddp")


@pytest.fixture(scope="module")
def zero2(runs):
    return done(folder_in(runs, "zero2"), *SFT, "hardware=cpu_zero2")


@pytest.fixture(scope="module")
def zero3(runs):
    return done(folder_in(runs, "zero3"), *SFT, "hardware=cpu_zero3", f"stages.sft.args.save_steps={STEPS}")


@pytest.mark.parametrize(
    ("name", "kind", "stage"), [("ddp", "MULTI_CPU", None), ("zero2", "DEEPSPEED", 2), ("zero3", "DEEPSPEED", 3)]
)
def test_sft_on_two_processes_is_sft_on_one(request, one, name, kind, stage):
    folder = request.getfixturevalue(name)
    manifest = run_folder.read_json(folder / "run.json")
    assert (manifest["world_size"], manifest["distributed_type"], manifest["zero_stage"]) == (2, kind, stage)
    assert len(logged(folder, "loss")) == STEPS
    assert logged(folder, "loss") == pytest.approx(logged(one, "loss"), rel=1e-4)
    assert logged(folder, "grad_norm") == pytest.approx(logged(one, "grad_norm"), rel=1e-3)
    assert logged(folder, "num_tokens") == logged(one, "num_tokens"), "the same demonstrations at each step"
    expected, _ = model.from_run(one)
    policy, tokenizer = model.from_run(folder)
    for (key, a), (_, b) in zip(expected.named_parameters(), policy.named_parameters(), strict=True):
        assert a.shape == b.shape, key
        assert (a - b).abs().max() < 1e-3, key
    assert tokenizer.eos_token == "<|im_end|>"
    assert len(run_folder.read_jsonl(folder / "samples.jsonl")) == 2, "measured once, by rank 0"


@pytest.fixture(scope="module")
def encoder(runs):
    """A reward model with random weights, as method=reward would leave it."""
    base = groups.read("reward", "deberta_tiny")["base"]
    texts = ["target = + - * / ( ) <think> </think> <answer> </answer>", " ".join(map(str, range(101)))]
    network, tokenizer = fresh(base, "pair", None, texts)
    folder = runs / "encoder" / "model"
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    reward_model.save(reward_model.RewardModel(base=base, name="deberta_tiny", max_length=128), folder, offset=0.0)
    return folder


@pytest.mark.parametrize("hardware", ["cpu_zero2", "cpu_zero3"])
def test_rloo_on_two_processes_trains_on_whole_groups_with_a_reward_model(runs, one, encoder, hardware):
    overrides = [text for text in SFT if not text.startswith("method=")]
    overrides += under("stages.rloo.args", "per_device_train_batch_size=8 beta=0.05 warmup_steps=0")
    overrides += ["method=rloo", f"init={one}", "reward=deberta_tiny", f"reward.folder={encoder}"]
    folder = done(folder_in(runs, f"rloo_{hardware}"), *overrides, f"hardware={hardware}")
    assert run_folder.read_json(folder / "run.json")["world_size"] == 2
    lines = [line for line in run_folder.read_jsonl(folder / "metrics.jsonl") if "reward" in line]
    assert len(lines) == 3
    assert all(math.isfinite(line["reward"]) and line["reward_std"] > 0 and line["grad_norm"] > 0 for line in lines)
    assert lines[0]["epoch"] == pytest.approx(1 / (200 // 16)), "16 of 200 prompts a step over both processes"
    assert not same_weights(one, folder)
    model.from_run(folder)


@pytest.mark.long
def test_dpo_on_two_processes_is_dpo_on_one(runs):
    overrides = (
        *("experiment=quickstart_instruct", "method=dpo", "init=base", "name=null", "method.batch_size=8"),
        *under("data", "problems=200 pairs=160"),
        *under("method.args", "per_device_train_batch_size=4 max_steps=8 logging_steps=1"),
        *under("evaluation", "problems=2 samples=1"),
    )
    stage = stage_of(runs / "dpo_one", *overrides, "hardware.threads=1")
    finished(stage)
    folder = done(folder_in(runs, "dpo_two"), *overrides, "hardware=cpu_ddp")
    assert run_folder.read_json(folder / "run.json")["world_size"] == 2
    assert len(logged(folder, "loss")) == 8
    assert logged(folder, "loss") == pytest.approx(logged(stage.folder, "loss"), rel=1e-3)
    assert logged(folder, "rewards/margins") == pytest.approx(logged(stage.folder, "rewards/margins"), rel=0.05, abs=1e-4)


def killed(folder: Path, overrides: tuple[str, ...]) -> tuple[Path, int, str]:
    """Rank 1 killed after the first checkpoint: the run folder, exit code and output."""
    child = start(folder, *overrides)
    stage = stage_of(folder, *overrides)
    once(lambda: run_folder.checkpoints(stage.folder), child)
    statuses = ranks.read_statuses(stage.folder)
    os.kill(statuses[1]["pid"], signal.SIGKILL)
    code, output = finish(child)
    once(lambda: all(gone(status["pid"]) for status in statuses.values()))
    return stage.folder, code, output


def test_a_killed_rank_ends_all_and_the_run_resumes_bit_for_bit(runs, ddp):
    overrides = (*SFT, "hardware=cpu_ddp")
    folder, code, output = killed(folder_in(runs, "killed"), overrides)
    assert code == 1
    assert "error: sft failed: rank 1 of 2: ended without a word: killed from outside" in output
    assert not (folder / "model").exists()
    assert done(folder.parent, *overrides) == folder
    assert "resuming from checkpoint-" in (folder / "log.txt").read_text()
    assert same_weights(ddp, folder)
    assert logged(folder, "loss") == logged(ddp, "loss")


@pytest.mark.long
def test_a_killed_rank_under_zero2_with_an_adapter_resumes_bit_for_bit(runs):
    overrides = (*SFT, "hardware=cpu_zero2", "adapter=lora")
    expected = done(folder_in(runs, "adapter"), *overrides)
    assert any(name.startswith("adapter_model") for name in weights(expected)), "it is compared too"
    folder, code, output = killed(folder_in(runs, "killed_adapter"), overrides)
    assert code == 1, output
    assert done(folder.parent, *overrides) == folder
    assert "resuming from checkpoint-" in (folder / "log.txt").read_text()
    assert same_weights(expected, folder)


@pytest.mark.long
def test_a_stop_saves_at_the_same_step_everywhere_and_the_run_resumes_bit_for_bit(runs, zero2):
    overrides = (*SFT, "hardware=cpu_zero2")
    place = folder_in(runs, "stopped")
    folder = stage_of(place, *overrides).folder
    child = start(place, *overrides)
    once(lambda: logged(folder, "loss"), child)
    child.send_signal(signal.SIGTERM)
    code, output = finish(child)
    assert code == launch.INTERRUPTED, output[-3000:]
    last = run_folder.checkpoints(folder)[-1]
    assert f"goes on from step {last.name.rpartition('-')[2]}" in output
    assert run_folder.read_json(folder / "run.json")["state"] == "interrupted"
    assert done(place, *overrides) == folder
    assert same_weights(zero2, folder)


BROKEN = """
import os
from qwen_align.data.countdown import Countdown


class Broken(Countdown):
    def demonstrations(self):
        if os.environ["RANK"] == "1":
            print("about to fail", flush=True)
            raise ValueError("boom")
        return super().demonstrations()
"""


def test_a_rank_that_fails_is_named_with_its_log_and_ends_the_others(tmp_path, monkeypatch, capfdbinary):
    (tmp_path / "broken_data.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    stage = stage_of(tmp_path, *SFT, "hardware=cpu_ddp")
    stage.config["data"]["_target_"] = "broken_data.Broken"
    run.prepare(stage, afresh=False)
    with (tmp_path / ".lock").open("w") as lock:
        code = launch.Child(stage.folder, stage.job.hardware, lock.fileno()).wait()
    assert code == 1
    manifest = run_folder.read_json(stage.folder / "run.json")
    assert (manifest["state"], manifest["error"]) == ("failed", "rank 1 of 2: ValueError: boom")
    output = capfdbinary.readouterr().out.decode()
    assert "rank 1 of 2 ended first; the end of log-rank1.txt:" in output
    assert "ValueError: boom" in output
    assert "about to fail" in (stage.folder / "log-rank1.txt").read_text()
    once(lambda: all(gone(status["pid"]) for status in ranks.read_statuses(stage.folder).values()))
