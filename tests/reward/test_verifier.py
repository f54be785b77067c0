"""What each verdict of a verifier is worth, whichever verifier it is."""

import pytest

from qwen_align.config import groups
from qwen_align.errors import ConfigError
from qwen_align.reward import build
from qwen_align.reward.verifier import VerifierReward

COMPLETIONS = ["<answer>(6 - 2) * 3</answer>", "<answer>6 + 2 + 3</answer>", "twelve", "<answer>6 * 2</answer>"]
COLUMNS = {"nums": [[6, 2, 3]] * 4, "target": [12] * 4}
CONSTRAINTS = '[{"kind": "starts", "with": "a"}, {"kind": "ends", "with": "b"}]'


def of(option, completions, **columns):
    (reward,) = build(groups.read("reward", option))
    assert reward.name == option
    return reward.score(["?"] * len(completions), completions, columns)


def test_each_verdict_has_its_value():
    assert of("countdown", COMPLETIONS, **COLUMNS) == [1.0, 0.1, 0.0, 0.1]


def test_the_values_can_be_configured():
    reward = VerifierReward("countdown", correct=2.0, wellformed_wrong=-0.5, malformed=-1.0)
    assert reward(COMPLETIONS, ["?"] * 4, **COLUMNS) == [2.0, -0.5, -1.0, -0.5]


def test_each_completion_is_judged_by_its_own_row():
    assert of("countdown", ["<answer>1 + 2</answer>"] * 2, nums=[[1, 2], [1, 3]], target=[3, 4]) == [1.0, 0.1]


def test_maths_is_right_or_wrong():
    assert of("math", ["so 2+2 = 4\n#### 4", "#### 5", "no idea", "\\boxed{4.0}"], answer=["4"] * 4) == [1, 0, 0, 1]


def test_a_verifier_that_gives_scores_is_worth_its_score():
    assert of("constraints", ["a b", "a c", ""], constraints=[CONSTRAINTS] * 3) == [1.0, 0.5, 0.0]


def test_a_users_verifier_reads_any_column_and_the_prompt(tmp_path):
    (tmp_path / "mine.py").write_text("def verify(completion, prompt, wanted): return prompt + wanted == completion\n")
    (reward,) = build(groups.read("reward", "verifier") | {"verifier": f"{tmp_path}/mine.py:verify"})
    columns = {"prompt": ["a", "a"], "wanted": ["b", "c"]}
    assert reward.needs == ("prompt", "wanted")
    assert reward.score(["a", "a"], ["ab", "ab"], columns) == [1.0, 0.0]


def test_the_columns_are_those_of_the_verifier():
    assert build(groups.read("reward", "countdown"))[0].needs == ("nums", "target")


@pytest.mark.parametrize(
    "values", [{"correct": 0.1}, {"correct": 0.0}, {"wellformed_wrong": -0.1}, {"malformed": 0.5}, {"correct": float("nan")}]
)
def test_values_in_the_wrong_order_are_refused(values):
    with pytest.raises(ConfigError, match=r"reward\.correct="):
        VerifierReward("countdown", **({"wellformed_wrong": 0.1} | values))


def test_data_without_a_verifier_are_refused():
    with pytest.raises(ConfigError, match=r"reward\.verifier=null: the data has no verifier"):
        VerifierReward(None)


def test_timeouts_of_a_call_are_a_metric(monkeypatch):
    counted = iter([3, 5, 5, 5])
    reward, logged = VerifierReward("math", name="maths"), []
    monkeypatch.setattr(reward.verifier, "timeouts", lambda: next(counted))
    for _ in range(2):
        reward(["#### 4"], ["?"], answer=["4"], log_metric=lambda *metric: logged.append(metric))
    assert logged == [("maths/timeouts", 2.0), ("maths/timeouts", 0.0)]
