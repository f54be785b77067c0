"""DPO's reference log-probs: TRL's numbers, for the pairs that are trained alone, and kept through an interrupt."""

import json
import math
from types import SimpleNamespace

import pytest
from processes import same_weights, weights
from trained import on_pairs
from trained import steps as trained
from trl import DPOTrainer

from qwen_align import interrupt, run_folder
from qwen_align.method import evaluate, preferences, reference
from qwen_align.method.dpo import DPO
from qwen_align.stage import run, worker

pytestmark = pytest.mark.slow

FEW = "method.args.max_steps=2"  # 16 of 32 pairs


@pytest.fixture
def stage(tmp_path, stages_of):
    """stage(*overrides): one DPO stage on a file of 32 pairs."""
    overrides = [*on_pairs(tmp_path, "dpo"), "method.args.per_device_train_batch_size=4"]
    return lambda *more: stages_of(*overrides, *more)[-1]


def lines(stage) -> list[dict]:
    return run_folder.read_jsonl(stage.folder / reference.FILE)[1:]


@pytest.fixture
def computed(monkeypatch):
    """How many pairs each reference forward had; one that `stop_at` names is where a stop is asked for."""
    sizes, settings = [], SimpleNamespace(sizes=[], stop_at=None)
    settings.sizes = sizes
    inner = DPOTrainer.compute_ref_log_probs

    def counted(self, model, inputs):
        if len(sizes) == settings.stop_at:
            raise interrupt.Interrupted
        sizes.append(len(inputs["input_ids"]) // 2)
        return inner(self, model, inputs)

    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", counted)
    return settings


def test_the_numbers_are_those_that_trl_precomputes(stage, monkeypatch):
    seen = []

    def fit(trainer, *_):
        theirs = DPOTrainer._precompute_ref_logps(
            trainer, trainer.train_dataset.remove_columns(list(DPO.reference_columns)), "x", 4
        )
        seen.extend((trainer.train_dataset[side][:], theirs[side][:]) for side in DPO.reference_columns)
        return {}

    monkeypatch.setattr(preferences, "fit", fit)
    monkeypatch.setattr(evaluate, "after_training", lambda *_: {})
    trained(stage())
    for ours, theirs in seen:
        assert len(ours) == 32
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_only_the_pairs_that_will_be_trained_are_computed(stage, computed):
    one = stage(FEW)
    steps = trained(one)
    assert sum(computed.sizes) == 16
    assert len({line["row"] for line in lines(one)}) == 16
    assert len(steps) == 2
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_pairs_of_a_second_epoch_are_computed_once(stage, computed):
    trained(stage("method.args.max_steps=6"))
    assert sum(computed.sizes) == 32


def test_an_interrupted_computation_goes_on_and_trains_the_same(stage, computed, tmp_path):
    whole = stage(FEW)
    trained(whole)
    batches = len(computed.sizes)
    before = weights(whole.folder)

    again = stage(FEW, f"runs_dir={tmp_path}/other")
    computed.sizes.clear()
    computed.stop_at = 1
    run.prepare(again, afresh=False)
    assert worker.run_stage(again.folder) == worker.INTERRUPTED
    assert len(lines(again)) == computed.sizes[0]
    with (again.folder / reference.FILE).open("a") as file:
        file.write('{"row": 3, "log_pr')  # torn by a kill

    computed.stop_at = None
    trained(again)
    assert len(computed.sizes) == batches, "nothing twice"
    assert same_weights(before, again.folder)


def test_a_resume_computes_none_anew(stage, computed):
    one = stage(FEW)
    trained(one)
    computed.sizes.clear()
    trained(one)
    assert computed.sizes == []


@pytest.mark.parametrize("changed", ["model", "pair"])
def test_numbers_of_another_model_or_another_pair_are_not_taken(stage, computed, changed):
    one = stage(FEW)
    trained(one)
    path = one.folder / reference.FILE
    head, first, *rest = path.read_text().splitlines()
    if changed == "model":
        head = json.dumps(json.loads(head) | {"model": "another"})
    else:
        first = json.dumps(json.loads(first) | {"checksum": 0})
    path.write_text("\n".join([head, first, *rest]) + "\n")
    computed.sizes.clear()
    trained(one)
    assert sum(computed.sizes) == (16 if changed == "model" else 4)


def test_a_pair_without_a_number_is_never_trained(stage, monkeypatch):
    monkeypatch.setattr(reference, "order", lambda trainer, rows: [0, 1, 2])
    one = stage(FEW)
    run.prepare(one, afresh=False)
    assert worker.run_stage(one.folder) == 1
    assert "a row without reference log-probs was drawn" in run_folder.read_json(one.folder / "run.json")["error"]
