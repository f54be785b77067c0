"""Policies side by side: the same prompts, paired differences, win rates over the first."""

import json

import pytest
import sampling
from conftest import planned
from sampling import Script, job, policy, puzzle
from trained import finished

from qwen_align import run_folder
from qwen_align.errors import ConfigError
from qwen_align.generator import Completion
from qwen_align.method import compare
from qwen_align.method.evaluate import Measured
from qwen_align.method.judge import Judged
from qwen_align.metric.interval import Interval
from qwen_align.stage import worker

POLICIES = 'method.policies={sft: ["method=sft"], rloo: ["method=rloo"], same: ["method=sft"]}'


@pytest.fixture(scope="module")
def compared(smoke_chain):
    """The run folder of a comparison of the chain's policies, two of which are the same."""
    stages = planned("experiment=smoke", f"runs_dir={smoke_chain[0].folder.parent}", "method=compare", POLICIES)
    assert [stage.method for stage in stages if stage.state != "finished"] == ["compare"], "the policies are there"
    return finished(stages[-1])


@pytest.fixture
def side_by_side(tmp_path, monkeypatch):
    """side_by_side(data, **settings): the metrics of two policies that a script answers for."""
    monkeypatch.setattr(compare.model, "from_run", lambda folder: policy())
    monkeypatch.setattr(compare.policy, "to_device", lambda weights, job: weights)

    def call(data=None, **method):
        scripts = {"p": ["b", "a", "a", "a"], "q": ["d", "d", "d", "x"], "r": ["x", "x", "z", "z"]}
        monkeypatch.setattr(sampling, "SOURCE", Script(scripts))
        settings = {"policies": {"sft": "one", "rloo": "two"}, "pass_marks": {}, "samples": 2} | method
        return compare.compare(job("compare", **settings), data or puzzle(), tmp_path)

    return call


def short(completions, **_):
    """A judge that likes short answers."""
    return [-float(len(completion[-1]["content"])) for completion in completions]


def silent(completions, **_):
    return [None for _ in completions]


def lengths(completions, completion_ids, **_):
    return [float(len(ids)) for ids in completion_ids]


def node(function, **settings):
    return {"_target_": f"{__name__}.{function.__name__}", **settings}


def test_every_policy_has_every_metric_and_the_baseline_no_win_rate(compared):
    policies = run_folder.read_json(compared / "metrics.json")["policies"]
    assert list(policies) == ["sft", "rloo", "same"]
    assert {"n", "greedy", "pass@1", "mean_tokens", "truncated"} <= policies["sft"].keys()
    assert policies["sft"]["n"] == 20


def test_every_pair_is_compared_and_a_policy_does_not_differ_from_itself(compared):
    found = run_folder.read_json(compared / "metrics.json")
    pairs = {(one["before"], one["after"]): one["metrics"] for one in found["differences"]}
    assert list(pairs) == [("sft", "rloo"), ("sft", "same"), ("rloo", "same")]
    assert pairs["sft", "same"]["greedy"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert found["baseline"] == "sft"


def test_all_completions_are_kept_with_the_policy_that_gave_them(compared):
    lines = run_folder.read_jsonl(compared / "samples.jsonl")
    assert [line["policy"] for line in lines[::20]] == ["sft", "rloo", "same"]
    assert json.dumps(lines[0]["prompt"]) == json.dumps(lines[20]["prompt"])


def test_a_second_run_samples_nothing_again(compared, capsys):
    before = (compared / "completions.jsonl").read_text()
    assert worker.run_stage(compared) == 0
    assert (compared / "completions.jsonl").read_text() == before
    assert "20 of 20 problems are on disk already" in capsys.readouterr().out


def test_the_headline_names_the_best_policy_and_its_metric_apart(side_by_side):
    found = side_by_side()
    assert (found["headline"]["name"], found["headline"]["policy"]) == ("pass@1", "rloo")
    assert found["headline"]["mean"] == found["policies"]["rloo"]["pass@1"].mean == pytest.approx(5 / 6)


def test_a_users_function_judges_beside_the_verifier(side_by_side):
    found = side_by_side(reward=node(short, weight=2.0))
    assert found["policies"]["sft"]["short"].mean == -2.0
    assert found["policies"]["rloo"]["win_rate_over_sft/short"].mean == 0.5
    assert found["headline"]["name"] == "short"


def test_a_judge_that_reads_token_ids_gets_those_of_each_policys_tokenizer(side_by_side):
    assert side_by_side(reward=node(lengths))["policies"]["sft"]["lengths"].mean == 2.0, "a letter and the stop token"


def test_a_reward_judges_data_without_a_verifier(side_by_side, tmp_path):
    found = side_by_side(puzzle(verifier=None), reward=node(short))
    assert "pass@1" not in found["policies"]["sft"]
    assert found["differences"][0].metrics == {"short": Interval(0.0, 0.0, 0.0)}
    assert run_folder.read_json(tmp_path / "per_problem.json")["sft"] == {"short": [-1.0, -1.0, -1.0]}


def test_without_verifier_and_reward_nothing_can_be_said(side_by_side):
    with pytest.raises(ConfigError, match=r"data\.verifier=null: .*method=compare without a reward"):
        side_by_side(puzzle(verifier=None))


def test_a_judge_that_says_nothing_of_a_completion_is_an_error(side_by_side):
    with pytest.raises(ConfigError, match=r"method.reward=silent: gives some completions no score"):
        side_by_side(reward=node(silent))


@pytest.mark.parametrize(("mark", "side"), [(0.1, "above"), (0.9, "within noise of"), (1.5, "below")])
def test_a_pass_mark_stands_beside_the_interval(side_by_side, capsys, mark, side):
    assert side_by_side(pass_marks={"rloo": mark})["policies"]["rloo"]["pass_mark"] == mark
    assert f"is {side} its pass mark {mark}" in capsys.readouterr().out


def test_win_rates_are_over_the_first_policy_and_for_each_kind_of_score():
    pools = [[Judged(**vars(Completion("a", 1, True)))]] * 3
    one = Measured([], pools, {}, {"true_score": [[0.0, 1.0]] * 3, "judge": [[1.0, 1.0]] * 3})
    other = Measured([], pools, {}, {"true_score": [[1.0, 1.0]] * 3, "judge": [[1.0, 1.0]] * 3})
    found = compare.win_rates({"sft": one, "rloo": other}, "sft")
    assert found["sft"] == {}
    assert found["rloo"]["win_rate_over_sft/true_score"].mean == 0.75
    assert found["rloo"]["win_rate_over_sft/judge"].mean == 0.5


def test_one_policy_is_nothing_to_compare(stages_of):
    with pytest.raises(ConfigError, match=r"method.policies: expected at least two"):
        stages_of("experiment=quickstart", "method=compare")


def test_without_verifier_and_reward_nothing_is_trained_first(stages_of):
    overrides = ("data=instruct", "method=compare", 'method.policies={sft: ["method=sft"], dpo: ["method=dpo"]}')
    with pytest.raises(ConfigError, match=r"data=instruct: has no verifier, which method=compare needs"):
        stages_of(*overrides)


def test_policies_of_the_command_line_stand_instead_of_the_experiments(stages_of):
    policies = 'method.policies={one: ["method=sft"], two: ["method=dpo"]}'
    *_, last = stages_of("experiment=quickstart_instruct", policies)
    assert list(last.config["method"]["policies"]) == ["one", "two"]
