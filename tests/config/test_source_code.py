"""Where names are defined, and what classes are made of, as their source says."""

import subprocess
import sys

import pytest

from qwen_align.config import source_code

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "target",
    [
        "trl.rewards.think_format_reward", "trl.experimental.cpo.CPOTrainer", "qwen_align.method.rloo.train", "json.loads",
        "math.sqrt", "qwen_align.data.local.Local.prompts", "qwen_align.method.rloo.RLOO.order", "os.path.join",
    ],
)  # fmt: skip
def test_names_that_exist(target):
    assert source_code.defines(target)


@pytest.mark.parametrize(
    "target", ["trl.rewards.nothing", "nowhere.name", "qwen_align.data.local.Local.nothing", "plain", "here.py:f"]
)
def test_names_that_do_not_exist(target):
    assert not source_code.defines(target)


def test_nothing_is_imported_to_ask():
    asked = "schema.fields('trl.RLOOConfig'); source_code.defines('trl.rewards.think_format_reward')"
    imported = "sorted({'trl', 'peft', 'transformers', 'torch'} & set(sys.modules))"
    program = f"import sys; from qwen_align.config import schema, source_code; {asked}; print({imported})"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_loss_types_are_read_from_what_the_trainer_compares():
    assert {"sigmoid", "ipo", "hinge", "robust", "sigmoid_norm", "sft"} <= set(
        source_code.compared_with("trl.DPOConfig", "loss_type")
    )
    assert {"grpo", "dapo", "dr_grpo", "bnpo"} <= set(source_code.compared_with("trl.GRPOConfig", "loss_type"))
    assert set(source_code.compared_with("trl.KTOConfig", "loss_type")) == {"kto", "apo_zero_unpaired"}
    assert source_code.compared_with("peft.LoraConfig", "loss_type") == ()


def test_methods_of_a_data_class_are_its_views():
    assert source_code.methods_of("qwen_align.data.countdown.Countdown") >= {"demonstrations", "prompts", "evaluation"}


def test_methods_of_include_inherited_ones(tmp_path, monkeypatch):
    source = "class Base:\n    def prompts(self): ...\n\nclass Mine(Base):\n    def evaluation(self): ...\n"
    (tmp_path / "inheriting_data.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    assert source_code.methods_of("inheriting_data.Mine") == {"prompts", "evaluation"}


def test_methods_of_something_that_is_not_there():
    assert source_code.methods_of("qwen_align.data.countdown.NoSuchClass") == frozenset()


def test_a_class_that_inherits_from_another_file_has_its_methods(tmp_path):
    (tmp_path / "mine.py").write_text("from qwen_align.data.local import Local\n\n\nclass Mine(Local):\n    pass\n")
    inherited = source_code.methods_of("qwen_align.data.local.Local")
    assert "preferences" in inherited
    assert source_code.methods_of(f"{tmp_path}/mine.py:Mine") == inherited


@pytest.mark.parametrize(
    ("target", "light"),
    [
        ("qwen_align.hardware.Hardware", True),
        ("qwen_align.model.from_scratch", False),
        ("trl.rewards.think_format_reward", False),
    ],
)
def test_what_imports_torch_or_trl_is_not_light(target, light):
    assert source_code.is_light(target) == light
