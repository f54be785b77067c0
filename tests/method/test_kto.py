"""KTO: answers of pairs one by one, a KL term from mismatched rows, the reference, and an exact resume."""

import pytest
from datasets import Dataset
from processes import resumes_exactly
from trained import on_pairs, says, steps

from qwen_align import run_folder
from qwen_align.errors import ConfigError
from qwen_align.method.kto import KTO

pytestmark = pytest.mark.slow


@pytest.fixture
def stage(tmp_path, stages_of):
    """stage(*overrides): one KTO stage on a file of 32 pairs."""
    return lambda *more: stages_of(*on_pairs(tmp_path, "kto"), *more)[-1]


def test_both_answers_of_a_pair_become_examples_in_a_shuffled_order():
    pairs = Dataset.from_list(
        [{"prompt": [{"role": "user", "content": str(i)}], "chosen": says("yes"), "rejected": says("no")} for i in range(20)]
    )
    rows = KTO.examples(pairs, seed=0)
    assert len(rows) == 40
    assert all((row["completion"] == says("yes")) == row["label"] for row in rows)
    assert 0 < sum(rows["label"][:20]) < 20, "not all of one kind first"
    assert rows["prompt"][:] == KTO.examples(pairs, seed=0)["prompt"][:] != KTO.examples(pairs, seed=1)["prompt"][:]


def test_each_prompt_in_memory_gets_its_neighbours_answer():
    rows = KTO.batched(Dataset.from_dict({"completion_ids": [[1], [2], [3], [4], [5]]}), 3)
    assert rows["KL_completion_ids"][:] == [[3], [1], [2], [5], [4]]


@pytest.mark.parametrize(
    "overrides",
    [(), ("method.args.precompute_ref_log_probs=false",), ("adapter=lora",), ("method.args.loss_type=apo_zero_unpaired",)],
    ids=["computed before", "copied", "adapter off", "no KL term"],
)
def test_it_starts_at_no_difference_from_its_reference_and_learns(stage, overrides):
    lines = steps(stage(*overrides))
    assert len(lines) == 8, "64 answers, 8 an update"
    assert lines[0]["loss"] == pytest.approx(0.5, abs=1e-5)
    assert lines[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert lines[-1]["rewards/margins"] > 0
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_both_kinds_of_reference_train_the_same(stage):
    before, copied = steps(stage()), steps(stage("method.args.precompute_ref_log_probs=false"))
    for key in ("loss", "kl"):
        assert [line[key] for line in before] == pytest.approx([line[key] for line in copied], abs=1e-5)


def test_a_resumed_run_ends_with_the_same_weights(stage):
    one = stage("method.args.max_steps=11", "method.args.save_steps=9")
    steps(one)
    assert resumes_exactly(one.folder, "checkpoint-9"), "eight steps are an epoch"


def test_the_run_says_how_it_was_measured_and_on_what(stage):
    one = stage()
    steps(one)
    assert run_folder.read_json(one.folder / "run.json")["data"]["preferences"]["rows"] == 32
    assert run_folder.read_json(one.folder / "metrics.json")["train"]["steps"] == 8


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.args.per_device_train_batch_size=1"], "per_device_train_batch_size=1: the KL term needs two answers"),
        (["method.args.train_sampling_strategy=random"], "train_sampling_strategy=random: the KL term pairs neighbours"),
        (["method.args.loss_type=sigmoid"], "loss_type=sigmoid: expected one of "),
        (["method.args.beta=0"], "beta=0: expected a number above 0"),
    ],
    ids=lambda value: value[0].partition("=")[0] if isinstance(value, list) else "",
)
def test_settings_that_trl_notices_late_are_refused_first(stage, overrides, message):
    with pytest.raises(ConfigError, match=f"method.args.{message}"):
        stage(*overrides)


def test_without_a_kl_term_any_order_and_any_batch_is_right(stage):
    free = "method.args.loss_type=apo_zero_unpaired"
    assert stage(free, "method.args.per_device_train_batch_size=1", "method.args.train_sampling_strategy=random")


def test_how_many_rows_are_in_memory_tells_stages_apart(stage):
    assert stage().fingerprint != stage("method.args.per_device_train_batch_size=4").fingerprint
