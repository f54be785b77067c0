"""What TRL and PEFT accept, as read from their source, against the imported classes."""

import ast
import dataclasses
import enum

import pytest

from qwen_align.config import schema

TARGETS = [
    "trl.SFTConfig", "trl.DPOConfig", "trl.RewardConfig", "trl.RLOOConfig", "trl.GRPOConfig", "trl.KTOConfig",
    "trl.experimental.cpo.CPOConfig", "transformers.TrainingArguments", "peft.LoraConfig", "peft.IA3Config",
]  # fmt: skip


def real_fields(target: str) -> dict[str, dataclasses.Field]:
    from hydra.utils import get_class

    return {f.name: f for f in dataclasses.fields(get_class(target))}


def problem(value, annotation: str, name: str = "some_field") -> str | None:
    return schema.problem(name, value, ast.parse(annotation, mode="eval").body)


@pytest.mark.parametrize("target", TARGETS)
def test_field_names_are_the_real_ones(target):
    assert set(schema.fields(target)) == set(real_fields(target))


@pytest.mark.parametrize("target", TARGETS)
def test_every_default_is_accepted(target):
    annotations = schema.fields(target)
    refused = {}
    for name, field in real_fields(target).items():
        value = field.default.value if isinstance(field.default, enum.Enum) else field.default
        if value is not dataclasses.MISSING:
            refused[name] = schema.problem(name, value, annotations[name])
    assert {k: v for k, v in refused.items() if v} == {}


@pytest.mark.parametrize("target", ["trl.NoSuchConfig", "trl.rewards.think_format_reward", "nowhere.Config", ""])
def test_what_is_no_config_class_has_no_fields(target):
    assert schema.fields(target) == {}


MINE = """
import trl
from beside import Shared

class Direct(trl.GRPOConfig):
    mine: int = 1

class Indirect(Shared):
    more: str | None = None
"""


@pytest.mark.parametrize(("name", "own"), [("Direct", {"mine"}), ("Indirect", {"more", "shared"})])
def test_a_users_class_has_its_own_fields_and_trls(tmp_path, name, own):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "beside.py").write_text("from trl import GRPOConfig\n\nclass Shared(GRPOConfig):\n    shared: float = 0.0\n")
    found = set(schema.fields(f"{tmp_path}/mine.py:{name}"))
    assert found == set(schema.fields("trl.GRPOConfig")) | own


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (3, "int"),
        (3, "float"),
        (0.5, "float"),
        (True, "bool"),
        ("x", "str"),
        (None, "int | None"),
        (3, "int | None"),
        (None, "Optional[str]"),
        ("x", "Optional[str]"),
        (3, "Union[int, str]"),
        ([1.0], "list[float] | None"),
        ({"a": 1}, "dict[str, Any] | str | None"),
        ("eva", "bool | Literal['eva', 'olora']"),
        ("cosine", "SchedulerType | str"),
        ("steps", "IntervalStrategy | str"),
        (object(), "SomethingUnknown"),
    ],
)
def test_accepted(value, annotation):
    assert problem(value, annotation) is None


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        ("four", "int", "expected int"),
        (0.5, "int", "expected int"),
        (True, "int", "expected int"),
        (True, "float", "expected float"),
        ("x", "float", "expected float"),
        (1, "bool", "expected bool"),
        ("yes", "bool", "expected bool"),
        (3, "str", "expected str"),
        (None, "int", "expected int"),
        ("four", "int | None", "expected int | None"),
        ("x", "list[float] | None", "expected list[float] | None"),
        ([1], "dict | None", "expected dict | None"),
        ("evo", "bool | Literal['eva', 'olora']", "expected bool | Literal['eva', 'olora']"),
    ],
)
def test_refused(value, annotation, message):
    assert problem(value, annotation) == message


def test_refused_enum_value_lists_the_right_ones():
    message = problem("cosinus", "SchedulerType | str")
    assert message.startswith("expected one of linear, cosine,")


def test_enums_hold_the_values_of_transformers():
    from transformers.trainer_utils import SchedulerType

    assert set(schema.enums()["SchedulerType"]) == {member.value for member in SchedulerType}


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("temperature", 0.0, 0.1),
        ("learning_rate", -1e-5, 0.0),
        ("beta", -0.1, 0.0),
        ("num_generations", 1, 2),
        ("max_completion_length", 0, 1),
        ("per_device_train_batch_size", 0, 1),
        ("num_iterations", 0, 1),
        ("save_steps", 0, 1),
        ("logging_steps", 0, 1),
        ("weight_decay", -0.1, 0.0),
    ],
)
def test_ranges(name, wrong, right):
    annotation = schema.fields("trl.RLOOConfig")[name]
    assert schema.problem(name, wrong, annotation).startswith("expected a ")
    assert schema.problem(name, right, annotation) is None


@pytest.mark.parametrize(("name", "off", "on"), [("top_p", 1.0, 0.95), ("top_k", 0, 20), ("min_p", 0.0, 0.1)])
def test_training_samples_from_the_whole_distribution(name, off, on):
    annotation = schema.fields("trl.RLOOConfig")[name]
    assert schema.problem(name, off, annotation) is None
    assert schema.problem(name, on, annotation).startswith(f"expected {off:g}: ")


def test_vllm_mode_is_one_of_two_words():
    annotation = schema.fields("trl.RLOOConfig")["vllm_mode"]
    assert schema.problem("vllm_mode", "colocat", annotation) == "expected one of server, colocate"
    assert schema.problem("vllm_mode", "server", annotation) is None
