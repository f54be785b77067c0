"""Rewards in TRL's convention: TRL's own and a user's, under a name, with a weight and a clip, called as TRL calls them."""

import asyncio
import inspect
import math
import re

import numpy as np
import pytest
import torch
from trl.rewards import think_format_reward

from qwen_align import reward
from qwen_align.config import groups
from qwen_align.errors import ConfigError
from qwen_align.reward import Reward, build, check, clipping, nodes, rehearse, text_of

ASK = [{"role": "user", "content": "?"}]
ROWS = [{"prompt": ASK, "bonus": 1}, {"prompt": ASK, "bonus": 2}]
MINE = """
def short(completions, most=3, **kwargs):
    return [float(len(completion[0]["content"]) <= most) for completion in completions]

def with_bonus(completions, bonus):
    return [float(b) for b in bonus]

async def slow(completions):
    return [1.0 for _ in completions]

class Settings:
    def __init__(self, value, name="?"):
        self.value, self.name = value, name

    def __call__(self, completions, log_metric, **columns):
        log_metric(f"{self.name}/seen", len(completions))
        return [self.value for _ in completions]

class Refuses:
    def __init__(self, value):
        raise ValueError("value is too small")

def make(value):
    return lambda completions: [value for _ in completions]

def odd(text):
    return 1.0

NUMBER = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """mine("short"): the target of a user's function."""
    (tmp_path / "mine.py").write_text(MINE)
    return lambda name: f"{tmp_path}/mine.py:{name}"


def returning(values, name="mine", **layer):
    return Reward(name, lambda completions, **_: values, **layer)


def of(node, texts=("a", "b"), columns=None, ids=None):
    (one,) = build(node)
    return one.score([ASK] * len(texts), list(texts), columns or {}, ids)


def as_trl(one, completions, **given):
    """What TRL gets; None stands for what it gives beside the completions."""
    beside = {"trainer_state": None, "log_extra": print, "log_metric": print, "completion_ids": [[1]] * len(completions)}
    return one.trl()(prompts=[ASK] * len(completions), completions=completions, **(beside | given))


# What is a reward


def test_a_function_of_trl():
    node = {"_target_": "trl.rewards.think_format_reward"}
    assert of(node, ["<think>a</think>b", "b"]) == [1.0, 0.0]
    assert [one.name for one in build(node)] == ["think_format_reward"]


def test_a_factory_of_trl_takes_the_settings_and_reads_token_ids():
    node = {"_target_": "trl.rewards.get_soft_overlong_punishment", "max_completion_len": 4, "soft_punish_cache": 2}
    assert of(node, ids=[[1, 2], [1, 2, 3]]) == [0.0, -0.5]


def test_repetition_is_trls_penalty_on_token_ids():
    assert of(groups.read("reward", "repetition"), ids=[[1, 2, 3, 4], [5] * 6]) == [0.0, -0.75]


def test_a_users_function_takes_its_settings_from_the_yaml(mine):
    assert of({"_target_": mine("short")}, ["abc", "abcd"]) == [1.0, 0.0]
    assert of({"_target_": mine("short"), "most": 4}, ["abc", "abcd"]) == [1.0, 1.0]


def test_a_users_class_gets_its_settings_and_the_rewards_name(mine):
    (one,) = build({"_target_": mine("Settings"), "value": 2.0, "name": "own"})
    logged = {}
    assert as_trl(one, ["a"], log_metric=logged.__setitem__) == [2.0]
    assert logged == {"own/seen": 1}


def test_a_users_factory(mine):
    assert of({"_target_": mine("make"), "value": 0.5}) == [0.5, 0.5]


def test_an_async_reward_stays_one_for_trl_and_is_awaited_elsewhere(mine):
    (one,) = build({"_target_": mine("slow")})
    assert inspect.iscoroutinefunction(one.trl())
    assert asyncio.run(as_trl(one, ["a"])) == [1.0]
    assert one.score([ASK], ["a"], {}) == [1.0]


def test_an_async_reward_that_raises_is_named():
    async def broken(completions):
        raise KeyError("score")

    with pytest.raises(RuntimeError, match="reward mine raised KeyError: 'score'"):
        Reward("mine", broken).score([ASK], ["a"], {})


