"""Two processes at the same time: whole steps of each round, an end when asked, an error that says why."""

import os
import sys

import pytest

from qwen_align.bench import side_by_side

FAKE = """
import json, os, select, sys, time
out, cases = os.fdopen(int(sys.argv[1]), "w"), json.load(open(sys.argv[2]))
def emit(**line):
    print(json.dumps(line), file=out, flush=True)
for case in cases:
    if case["seconds"] is None:
        sys.exit("no such model")
    emit(peak_flops=1e9)
    step, begin, asked = 0, time.monotonic(), False
    while not asked:
        time.sleep(case["seconds"])
        step, end = step + 1, time.monotonic()
        emit(step=step, begin=begin, end=end, core=sorted(os.sched_getaffinity(0)))
        begin = end
        if asked := bool(select.select([0], [], [], 0)[0]):
            os.read(0, 1)
    emit(saving_seconds=0.5)
"""


@pytest.fixture
def measure(tmp_path, monkeypatch):
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(side_by_side, "PROGRAM", (str(tmp_path / "fake.py"),))

    def call(ours, theirs, **more):
        sides = {"ours": [{"seconds": s} for s in ours], "theirs": [{"seconds": s} for s in theirs]}
        settings = {"rounds": 2, "steps": 2, "seconds": 0.0} | more
        return side_by_side.measure(sides, dict.fromkeys(sides, os.environ), **settings)

    return call


@pytest.mark.parametrize("together", [True, False])
def test_every_round_has_whole_steps_of_both_sides(measure, together):
    (case,) = measure([0.01], [0.05], together=together)
    for found in case.values():
        assert len(found.rounds) == 2 and all(len(taken) >= 2 for taken in found.rounds)
        assert (found.peak_flops, found.saving_seconds) == (1e9, 0.5)
    if together:
        assert len(case["ours"].rounds[0]) > len(case["theirs"].rounds[0]), "the faster one goes on meanwhile"


def test_no_step_belongs_to_two_rounds_and_the_first_to_none(measure):
    (case,) = measure([0.01], [0.03])
    for found in case.values():
        counted = [step["step"] for taken in found.rounds for step in taken]
        assert counted == sorted(set(counted)) and 1 not in counted


@pytest.mark.skipif(sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs two cores of Linux")
def test_the_two_of_a_round_have_a_core_each_and_change_it(measure):
    (case,) = measure([0.02], [0.02])
    first, second = ({side: found.rounds[turn][-1]["core"] for side, found in case.items()} for turn in (0, 1))
    assert first["ours"] == second["theirs"] != first["theirs"] == second["ours"]


def test_one_pair_of_processes_does_several_cases(measure):
    cases = measure([0.01, 0.01], [0.01, 0.01])
    assert [found.steps[0]["step"] for case in cases for found in case.values()] == [1, 1, 1, 1]


def test_a_process_that_ends_by_itself_is_an_error_with_its_last_words(measure):
    with pytest.raises(RuntimeError, match=r"(?s)exit code 1.*no such model"):
        measure([0.01], [None])
