"""Every option of conf/method has what all of them have; the message says what is missing."""

import importlib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qwen_align.config import groups, rules, schema, source_code
from qwen_align.data import VIEWS

METHODS = groups.options("method")
TRAINERS = [name for name in METHODS if groups.read("method", name).get("kind") == "train"]
HEALTH = "qwen_align.method.health"


def own(name: str) -> dict:
    return groups.read("method", name)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_module_of_its_name_with_a_test(name):
    assert own(name)["_target_"].startswith(f"qwen_align.method.{name}."), f"conf/method/{name}.yaml: another module"
    assert source_code.defines(own(name)["_target_"]), f"{own(name)['_target_']} does not exist"
    assert Path(__file__).with_name(f"test_{name}.py").is_file(), f"tests/method/test_{name}.py is missing"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_does_with_which_view_and_where_it_starts(name):
    settings = own(name)
    lacking = [key for key in ("kind", "view", "init", "next", "checks") if key not in settings]
    assert not lacking, f"conf/method/{name}.yaml lacks {', '.join(lacking)}"
    assert settings["kind"] in ("train", "sample")
    assert settings["view"] in VIEWS
    assert settings["init"] in ("base", *TRAINERS)


@pytest.mark.parametrize("name", METHODS)
def test_its_rules_exist(name):
    named = [rules.dotted(rule, rules.__name__) for rule in own(name)["checks"]]
    named += [rules.dotted(rule, HEALTH) for rule in own(name).get("health", [])]
    assert not [rule for rule in named if not source_code.defines(rule)]


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_has_its_batch_checked_and_its_samples_watched(name):
    settings = own(name)
    assert "whole_batch" in settings["checks"]
    assert ("batch_size" in settings) != ("prompts_per_step" in settings), "one unit of an update"
    if settings["view"] == "prompts":
        assert {"exact_resume", "whole_distribution"} <= set(settings["checks"])
        assert {"completions_cut", "groups_without_variance"} <= set(settings["health"])


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainers_arguments_are_fields_of_its_class(name):
    args = own(name)["args"]
    fields = schema.fields(args["_target_"])
    assert fields, f"{args['_target_']} is no config class"
    unknown = set(args) - {"_target_"} - set(fields)
    assert not unknown, f"conf/method/{name}.yaml: {args['_target_']} has no {', '.join(sorted(unknown))}"


@pytest.mark.parametrize("name", TRAINERS)
def test_what_a_device_holds_and_how_often_it_is_saved_come_from_the_yaml(name):
    args, hardware = own(name)["args"], groups.read("hardware", "auto")
    for field, group in (
        ("per_device_train_batch_size", "per_device"),
        ("activation_checkpointing", "activation_checkpointing"),
    ):
        assert field in args, f"conf/method/{name}.yaml: args lacks {field}"
        key = args[field].removeprefix(f"${{hardware.{group}.").removesuffix("}")
        assert key in hardware[group], f"conf/hardware/auto.yaml: {group} has no {key}"
    assert {"logging_steps", "save_steps", "learning_rate", "lr_scheduler_type"} <= set(args)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_takes_job_data_and_folder(name):
    module, _, function = own(name)["_target_"].rpartition(".")
    found = getattr(importlib.import_module(module), function)
    assert list(found.__annotations__)[:3] == ["job", "data", "folder"]


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_plans(name, stages_of):
    data = {"prompts": "countdown", "demonstrations": "countdown", "preferences": "hh_rlhf"}[own(name)["view"]]
    more = ["reward=deberta"] if own(name).get("subject") else []
    stage = stages_of(f"method={name}", f"data={data}", "hardware=cpu", "init=base", *more)[-1]
    assert stage.job.trains and stage.job.name == name
    assert OmegaConf.is_config(stage.job.method.args)
