"""Plans with reward models, several rewards, and policies that are compared."""

import json

import pytest

from qwen_align.errors import ConfigError

RLOO = ("method=rloo", "data=constraints", "model=constraints_tiny")


def methods(stages):
    return [stage.label for stage in stages]


def test_a_reward_model_is_trained_before_the_policy_that_it_drives(stages_of):
    stages = stages_of(*RLOO, "reward=deberta_tiny")
    assert methods(stages) == ["sft", "reward (deberta_tiny)", "rloo (deberta_tiny)"]
    assert stages[-1].config["method"]["reward"]["folder"] == str(stages[1].folder)
    assert stages[-1].parents["reward deberta_tiny"] is stages[1]


def test_the_users_own_command_plans_three_stages(stages_of):
    assert methods(stages_of("method=rloo", "reward=deberta", "data=instruct")) == [
        "sft", "reward (deberta)", "rloo (deberta)",
    ]  # fmt: skip


def test_how_a_reward_model_scores_does_not_train_it_again(stages_of):
    one = stages_of(*RLOO, "reward=deberta_tiny")
    other = stages_of(*RLOO, "reward=[deberta_tiny,length]", "reward.deberta_tiny.weight=2")
    assert one[1].folder == other[1].folder
    assert one[2].folder != other[2].folder


def test_what_trains_a_reward_model_counts_for_the_policy(stages_of):
    before = stages_of(*RLOO, "reward=deberta_tiny")
    after = stages_of(*RLOO, "reward=deberta_tiny", "stages.reward.args.learning_rate=1e-3")
    assert before[0].fingerprint == after[0].fingerprint
    assert before[1].fingerprint != after[1].fingerprint
    assert before[2].fingerprint != after[2].fingerprint


def test_the_policy_model_does_not_count_for_a_reward_model(stages_of):
    one = stages_of("method=reward", "reward=deberta_tiny", "data=constraints", "model=constraints_tiny")
    other = stages_of("method=reward", "reward=deberta_tiny", "data=constraints", "model=smollm2_135m")
    assert one[0].fingerprint == other[0].fingerprint


def test_several_rewards_keep_their_names_and_settings(stages_of):
    node = stages_of(*RLOO, "reward=[constraints,length]", "reward.length.weight=0.25")[-1].config["method"]["reward"]
    assert {name: part["weight"] for name, part in node.items() if name != "_target_"} == {
        "constraints": 1.0, "length": 0.25,
    }  # fmt: skip


def test_a_trained_reward_model_that_is_named_is_not_trained(stages_of, tmp_path):
    run = tmp_path / "rm"
    run.mkdir()
    record = {"method": "reward", "state": "finished", "fingerprint": "abc"}
    (run / "run.json").write_text(json.dumps(record))
    assert methods(stages_of(*RLOO, "reward=deberta_tiny", f"reward.folder={run}")) == ["sft", "rloo (deberta_tiny)"]
    (run / "run.json").write_text(json.dumps(record | {"state": "failed"}))
    with pytest.raises(ConfigError, match=r"reward.folder=.* that run is reward, failed"):
        stages_of(*RLOO, "reward=deberta_tiny", f"reward.folder={run}")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method=reward", "reward=length"], "there is nothing to train; expected one of deberta"),
        (["method=reward", "reward=[deberta_tiny,minilm]"], "trained one by one"),
        (["method=rloo", "reward=[length,length]"], "length is there twice"),
        (["method=rloo", "reward=length,[length,format]"], "expected one option, a sweep like a,b, or for rewards a list"),
        (["method=rloo", "reward=[length,lenth]"], "did you mean length"),
        (["method=rloo", "reward=[length,format]", "reward.length.wieght=1"], "reward.length.wieght=1: no such key"),
    ],
)  # fmt: skip
def test_a_reward_that_cannot_be_meant_is_one_error(stages_of, words, says):
    with pytest.raises(ConfigError, match=says):
        stages_of("data=constraints", *words)


COMPARED = (
    "experiment=quickstart", "method=compare",
    'method.policies={sft: ["method=sft"], rloo: ["method=rloo"], again: ["method=rloo"], other: ["method=rloo", "seed=3"]}',
)  # fmt: skip


def test_policies_that_are_compared_are_made_first_and_once(stages_of):
    stages = stages_of(*COMPARED)
    assert [stage.method for stage in stages] == ["sft", "rloo", "sft", "rloo", "compare"]
    sft, rloo, _, other, compare = stages
    assert compare.config["method"]["policies"] == {
        "sft": str(sft.folder), "rloo": str(rloo.folder), "again": str(rloo.folder), "other": str(other.folder),
    }  # fmt: skip


def test_a_changed_policy_changes_the_comparison(stages_of):
    before, after = stages_of(*COMPARED)[-1], stages_of(*COMPARED, "stages.sft.args.learning_rate=1e-3")[-1]
    assert before.fingerprint != after.fingerprint


def test_settings_of_the_comparison_are_not_those_of_its_policies(stages_of):
    before, after = stages_of(*COMPARED), stages_of(*COMPARED, "method.samples=2", "name=other")
    assert [s.fingerprint for s in before[:-1]] == [s.fingerprint for s in after[:-1]]
    assert before[-1].fingerprint != after[-1].fingerprint
