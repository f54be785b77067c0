"""Plans with reward models and with several rewards."""

import json

import pytest

from qwen_align import run_folder
from qwen_align.errors import ConfigError

RLOO = ("method=rloo", "data=constraints", "model=constraints_tiny")


def methods(stages):
    return [stage.label for stage in stages]


def test_a_reward_model_is_trained_before_the_policy_that_it_drives(stages_of):
    stages = stages_of(*RLOO, "reward=deberta_tiny")
    assert methods(stages) == ["sft", "reward (deberta_tiny)", "rloo (deberta_tiny)"]
    assert stages[-1].config["method"]["reward"]["folder"] == str(stages[1].folder)
    assert stages[-1].parents.rewards == {"deberta_tiny": stages[1]}


def test_the_users_own_command_plans_three_stages(stages_of):
    stages = stages_of("method=rloo", "reward=deberta", "data=instruct")
    assert methods(stages) == ["sft", "reward (deberta)", "rloo (deberta)"]


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
    assert {name: node[name]["weight"] for name in ("constraints", "length")} == {"constraints": 1.0, "length": 0.25}


def test_a_trained_reward_model_that_is_named_is_not_trained(stages_of, tmp_path):
    run = tmp_path / "rm"
    run.mkdir()
    record = {"format": run_folder.FORMAT, "method": "reward", "state": "finished", "fingerprint": "abc"}
    record |= {"choices": {}, "parents": {"init": None}}
    (run / "run.json").write_text(json.dumps(record))
    assert methods(stages_of(*RLOO, "reward=deberta_tiny", f"reward.folder={run}")) == ["sft", "rloo (deberta_tiny)"]
    (run / "run.json").write_text(json.dumps(record | {"method": "sft"}))
    with pytest.raises(ConfigError, match=r"that run \(sft\) made no reward; expected one of method=reward"):
        stages_of(*RLOO, "reward=deberta_tiny", f"reward.folder={run}")
    (run / "run.json").write_text(json.dumps(record | {"state": "failed"}))
    with pytest.raises(ConfigError, match=r"reward.folder=.* that run is failed; expected a finished one"):
        stages_of(*RLOO, "reward=deberta_tiny", f"reward.folder={run}")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["method=reward", "reward=length"], "there is nothing to train; expected one of deberta"),
        (["method=reward", "reward=[deberta_tiny,minilm]"], "trained one by one"),
        (["method=rloo", "reward=[length,length]"], "length is there twice"),
        (["method=rloo", "reward=length,[length,format]"], "expected one option, a sweep like a,b, or for rewards a list"),
        (["method=rloo", "reward=[length,lenth]"], "did you mean length"),
        (["method=rloo", "reward=[length,format]", "reward.length.wieght=1"], "does not take these settings .*wieght"),
    ],
)
def test_a_reward_that_cannot_be_meant_is_one_error(stages_of, overrides, says):
    with pytest.raises(ConfigError, match=says):
        stages_of("data=constraints", *overrides)
