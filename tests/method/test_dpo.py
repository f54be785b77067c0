"""DPO: what it compares with, its loss types, and that a resume is exact."""

import math

import pytest
from processes import resumes_exactly
from trained import on_pairs, steps

from qwen_align import run_folder
from qwen_align.method import evaluate, health, preferences

pytestmark = pytest.mark.slow


@pytest.fixture
def stage(tmp_path, stages_of):
    """stage(*overrides): one DPO stage on a file of pairs."""
    return lambda *more: stages_of(*on_pairs(tmp_path, "dpo"), *more)[-1]


@pytest.mark.parametrize(
    "overrides",
    [(), ("method.args.precompute_ref_log_probs=false",), ("adapter=lora",)],
    ids=["computed before", "copied", "adapter off"],
)
def test_the_reference_is_the_policy_that_training_starts_from(stage, overrides):
    lines = steps(stage(*overrides))
    assert len(lines) == 4
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert lines[-1]["rewards/margins"] > 0


def test_both_kinds_of_reference_train_the_same(stage):
    before, copied = steps(stage()), steps(stage("method.args.precompute_ref_log_probs=false"))
    assert [line["loss"] for line in before] == pytest.approx([line["loss"] for line in copied], abs=1e-5)


def test_full_fine_tuning_computes_the_reference_before_and_an_adapter_needs_none(stage, monkeypatch):
    seen = []
    monkeypatch.setattr(preferences, "fit", lambda trainer, *_: seen.append(trainer) or {})
    monkeypatch.setattr(evaluate, "after_training", lambda *_: {})
    for overrides in [(), ("adapter=lora",), ("method.args.precompute_ref_log_probs=false",)]:
        steps(stage(*overrides))
    full, lora, copied = seen
    assert (full.args.precompute_ref_log_probs, full.ref_model) == (True, None)
    assert (lora.args.precompute_ref_log_probs, lora.ref_model) == (False, None)
    assert copied.ref_model is not None


@pytest.mark.parametrize(
    ("overrides", "first"),
    [
        (["method.args.loss_type=[hinge]"], 1.0),
        (["method.args.loss_type=[ipo]", "method.args.beta=0.5"], 1.0),  # (0 - 1 / (2 beta))^2
        (["method.args.loss_type=[robust]", "method.args.label_smoothing=0.1"], math.log(2)),
        (["method.args.loss_type=[sigmoid_norm]"], math.log(2)),
        (["method.args.loss_type=[sigmoid,hinge]", "method.args.loss_weights=[1.0,0.5]"], math.log(2) + 0.5),
    ],
    ids=lambda value: value[0].rpartition("=")[2] if isinstance(value, list) else "",
)
def test_variants_are_trls_loss_types(stage, overrides, first):
    lines = steps(stage(*overrides))
    assert lines[0]["loss"] == pytest.approx(first, abs=1e-4)
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_a_resumed_run_ends_with_the_same_weights(stage):
    one = stage("method.args.save_steps=3")
    steps(one)
    assert resumes_exactly(one.folder, "checkpoint-3")


def test_a_warning_is_printed_once_and_kept_with_the_metrics(stage, monkeypatch, capsys):
    monkeypatch.setattr(health, "FALL", -1000.0)
    one = stage("method.args.num_train_epochs=15")
    assert len(steps(one)) == 60
    (warning,) = run_folder.read_json(one.folder / "metrics.json")["train"]["warnings"]
    assert (warning["kind"], warning["step"]) == ("chosen_falls", health.WINDOW)
    assert capsys.readouterr().out.count("warning at step") == 1
