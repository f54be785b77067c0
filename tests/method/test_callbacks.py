"""What happens beside the steps: warnings once and after a resume, and measurements that change nothing."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tiny import TINY
from trained import finished
from transformers import TrainerState

from qwen_align import run_folder
from qwen_align.config import job
from qwen_align.data import Data
from qwen_align.method import callbacks, health
from qwen_align.method.callbacks import HealthWarnings, HeldOut
from qwen_align.verifier import Verifier

pytestmark = pytest.mark.slow

ARGS = SimpleNamespace(max_completion_length=28, num_generations=8, temperature=1.0, beta=0.05, learning_rate=1e-6)


def test_a_kind_is_repeated_only_after_a_pause(tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "PAUSE", 3)
    watch = HealthWarnings(tmp_path, {"always": lambda lines, args: "as ever"})
    found = [bool(watch.see({"step": step}, ARGS)) for step in range(1, 8)]
    assert found == [True, False, False, True, False, False, True]
    assert watch.warnings[1] == {"step": 4, "kind": "always", "text": "as ever"}


def test_a_finding_that_stays_true_is_printed_once(tmp_path):
    watch = HealthWarnings(tmp_path, {"always": health.once(lambda lines, args: "as ever")})
    assert sum(bool(watch.see({"step": step}, ARGS)) for step in range(500)) == 1


def test_a_resumed_run_warns_as_an_uninterrupted_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(callbacks, "PAUSE", 3)
    logged = [{"step": i + 1, "reward": i / 100} for i in range(25)]
    for i, value in enumerate([0.5, 0.7, 0.6, 0.55, 0.5]):
        logged[5 * i + 4] |= {"held_out": value, "held_out_error": 0.05}
    whole, resumed = (HealthWarnings(tmp_path, health.load(["reward_against_judge"])) for _ in range(2))
    for line in logged:
        whole.see(line, ARGS)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    state = TrainerState(global_step=12)
    resumed.on_train_begin(ARGS, state, None)
    assert capsys.readouterr().out == ""
    for line in logged[12:]:
        state.global_step = line["step"]
        resumed.on_log(ARGS, state, None, logs={key: value for key, value in line.items() if key != "step"})
    assert resumed.warnings == whole.warnings
    assert len(whole.warnings) == 2
    assert "warning at step 20: the reward has risen" in capsys.readouterr().out


class Problems:
    """A source with only an evaluation view."""

    def __init__(self, n=100):
        self.n = n

    def evaluation(self):
        return Dataset.from_list([{"prompt": [{"role": "user", "content": str(i)}], "id": i} for i in range(self.n)])


def judged(n=100):
    return Data(Problems(n), Verifier(lambda completion: True, "yes"))


def a_job(every=25):
    method = {"kind": "train", "held_out_every": every}
    return job.read("rloo", {"method": method, "max_completion_length": 8, "seed": 0, "init": "base"})


@pytest.mark.parametrize(
    ("args", "printed"),
    [
        ({"num_generations": 8, "max_completion_length": 4}, "warning: training samples completions of up to "),
        ({"num_generations": 8, "max_completion_length": 8}, ""),
        ({"max_length": 4}, ""),
    ],
    ids=["another limit", "the same", "no sampling"],
)
def test_a_run_that_ends_completions_otherwise_warns_before_its_first_step(args, printed, capsys):
    watch = HeldOut(a_job(None), judged(), print)
    watch.on_train_begin(SimpleNamespace(**args), TrainerState(global_step=0), None)
    out = capsys.readouterr().out
    assert out.startswith(printed) if printed else out == ""


def test_held_out_prompts_are_the_last_ones_of_the_evaluation_view():
    assert [row["id"] for row in HeldOut(a_job(), judged(), print).rows] == list(range(36, 100))
    assert len(HeldOut(a_job(), judged(3), print).rows) == 3


@pytest.mark.parametrize(
    ("every", "data"),
    [(None, judged()), (25, Data(Problems())), (25, Data(object(), judged().verifier))],
    ids=["off", "no verifier", "no evaluation view"],
)
def test_nothing_is_measured_where_it_is_off_or_nothing_can_be(every, data):
    assert HeldOut(a_job(every), data, print).rows == []


@pytest.mark.parametrize(("verdict", "value"), [(True, 1.0), (False, 0.0), (0.25, 0.25)])
def test_a_score_counts_as_it_is_and_a_verdict_as_right_or_wrong(verdict, value, monkeypatch):
    watch = HeldOut(a_job(), Data(Problems(1), Verifier(lambda completion: verdict, "mine")), print)
    monkeypatch.setattr(callbacks, "sample", lambda *_: [[SimpleNamespace(text="an answer")]])
    assert watch.measure(torch.nn.Linear(1, 1), None) == [value]


def test_random_numbers_and_modes_stay_as_they_were():
    policy = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(1, 1).eval()).train()
    policy[1].eval()

    def seeded():
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)

    def drawn():
        return random.random(), np.random.random(), torch.rand(1).item()

    seeded()
    expected = drawn()
    seeded()
    with callbacks.undisturbed(policy):
        drawn()
        torch.manual_seed(0)
        policy.eval()
    assert drawn() == expected
    assert [module.training for module in policy.modules()] == [True, True, False]


def length(completions, **columns):
    """A reward that differs between the completions of any policy."""
    return [len(completion[-1]["content"]) / 100 for completion in completions]


@pytest.mark.parametrize("more", [(), ("adapter=lora",)], ids=["full", "lora"])
def test_measuring_held_out_prompts_changes_no_weight(tmp_path, stages_of, more):
    weights, logged = [], []
    for every in ("1", "null"):
        words = [*TINY, *more, f"runs_dir={tmp_path}/{every}", "method=rloo", "init=base"]
        stage = stages_of(*words, f"method.held_out_every={every}")[-1]
        stage.config["method"]["reward"] = {"_target_": f"{__name__}.length"}
        folder = finished(stage)
        weights.append(load_file(folder / "model" / "model.safetensors"))
        logged.append(run_folder.read_jsonl(folder / "metrics.jsonl"))
    (measured, not_measured), lines = weights, logged[0][:-1]
    assert all(measured[name].equal(not_measured[name]) for name in measured)
    assert [line["reward"] for line in lines] == [line["reward"] for line in logged[1][:-1]]
    assert all(line["grad_norm"] > 0 for line in lines), "or nothing would have been learned in either run"
    assert all({"held_out", "held_out_error", "held_out_seconds"} <= line.keys() for line in lines)
    assert not [line for line in logged[1] if "held_out" in line]