def test_a_target_in_a_package(tmp_path, monkeypatch):
    (tmp_path / "my_rewards_package.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    assert of({"_target_": "my_rewards_package.short"}, ["abc", "abcd"]) == [1.0, 0.0]


# What it is called with


def test_a_reward_is_called_with_what_its_signature_names():
    seen = {}

    def picky(completions, completion_ids, bonus, log_extra):
        seen.update(locals())
        return [0.0]

    as_trl(Reward("picky", picky), ["a"], bonus=[7], other=[1])
    assert {key: seen[key] for key in ("completion_ids", "bonus", "log_extra")} == {
        "completion_ids": [[1]],
        "bonus": [7],
        "log_extra": print,
    }


def test_a_reward_sees_the_same_in_a_trainer_and_outside():
    calls = []
    one = Reward("any", lambda **given: calls.append(given) or [0.0])
    as_trl(one, [[{"role": "assistant", "content": "a"}]], bonus=[1])
    one.score([ASK], ["a"], {"prompt": [ASK], "bonus": [1], "completion": ["gold"]}, [[1]])
    inside, outside = ({k: v for k, v in call.items() if not callable(v)} for call in calls)
    assert inside == outside
    assert calls[0].keys() == calls[1].keys()


def test_completions_of_plain_prompts_are_plain():
    assert Reward("n", lambda completions: [float(len(c)) for c in completions]).score(["?"], ["abc"], {}) == [3.0]


def test_text_of_both_forms():
    assert text_of("abc") == text_of([{"role": "tool", "content": "x"}, {"role": "assistant", "content": "abc"}]) == "abc"


def test_a_missing_column_is_named_with_those_that_are_there(mine):
    (one,) = build({"_target_": mine("with_bonus")})
    assert one.needs == ("bonus",)
    with pytest.raises(ConfigError, match="reward=with_bonus: needs the column bonus; the data has prompt, target"):
        one.check_columns(["prompt", "target"])


def test_token_ids_that_are_not_known_are_refused():
    with pytest.raises(ConfigError, match="reward=ids: reads completion_ids"):
        Reward("ids", lambda completion_ids: [0.0]).score(["?"], ["a"], {})


# What it returns


@pytest.mark.parametrize("values", [[1.0, 0.0], (1, 0), [True, False], np.array([1.0, 0.0], np.float32), torch.tensor([1, 0])])
def test_numbers_of_every_kind_are_numbers(values):
    assert returning(values).score(["?"] * 2, ["a", "b"], {}) == [1.0, 0.0]


def test_numbers_of_numpy_and_torch_in_a_list_are_numbers():
    assert returning([np.float32(0.5), torch.tensor(1.5)]).score(["?"] * 2, ["a", "b"], {}) == [0.5, 1.5]


def test_none_stays_none():
    assert returning([None, 1.0], clip=(0.0, 0.5)).score(["?"] * 2, ["a", "b"], {}) == [None, 0.5]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "good", [1.0], {}])
def test_what_is_no_finite_number_names_the_reward_and_the_completion(value):
    with pytest.raises(RuntimeError, match=re.escape(f"reward mine returned {value!r} for 'second'")):
        returning([1.0, value], clip=(0, 1)).score(["?"] * 2, ["first", "second"], {})


@pytest.mark.parametrize(
    ("values", "shown"), [([], "0 values"), ([1.0], "1 values"), ([1, 2, 3], "3 values"), (1.0, "1.0"), (None, "None")]
)
def test_another_number_of_values_is_an_error(values, shown):
    with pytest.raises(RuntimeError, match=f"reward mine returned {shown} for 2 completions"):
        returning(values).score(["?"] * 2, ["a", "b"], {})


def test_a_reward_that_raises_is_named():
    def broken(completions):
        return 1 / 0

    with pytest.raises(RuntimeError, match="reward mine raised ZeroDivisionError: division by zero"):
        as_trl(Reward("mine", broken), ["a"])


def test_values_beyond_clip_are_cut():
    assert returning([-3.0, 0.5, 8], clip=(-1.0, 1.0)).score(["?"] * 3, ["a"] * 3, {}) == [-1.0, 0.5, 1.0]


def test_trl_gets_a_function_of_the_rewards_name():
    assert returning([1.0], name="own").trl().__name__ == "own"


# Settings


@pytest.mark.parametrize("clip", [[1.0, 0.0], [0.5, 0.5], [0.0], [0, 1, 2], 3, "01", [0, math.inf], [None, 1], [False, True]])
def test_a_clip_that_is_no_range_is_refused(clip):
    with pytest.raises(ConfigError, match=r"reward\.clip=.*expected \[low, high\] with low < high"):
        clipping(clip)


@pytest.mark.parametrize("stage", [check, build])
@pytest.mark.parametrize("weight", ["much", True, None, math.nan])
def test_a_weight_that_is_no_number_is_refused(stage, weight):
    with pytest.raises(ConfigError, match=r"reward\.weight=.*: expected a number"):
        stage({"_target_": "trl.rewards.think_format_reward", "weight": weight})


