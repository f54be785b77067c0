"""Where a step's time goes: each moment is in one part, and the lines of a measured run have what a row needs."""

import json
import re

import pytest
from tiny import TINY_MODEL

from qwen_align.bench import budget, process, speed, training
from qwen_align.bench.side_by_side import Measured

pytestmark = pytest.mark.slow
SMALL = (*TINY_MODEL, "data.problems=200")
REWARD = "reward=qwen_align.bench.plain.letters"
JOBS = {
    "rloo": speed.RLOO.given(*SMALL, REWARD, "method.prompts_per_step=4", "max_completion_length=8", reward="letters"),
    "sft": speed.JOBS["sft"].given(*SMALL, "method.batch_size=8"),
    "dpo": speed.JOBS["dpo"].given(
        *TINY_MODEL, "data.problems=200", "data.pairs=40", "data.evaluation_problems=20", "method.batch_size=8"
    ),
}


class Recorded:
    """What a process would say, with a request to stop after two steps."""

    def __init__(self):
        self.lines = []

    def asked(self):
        return sum("step" in line for line in self.lines) >= 2

    def measured(self):
        found = Measured(peak_flops=1e10)
        for line in json.loads(json.dumps(self.lines)):
            if "step" not in line:
                for name, value in line.items():
                    setattr(found, name, value)
        found.steps = [line for line in self.lines if "step" in line]
        found.rounds = [found.steps]
        return found


@pytest.fixture(scope="module", params=sorted(JOBS))
def row(request, tmp_path_factory):
    prepared = training.Prepared(JOBS[request.param], tmp_path_factory.mktemp(request.param), "cpu")
    found = {}
    for side, case in prepared.cases("batch").items():
        record = Recorded()
        process.run_case(case, record.lines.append, record.asked)
        found[side] = record.measured()
    return training.row_of(request.param, prepared, found)


def test_a_second_is_in_the_innermost_span(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr(budget.time, "monotonic", lambda: next(clock))
    spans = budget.Spans()  # at 0
    with spans.span("logging"), spans.span("saving"):  # from 1, from 3
        pass  # until 6, until 10
    assert spans.take() == (15.0, {"rest": 6.0, "logging": 6.0, "saving": 3.0})


def test_both_sides_of_a_row_have_every_field(row):
    expected = {
        "ms_per_step", "samples_per_s", "tokens_per_s", "completion_tokens_per_s", "tokens_a_completion", "budget_ms",
        "peak_memory_mb", "model_flops_per_step", "peak_flops", "model_flop_utilisation", "start_seconds", "steps",
    }  # fmt: skip
    assert set(row.details) == {"ours", "theirs"}
    for side in row.details.values():
        assert set(side) == expected
        assert side["peak_memory_mb"] > 50 and side["model_flop_utilisation"] > 0 and side["steps"] == 2


def test_a_budget_sums_to_its_step(row):
    for side in row.details.values():
        assert sum(side["budget_ms"].values()) == pytest.approx(side["ms_per_step"])
        assert {"forward", "backward", "optimizer", "saving", "rest"} <= set(side["budget_ms"])
        assert ("generation" in side["budget_ms"], "reward" in side["budget_ms"]) == (row.name == "rloo",) * 2


def test_a_reference_costs_something_in_dpo_alone(row):
    assert all(bool(side["budget_ms"].get("reference")) == (row.name == "dpo") for side in row.details.values())


def test_both_sides_see_the_same_rows(row):
    if row.name != "rloo":  # completions are drawn
        loss, norm = re.findall(r"by ([0-9.e+-]+)", row.note.partition("2 equal steps: ")[2])
        assert float(loss) < 1e-5 and float(norm) < 1e-5
    assert row.details["ours"]["model_flops_per_step"] == pytest.approx(row.details["theirs"]["model_flops_per_step"], rel=0.3)
