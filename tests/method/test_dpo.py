"""DPO: what it compares with, what it leaves out aloud, and which settings it refuses before it trains."""

import json
import math

import pytest
from datasets import Dataset
from processes import resumes_exactly
from tiny import TINY

from qwen_align.errors import ConfigError
from qwen_align.method import dpo, health, policy
from qwen_align.stage import run, run_folder, worker

PROMPT = [{"role": "user", "content": "Numbers 1 2 target 3"}]


def says(text):
    return [{"role": "assistant", "content": text}]


def pairs(n=32):
    """Pairs with columns that DPOTrainer would read as something else, or trip over."""
    for i in range(n):
        yield {
            "prompt": [{"role": "user", "content": f"Numbers {i} 2 target {i + 2}"}],
            "chosen": says(f"{i} + 2"), "rejected": says(f"{i} - 2 - {i}"),
            "chosen_score": 1.0, "margin": 0.5, "images": None,
        }  # fmt: skip


@pytest.fixture
def stage(tmp_path, stages_of):
    """stage(*words): one DPO stage on a file of pairs, from a policy that was built in memory."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs()))
    words = [
        *(word for word in TINY if word.startswith("model.")), "model=countdown_tiny", "hardware=cpu", "method=dpo",
        "checkpoints.keep=2",
        "init=base", f"runs_dir={tmp_path}/runs", "data=local", f"data.preferences_path={path}", "method.batch_size=8",
        "method.args.max_length=64", "method.args.learning_rate=1e-3", "method.args.logging_steps=1",
        "method.args.activation_checkpointing=false",
    ]  # fmt: skip
    return lambda *more: stages_of(*words, *more)[-1]


def trained(stage):
    """The logged steps of a stage."""
    run.prepare(stage, afresh=False)
    assert worker.run_stage(stage.folder) == 0, run_folder.read_json(stage.folder / "run.json").get("error")
    return [line for line in run_folder.read_jsonl(stage.folder / "metrics.jsonl") if "loss" in line]


@pytest.mark.parametrize(
    "words",
    [(), ("method.args.precompute_ref_log_probs=false",), ("adapter=lora",)],
    ids=["computed before", "copied", "adapter off"],
)
def test_the_reference_is_the_policy_that_training_starts_from(stage, words):
    lines = trained(stage(*words))
    assert len(lines) == 4
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert lines[-1]["rewards/margins"] > 0


def test_both_kinds_of_reference_train_the_same(stage):
    before, copied = trained(stage()), trained(stage("method.args.precompute_ref_log_probs=false"))
    assert [line["loss"] for line in before] == pytest.approx([line["loss"] for line in copied], abs=1e-5)


def test_full_fine_tuning_computes_the_reference_before_and_an_adapter_needs_none(stage, monkeypatch):
    seen = []
    monkeypatch.setattr(dpo, "fit", lambda trainer, *_: seen.append(trainer) or {})
    monkeypatch.setattr(dpo.evaluate, "after_training", lambda *_: {})
    for words in [(), ("adapter=lora",), ("method.args.precompute_ref_log_probs=false",)]:
        trained(stage(*words))
    full, lora, copied = seen
    assert (full.args.precompute_ref_log_probs, full.ref_model) == (True, None)
    assert (lora.args.precompute_ref_log_probs, lora.ref_model) == (False, None)
    assert copied.ref_model is not None


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["method.args.loss_type=[hinge]"], 1.0),
        (["method.args.loss_type=[ipo]", "method.args.beta=0.5"], 1.0),  # (0 - 1 / (2 beta))^2
        (["method.args.loss_type=[robust]", "method.args.label_smoothing=0.1"], math.log(2)),
        (["method.args.loss_type=[sigmoid_norm]"], math.log(2)),
        (["method.args.loss_type=[sigmoid,hinge]", "method.args.loss_weights=[1.0,0.5]"], math.log(2) + 0.5),
    ],
    ids=lambda value: value[0].rpartition("=")[2] if isinstance(value, list) else "",
)
def test_variants_are_trls_loss_types(stage, words, first):
    lines = trained(stage(*words))
    assert lines[0]["loss"] == pytest.approx(first, abs=1e-4)
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_a_resumed_run_ends_with_the_same_weights(stage):
    one = stage("method.args.save_steps=3")
    trained(one)
    assert resumes_exactly(one.folder, "checkpoint-3")


def test_a_warning_is_said_once_and_kept_with_the_metrics(stage, monkeypatch, capsys):
    monkeypatch.setattr(health, "FALL", -1000.0)
    one = stage("method.args.num_train_epochs=15")
    assert len(trained(one)) == 60
    (warning,) = run_folder.read_json(one.folder / "metrics.json")["train"]["warnings"]
    assert (warning["kind"], warning["step"]) == ("chosen_falls", health.WINDOW)
    assert capsys.readouterr().out.count("warning at step") == 1


def test_a_missing_column_and_an_empty_view_are_refused():
    with pytest.raises(
        ConfigError, match=r"no column rejected, only prompt, chosen; expected prompt, chosen, rejected"
    ):
        dpo.check_rows(Dataset.from_list([{"prompt": PROMPT, "chosen": says("1 + 2")}]))
    with pytest.raises(ConfigError, match="is empty"):
        dpo.check_rows(Dataset.from_dict({"prompt": [], "chosen": [], "rejected": []}))


@pytest.fixture
def tokenizer(stages_of):
    return policy.load(stages_of(*TINY, "method=sft")[0].job)[1]


def test_both_answers_follow_the_prompt(tokenizer):
    rows = Dataset.from_list([{"prompt": PROMPT, "chosen": says("1 + 2"), "rejected": says("2")}])
    (row,) = dpo.tokenise(rows, tokenizer, None)
    assert tokenizer.decode(row["prompt_ids"]).split()[-2:] == ["<|im_start|>", "assistant"]
    assert tokenizer.decode(row["chosen_ids"]).split() == ["1", "+", "2", "<|im_end|>"]
    assert tokenizer.decode(row["rejected_ids"]).split() == ["2", "<|im_end|>"]


def test_pairs_that_are_cut_or_left_out_are_counted(tokenizer, capsys):
    alike = {"prompt": PROMPT, "chosen": says("1 + 2 + 3"), "rejected": says("1 + 2 - 3")}
    apart = {"prompt": PROMPT, "chosen": says("1 + 2 + 3"), "rejected": says("2 + 1")}
    short = {"prompt": PROMPT, "chosen": says("1"), "rejected": says("2")}
    begin = len(dpo.tokenise(Dataset.from_list([short]), tokenizer, None)[0]["prompt_ids"])
    capsys.readouterr()
    kept = dpo.tokenise(Dataset.from_list([alike, apart, short]), tokenizer, begin + 3)
    assert [len(row["chosen_ids"]) for row in kept] == [3, 2]
    said = capsys.readouterr().out
    assert "1 of 3 pairs are longer" in said
    assert "1 more have no two different answers left" in said
    with pytest.raises(ConfigError, match=f"max_length={begin}: no pair has two different answers left"):
        dpo.tokenise(Dataset.from_list([alike, apart, short]), tokenizer, begin)