def test_name_weight_and_clip_are_the_layers():
    node = {"_target_": "trl.rewards.think_format_reward", "name": "thinks", "weight": 0.5, "clip": [0, 0.25]}
    assert build(node) == [Reward("thinks", think_format_reward, 0.5, (0.0, 0.25))]


def test_several_rewards_are_called_by_their_keys(mine):
    several = {"_target_": reward.SEVERAL, "b": {"_target_": mine("short")}, "a": {"_target_": mine("slow")}}
    assert [one.name for one in build(several)] == list(nodes(several)) == ["b", "a"]


@pytest.mark.parametrize("stage", [check, build])
@pytest.mark.parametrize("node", [None, {}, {"_target_": reward.SEVERAL}])
def test_no_reward_at_all_is_refused(stage, node):
    with pytest.raises(ConfigError, match="reward=several: holds no reward"):
        stage(node)


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("shrt", {}, r"has no shrt \(did you mean short\?\)"),
        ("Settings", {"valeu": 1}, r"does not take these settings .*\(did you mean value\?\)"),
        ("with_bonus", {"bnous": 1}, r"does not take these settings .*\(did you mean bonus\?\)"),
        ("Refuses", {"value": 1}, "raised ValueError: value is too small"),
        ("odd", {"text": "a"}, "can't be called with completions"),
        ("NUMBER", {}, "can't be called with completions"),
    ],
)
def test_what_is_no_reward_is_one_line(mine, name, settings, says):
    with pytest.raises(ConfigError, match=says) as caught:
        build({"_target_": mine(name), **settings})
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_imported_is_one_line(tmp_path):
    (tmp_path / "broken.py").write_text("import a_package_that_is_not_there\ndef short(completions): return [0.0]\n")
    with pytest.raises(ConfigError, match=r"cannot be imported .*a_package_that_is_not_there"):
        build({"_target_": f"{tmp_path}/broken.py:short"})


# Before anything starts


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("trl.rewards.think_formt_reward", r"is not there; .*\(did you mean think_format_reward\?\)"),
        ("trl.reward.think_format_reward", "is not there"),
        ("no_such_package.reward", "is not there"),
        ("nowhere.py:short", "no such file"),
        (None, "has no _target_"),
    ],
)
def test_a_target_that_is_not_there_is_found_without_importing(target, says):
    with pytest.raises(ConfigError, match=says):
        check({"_target_": target})


def test_settings_of_the_layers_own_rewards_are_checked_at_once():
    with pytest.raises(ConfigError, match=r"reward\.most=0"):
        check({"_target_": "qwen_align.reward.length.LengthReward", "most": 0})


def test_checking_a_users_file_does_not_run_it(tmp_path):
    (tmp_path / "loud.py").write_text(f"open('{tmp_path}/ran', 'w')\ndef short(completions): return [0.0]\n")
    check({"_target_": f"{tmp_path}/loud.py:short"})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("option", sorted(set(groups.options("reward")) - {"several", "verifier"}))
def test_every_option_passes_the_check(option):
    check(groups.read("reward", option))


def test_a_rehearsal_lets_good_rewards_pass(mine):
    several = {"_target_": reward.SEVERAL, "a": {"_target_": mine("with_bonus")}, "b": {"_target_": mine("slow")}}
    rehearse([*build(several), Reward("ids", lambda completion_ids, **_: [0.0] * len(completion_ids))], ROWS)


def test_a_rehearsal_asks_about_a_single_row_too():
    rehearse([Reward("n", lambda completions: [0.0] * len(completions))], ROWS[:1])


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda completions, target: [0.0], "needs the column target"),
        (lambda completions: [0.0], "returned 1 values for 2 completions"),
        (lambda completions: [math.nan] * 2, "returned nan for ''"),
        (lambda completions: ["good"] * 2, "returned 'good'"),
        (lambda completions: completions[0]["content"], "raised TypeError"),
        (lambda completions, *, bonus, **_: bonus[5], "raised IndexError"),
    ],
)
def test_a_rehearsal_finds_a_wrong_reward_before_training(function, says):
    with pytest.raises(ConfigError, match=f"mine:? .*{says}"):
        rehearse([Reward("mine", function)], ROWS)


def test_a_rehearsal_where_token_ids_will_not_be_known_refuses_a_reward_that_reads_them():
    with pytest.raises(ConfigError, match="reads completion_ids"):
        rehearse([Reward("ids", lambda completion_ids: [0.0] * 2)], ROWS, with_ids=False)
