"""RLOO reads the same prompts after a resume, in every epoch, and logs of several rewards and of groups what TRL doesn't."""

import pytest
import torch
from conftest import planned
from processes import resumes_exactly
from tiny import TINY
from trained import finished
from transformers import LlamaConfig, LlamaForCausalLM

from qwen_align import run_folder
from qwen_align.model import from_scratch

pytestmark = pytest.mark.slow


def test_a_resume_after_the_first_epoch_is_exact(tmp_path, stages_of):
    words = [
        *TINY, f"runs_dir={tmp_path}", "method=rloo", "data.problems=64", "stages.sft.args.max_steps=60",
        "stages.rloo.args.max_steps=7", "stages.rloo.args.save_steps=5", "reward.malformed=-1",
    ]  # fmt: skip
    sft, rloo = stages_of(*words)
    for stage in (sft, rloo):
        finished(stage)
    assert resumes_exactly(rloo.folder, "checkpoint-5"), "four steps are an epoch"
    rewards = [line["reward"] for line in run_folder.read_jsonl(rloo.folder / "metrics.jsonl") if "reward" in line]
    assert len(rewards) == 7


VERIFIER = {"_target_": "qwen_align.reward.verifier.VerifierReward", "verifier": "countdown"}


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The logged steps and the metrics of a run with two rewards, a KL term, and completions that are all cut."""
    words = [
        *TINY, f"runs_dir={tmp_path_factory.mktemp('runs')}", "method=rloo", "max_completion_length=2",
        "stages.rloo.args.beta=0.05", "stages.rloo.args.max_steps=6", "stages.rloo.args.save_steps=6",
        "stages.rloo.args.learning_rate=0.01", "stages.rloo.args.weight_decay=10",
    ]  # fmt: skip
    stages = planned(*words)
    stages[-1].config["method"]["reward"] = {
        "_target_": "qwen_align.reward.several", "plain": VERIFIER, "cut": VERIFIER | {"malformed": -5, "clip": [-1, 1]},
    }  # fmt: skip
    for stage in stages:
        finished(stage)
    lines = run_folder.read_jsonl(stages[-1].folder / "metrics.jsonl")
    return [line for line in lines if "reward" in line], run_folder.read_json(stages[-1].folder / "metrics.json")


def test_every_reward_has_metrics_of_its_own(logged):
    lines, _ = logged
    assert lines[0]["rewards/plain/mean"] == 0.0
    assert lines[0]["rewards/cut/mean"] == -1.0, "cut before it is weighted"
    assert lines[0]["reward"] == -1.0


def test_groups_are_judged_without_the_kl_term(logged):
    lines, _ = logged
    assert [line["groups_without_variance"] for line in lines] == [1.0] * 6
    assert lines[-1]["kl"] != 0, "weight decay alone has moved the policy"
    assert lines[-1]["frac_reward_zero_std"] < 1.0, "TRL's number has the KL term in it"


def test_the_metrics_hold_the_warnings(logged):
    _, metrics = logged
    kinds = {warning["kind"] for warning in metrics["train"]["warnings"]}
    assert {"completions_cut", "groups_without_variance"} <= kinds


@pytest.fixture
def two_revisions(tmp_path, monkeypatch):
    """A Hub cache with two revisions of org/tiny, each with weights of its own."""
    tokenizer = from_scratch("Numbers target", 100, hidden_size=16, num_attention_heads=2, num_key_value_heads=2)[1]
    home = tmp_path / "hub" / "models--org--tiny"
    (home / "refs").mkdir(parents=True)
    for seed, revision in enumerate(("main", "other")):
        torch.manual_seed(seed)
        size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
        policy = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size, **heads))
        for saved in (policy, tokenizer):
            saved.save_pretrained(home / "snapshots" / f"{seed:040}")
        (home / "refs" / revision).write_text(f"{seed:040}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_the_reference_is_of_the_policys_own_revision(two_revisions, tmp_path):
    (stage,) = planned(
        "method=rloo", "init=base", "model.name=org/tiny", "model.revision=other", "data=countdown", "reward=countdown",
        "max_completion_length=8", "evaluation.problems=2", "evaluation.samples=1", "method.prompts_per_step=2",
        "method.args.num_generations=2", "method.args.beta=0.05", "method.args.max_steps=1", "method.args.logging_steps=1",
        "method.args.gradient_checkpointing=false", f"runs_dir={tmp_path}", "hardware=cpu",
    )  # fmt: skip
    finished(stage)
    first = run_folder.read_jsonl(stage.folder / "metrics.jsonl")[0]
    assert first["kl"] == pytest.approx(0, abs=1e-5), "main's weights are others"
