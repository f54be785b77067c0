"""Policies side by side: the same prompts, paired differences, win rates over the first."""

import json

import pytest
from tiny import TINY

from qwen_align.errors import ConfigError
from qwen_align.generator import Completion
from qwen_align.method import compare
from qwen_align.method.evaluate import Measured
from qwen_align.stage import run, run_folder, worker

POLICIES = 'method.policies={sft: ["method=sft"], rloo: ["method=rloo"], same: ["method=sft"]}'


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    from conftest import planned

    where = tmp_path_factory.mktemp("compare")
    stages = planned(*TINY, f"runs_dir={where}", "method=compare", POLICIES)
    for stage in stages:
        run.prepare(stage, afresh=False)
        assert worker.run_stage(stage.folder) == 0
    return stages


def test_every_policy_has_every_metric_and_the_baseline_no_win_rate(finished):
    policies = run_folder.read_json(finished[-1].folder / "metrics.json")["policies"]
    assert list(policies) == ["sft", "rloo", "same"]
    assert {"n", "greedy", "pass@1", "mean_tokens", "truncated"} <= policies["sft"].keys()
    assert policies["sft"]["n"] == 20


def test_a_policy_does_not_differ_from_itself(finished):
    found = run_folder.read_json(finished[-1].folder / "metrics.json")
    assert list(found["differences"]) == ["rloo_minus_sft", "same_minus_sft"]
    assert list(found["other_differences"]) == ["same_minus_rloo"]
    assert found["differences"]["same_minus_sft"]["greedy"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_all_completions_are_kept_with_the_policy_that_gave_them(finished):
    lines = run_folder.read_jsonl(finished[-1].folder / "samples.jsonl")
    assert [line["policy"] for line in lines[::20]] == ["sft", "rloo", "same"]
    assert json.dumps(lines[0]["prompt"]) == json.dumps(lines[20]["prompt"])


def test_a_second_run_samples_nothing_again(finished, capsys):
    folder = finished[-1].folder
    before = (folder / "completions.jsonl").read_text()
    assert worker.run_stage(folder) == 0
    assert (folder / "completions.jsonl").read_text() == before
    assert "20 of 20 problems are on disk already" in capsys.readouterr().out


def test_win_rates_are_over_the_first_policy_and_for_each_kind_of_score():
    one = Measured(None, None, {}, scores={"true_score": [[0.0, 1.0]] * 3, "judge": [[1.0, 1.0]] * 3})
    other = Measured(None, None, {}, scores={"true_score": [[1.0, 1.0]] * 3, "judge": [[1.0, 1.0]] * 3})
    found = compare.against({"sft": one, "rloo": other}, "sft")
    assert found["sft"] == {}
    assert found["rloo"]["win_rate_over_sft/true_score"]["mean"] == 0.75
    assert found["rloo"]["win_rate_over_sft/judge"]["mean"] == 0.5


def test_a_judge_that_says_nothing_of_a_completion_is_an_error():
    class Silent:
        name, weight, needs = "silent", 1.0, ()

        def score(self, prompts, completions, **columns):
            return [None for _ in completions]

    with pytest.raises(ConfigError, match=r"method.reward=silent: gives some completions no score"):
        compare.judged(Silent(), [{"prompt": "p"}], [[Completion("a", 1, True)]])


def test_one_policy_is_nothing_to_compare(stages_of):
    with pytest.raises(ConfigError, match=r"method.policies: expected at least two"):
        stages_of("experiment=quickstart", "method=compare")


def test_policies_of_the_command_line_stand_instead_of_the_experiments(stages_of):
    words = 'method.policies={one: ["method=sft"], two: ["method=dpo"]}'
    *_, last = stages_of("experiment=quickstart_instruct", words)
    assert list(last.config["method"]["policies"]) == ["one", "two"]
