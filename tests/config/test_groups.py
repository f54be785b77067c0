"""conf/ as files: options, what they build on, and rewards that are no file at all."""

import pytest

from qwen_align.config import groups
from qwen_align.errors import ConfigError


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder of --config-dir with reward/ in it."""
    (tmp_path / "reward").mkdir()
    monkeypatch.setattr(groups, "extra", [tmp_path])
    return tmp_path / "reward"


def test_options_of_the_users_folder_are_options_too(mine):
    before = groups.options("reward")
    (mine / "mine.yaml").write_text("_target_: mine.py:short\n")
    assert set(groups.options("reward")) == {*before, "mine"}
    assert groups.read("reward", "mine")["_target_"] == "mine.py:short"


def test_an_option_has_what_it_builds_on_under_its_own(mine):
    (mine / "above.yaml").write_text("defaults: [deberta, _self_]\nbase: {model_type: bert}\nname: above\n")
    found, below = groups.read("reward", "above"), groups.read("reward", "deberta")
    assert found == below | {"base": {"model_type": "bert"}, "name": "above"}


def test_a_node_of_an_option_is_merged_with_that_of_its_base(mine):
    (mine / "above.yaml").write_text("defaults: [deberta_tiny, _self_]\nbase: {hidden_size: 64}\n")
    found, below = groups.read("reward", "above")["base"], groups.read("reward", "deberta_tiny")["base"]
    assert found == below | {"hidden_size": 64}


def test_every_reward_has_the_keys_of_the_layer(mine):
    (mine / "mine.yaml").write_text("_target_: mine.py:short\nweight: 0.5\n")
    assert groups.read("reward", "mine") == {"_target_": "mine.py:short", "name": None, "weight": 0.5, "clip": None}


@pytest.mark.parametrize("target", ["trl.rewards.think_format_reward", "mine.py:short", "a/b.py:short", "/a/b.py:short"])
def test_a_target_is_a_reward_with_nothing_set(target):
    assert groups.is_target("reward", target)
    assert groups.read("reward", target) == {"_target_": target, "name": None, "weight": 1.0, "clip": None}


@pytest.mark.parametrize(("group", "option"), [("reward", "countdown"), ("model", "qwen2.5_0.5b"), ("data", "mine.py:f")])
def test_other_options_are_no_targets(group, option):
    assert not groups.is_target(group, option)


def test_an_option_with_a_dot_in_its_name_is_an_option(mine):
    (mine / "v1.long.yaml").write_text("_target_: mine.py:short\n")
    assert not groups.is_target("reward", "v1.long")


def test_an_option_that_is_not_there_has_no_keys():
    assert groups.read("reward", "nowhere") == {}


@pytest.mark.parametrize(("text", "value"), [("1e-5", 1e-5), ("2E3", 2000.0), ("-1e2", -100.0), ("e5", "e5"), ("1.5", 1.5)])
def test_numbers_are_read_as_omegaconf_reads_them(mine, text, value):
    (mine / "mine.yaml").write_text(f"value: {text}\n")
    assert groups.read("reward", "mine")["value"] == value


@pytest.mark.parametrize(("text", "says"), [("a: [1", "is no YAML"), ("- a\n", "holds list; expected keys")])
def test_a_file_that_cannot_be_read_is_one_line(mine, text, says):
    (mine / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"mine.yaml: {says}") as caught:
        groups.read("reward", "mine")
    assert "\n" not in str(caught.value)


def test_a_tree_is_flattened_with_its_inner_nodes():
    assert list(groups.flatten({"a": {"b": 1}, "c": 2}, "x.")) == [("x.a", {"b": 1}), ("x.a.b", 1), ("x.c", 2)]


def test_defaults_and_hydras_own_are_no_keys():
    assert not {"defaults", "hydra"} & groups.top_level().keys()
    assert {"seed", "runs_dir"} <= groups.top_level().keys()
