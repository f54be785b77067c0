"""What the terminal says about a plan, before and after."""

import pytest
from tiny import TINY

from qwen_align import run_folder
from qwen_align.stage import summary
from qwen_align.stage.plan import Stage

pytestmark = pytest.mark.slow


def printed(capsys: pytest.CaptureFixture[str], stages: list[Stage]) -> tuple[list[str], list[str]]:
    """The lines of the plan's table and those of its forecast, without their heads."""
    summary.print_plan(stages)
    plan, forecast = capsys.readouterr().out.rsplit("\n\n", 1)
    return plan.splitlines()[2:], forecast.splitlines()[2:]


def test_a_plan_says_what_each_stage_will_do(stages_of, capsys):
    stages = sft, rloo, _ = stages_of("experiment=quickstart")
    run_folder.update(sft.folder, state="finished")
    run_folder.update(rloo.folder, state="failed")
    lines, _ = printed(capsys, stages)
    assert [line.split("  ")[0] for line in lines] == ["sft", "rloo (countdown)", "best_of_n"]
    assert ["be reused" in lines[0], "resume" in lines[1], "run  " in lines[2]] == [True] * 3


def test_the_plan_of_a_table_is_its_rows_with_what_is_to_run(stages_of, capsys):
    stages = stages_of("experiment=tiny_maths")
    run_folder.update(stages[-1].parents.policies["sft, seed 1"].folder, state="finished")
    summary.print_plan(stages)
    title, out = capsys.readouterr().out.split("\n", 1)
    assert title == "Maths (Countdown)"
    rows = {line.split("  ")[0]: line for line in out.splitlines()}
    assert rows["sft"].split()[1:4] == ["1,", "2,", "3"] and rows["sft"].endswith("2 x sft")
    assert rows["sft_synthetic"].endswith("synthesize, 3 x sft")
    assert rows["rloo"].endswith("3 x rloo (countdown)"), "the sft that it starts from counts with the first row"


def test_stages_that_take_the_same_are_one_line_of_the_forecast(stages_of, capsys):
    policies = 'method.policies={a: ["method=sft"], b: ["method=sft", "seed=1"]}'
    _, lines = printed(capsys, stages_of("experiment=quickstart", "method=compare", policies))
    assert [line.split("  ")[0] for line in lines[:2]] == ["2 x sft", "compare"]


def test_stages_of_one_label_are_told_apart_by_the_policy_they_make(stages_of):
    policies = 'method.policies={a: ["method=sft"], b: ["method=sft", "seed=1"], c: ["method=rloo"]}'
    stages = stages_of("experiment=quickstart", "method=compare", policies)
    assert list(summary.labels(stages).values()) == ["sft of a", "sft of b", "rloo (countdown)", "compare"]


HEADLINE = {"name": "pass@1", "policy": "rloo", "mean": 0.25, "low": 0.2, "high": 0.3, "n": 50}


def test_results_have_the_headline_with_its_policy(stages_of):
    (sft,) = stages_of(*TINY, "method=sft")
    run_folder.write_json(sft.folder / "metrics.json", {"headline": HEADLINE})
    run_folder.update(sft.folder, state="finished", seconds=61.0)
    assert "1:01 min  pass@1 of rloo 0.250 [0.200, 0.300] (n=50)" in summary.results([sft], {})
    assert summary.results([sft], {sft.fingerprint: "reused"}).splitlines()[-1].startswith("sft    reused")


@pytest.mark.parametrize(
    ("method", "given", "following"),
    [
        ("sft", [], ["method=rloo"]),
        (
            "sft",
            ["method.args.max_steps=2", "init=base"],
            ["stages.sft.args.max_steps=2", "stages.sft.init=base", "method=rloo"],
        ),
        ("rloo", ["force=true", "seed=2"], ["seed=2", "method=best_of_n"]),
    ],
)
def test_the_next_command_keeps_what_was_said_of_this_stage(stages_of, method, given, following):
    last = stages_of(*TINY, f"method={method}")[-1]
    command = summary.next_command(last, [*TINY, f"method={method}", *given])
    assert command.split() == ["python", "-m", "qwen_align", *TINY, *following]


def test_the_next_command_of_a_teacher_trains_on_what_it_wrote(stages_of):
    last = stages_of(*TINY, "method=synthesize", "generator=solver")[-1]
    command = summary.next_command(last, [*TINY, "generator=solver"])
    extra = f"data.extra=runs/{last.folder.name}/demonstrations.jsonl"
    assert command.split() == ["python", "-m", "qwen_align", *TINY, "method=sft", extra], "a solver measures no policy"


def test_the_next_command_of_a_comparison_measures_its_best_policy(stages_of):
    policies = 'method.policies={sft: ["method=sft"], rloo: ["method=rloo"]}'
    last = stages_of(*TINY, "method=compare", policies)[-1]
    run_folder.write_json(last.folder / "metrics.json", {"headline": HEADLINE})
    command = summary.next_command(last, list(TINY))
    assert command.endswith(f"method=evaluate init=runs/{last.parents.policies['rloo'].folder.name}")
