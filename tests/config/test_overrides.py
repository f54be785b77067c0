"""Overrides as they are typed, and as Hydra gets them."""

import pytest

from qwen_align.config import groups
from qwen_align.config.overrides import checked, expanded, misplaced, targets
from qwen_align.errors import ConfigError


def refused(function, *given) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Rewards by list and by target


def test_a_list_of_rewards_is_one_node_each():
    assert expanded(["method=rloo", "reward=[countdown, length]"]) == [
        "method=rloo",
        "reward=several",
        "+reward@reward.countdown=countdown",
        "+reward@reward.length=length",
    ]


def test_a_target_in_a_list_is_called_by_its_last_name():
    assert expanded(["reward=[deberta,my/file.py:short,trl.rewards.think_format_reward]"]) == [
        "reward=several",
        "+reward@reward.deberta=deberta",
        "+reward@reward.short=my/file.py:short",
        "+reward@reward.think_format_reward=trl.rewards.think_format_reward",
    ]


@pytest.mark.parametrize("value", ["[length,length]", "[a.py:short,b.py:short]"])
def test_a_name_that_is_there_twice_is_refused_with_the_way_out(value):
    assert "is there twice; a second one under a name: +reward@reward.NAME=" in refused(expanded, [f"reward={value}"])


@pytest.mark.parametrize("override", ["data=[countdown]", "reward=[]", "reward=[a],[b]", "method=[sft,rloo]"])
def test_a_list_that_hydra_could_not_compose_is_refused(override):
    assert "expected one option, a sweep like a,b, or for rewards a list" in refused(expanded, [override])


def test_another_target_is_another_reward():
    assert expanded(["data=countdown", "reward._target_=trl.rewards.x"]) == ["data=countdown", "reward=trl.rewards.x"]


def test_the_target_of_an_option_that_is_typed_beside_it_keeps_its_settings():
    typed = ["reward=deberta", "reward._target_=mine.py:Mine"]
    assert expanded(typed) == typed


def test_what_is_expanded_stays_as_it_is():
    once = expanded(["reward=[countdown,a.py:short]", "seed=1"])
    assert expanded(once) == once


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("reward=countdown", []),
        ("reward=a.py:short", ["a.py:short"]),
        ("reward=countdown,a.py:short,trl.rewards.x", ["a.py:short", "trl.rewards.x"]),
        ("reward=choice(countdown,a.py:short)", ["a.py:short"]),
        ("reward='my file.py:short'", ["my file.py:short"]),
        ("+reward@reward.mine=a.py:short", ["a.py:short"]),
        ("data=a.py:short", []),
        ("reward.base=a.py:short", []),
    ],
)
def test_rewards_without_a_file_are_found(override, found):
    assert targets([override]) == found


# One override


@pytest.mark.parametrize(
    "override",
    [
        "method=rloo",
        "reward=countdown,length",
        "reward=trl.rewards.think_format_reward",
        "reward=a.py:short",
        "seed=3",
        "experiment=null",
        "~experiment",
        "+reward@reward.mine=length",
        "data.problems=5",
        "data.verifier=file.py:verify",
        "runs_dir=${oc.env:HOME}/runs",
        "--help",
        "hydra.verbose=true",
        "hydra/launcher=joblib",
        "reward=glob(*)",
    ],
)
def test_what_is_right_is_passed_on(override):
    assert checked(override) == override


@pytest.mark.parametrize(
    ("override", "passed"),
    [
        ("method.args.adam_beta2=0.9", "++method.args.adam_beta2=0.9"),
        ("+method.args.adam_beta2=0.9", "++method.args.adam_beta2=0.9"),
        ("~method.args.adam_beta2", "~method.args.adam_beta2"),
        ("stages.sft.args.max_steps=1", "++stages.sft.args.max_steps=1"),
        ("stages.rloo.prompts_per_step=1", "++stages.rloo.prompts_per_step=1"),
        ("method.prompts_per_step=1", "method.prompts_per_step=1"),
        ("method.policies={a: [seed=1]}", "++method.policies={a: [seed=1]}"),
        ("adapter.use_rslora=true", "++adapter.use_rslora=true"),
        ("reward.weight=2", "++reward.weight=2"),
        ("+reward.most=2", "++reward.most=2"),
        ("reward.short.clip=[0,1]", "++reward.short.clip=[0,1]"),
    ],
)
def test_a_key_that_may_be_new_to_hydra_gets_the_plus_that_it_wants(override, passed):
    assert checked(override) == passed
    assert checked(passed) == passed


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("method=rlo", "rloo"),
        ("metod=rloo", "method"),
        ("reward=countdwn", "countdown"),
        ("reward=length,countdwn", "countdown"),
        ("sed=1", "seed"),
        ("+foo.seeed=1", "seed"),
        ("data.problem=3", "data.problems"),
        ("adapter.lora_dropot=0.1", "adapter.lora_dropout"),
        ("method.prompts_per_stp=1", "prompts_per_step"),
        ("method.args.learning_rat=1", "learning_rate"),
        ("stages.rlo.args.beta=0", "rloo"),
        ("stages.rloo.args.num_generation=4", "num_generations"),
    ],
)
def test_a_misspelled_name_gets_the_nearest_right_one(override, near):
    message = refused(checked, override)
    assert f"(did you mean {near}?)" in message
    assert override.partition("=")[0].lstrip("+") in message or "countdwn" in message


@pytest.mark.parametrize(("override", "says"), [("model", "expected key=value"), ("~data", "every run needs a data")])
def test_what_is_no_setting_is_refused(override, says):
    assert says in refused(checked, override)


def test_args_of_a_method_without_any_name_the_method():
    assert refused(checked, "stages.evaluate.args.beta=1").startswith("stages.evaluate.args.beta=1: method=evaluate has no")


def test_a_users_method_takes_the_fields_of_its_own_class(tmp_path, monkeypatch):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("_target_: mine.train\nargs: {_target_: peft.LoraConfig}\n")
    assert "has no lora_alpha" in refused(checked, "method.args.lora_alpha=2")
    monkeypatch.setattr(groups, "extra", [tmp_path])
    assert checked("method.args.lora_alpha=2") == "++method.args.lora_alpha=2"


def test_a_key_of_another_option_is_named_with_those_that_have_it():
    assert misplaced("data.count").endswith("not a key of the option that is chosen here; data=countdown has it")
    assert misplaced("data.nowhere").endswith("that is chosen here")


# What Hydra composes of rewards without a file


@pytest.fixture
def mine(in_empty_folder):
    """The target of a user's reward in the folder that the command is typed in."""
    (in_empty_folder / "mine.py").write_text("def short(completions, most=3): ...\n\ndef long(completions): ...\n")
    return in_empty_folder / "mine.py"


RLOO = ("method=rloo", "data=countdown", "init=base")


def reward_of(stage) -> dict:
    return stage.config["method"]["reward"]


@pytest.mark.parametrize("typed", ["reward=mine.py:short", "reward={mine}:short", "reward._target_=mine.py:short"])
def test_a_function_in_a_file_is_the_reward_with_its_settings_and_the_layers(stages_of, mine, typed):
    (stage,) = stages_of(*RLOO, typed.format(mine=mine), "reward.most=5", "reward.weight=0.5")
    layer = {"name": None, "weight": 0.5, "clip": None}
    assert reward_of(stage) == {"_target_": f"{mine}:short", "most": 5, **layer}


def test_a_function_of_trl_takes_nothing_from_the_reward_that_the_data_brings(stages_of):
    (stage,) = stages_of(*RLOO, "reward._target_=trl.rewards.think_format_reward")
    assert reward_of(stage).keys() == {"_target_", *groups.LAYER}


def test_a_file_stands_beside_an_option(stages_of, mine):
    (stage,) = stages_of(*RLOO, "reward=[countdown,mine.py:short]", "reward.short.clip=[0,1]")
    found = reward_of(stage)
    assert (found["countdown"]["verifier"], found["short"]["_target_"]) == ("countdown", f"{mine}:short")
    assert found["short"]["clip"] == [0, 1]


def test_a_sweep_goes_over_options_and_files(run_main, mine):
    code, shown, errors = run_main("-m", *RLOO, "reward=countdown,mine.py:short,mine.py:long", "plan=true")
    assert (code, errors) == (0, "")
    assert all(shown.count(f"rloo ({name})") for name in ("countdown", "short", "long"))


def test_a_setting_of_another_reward_is_named_with_it(stages_of):
    assert "; reward=length has it" in refused(stages_of, *RLOO, "reward=format", "reward.falloff=3")


def test_a_key_below_a_node_of_free_form_of_a_method_is_anything():
    assert checked("method.rows.sft.seeds=[1]") == "++method.rows.sft.seeds=[1]"
