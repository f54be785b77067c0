"""What a `_target_` names: packages, the user's files, verifiers by name; and when changed code is another stage."""

import dataclasses
import sys

import pytest
from omegaconf import OmegaConf

from qwen_align.config import component, groups
from qwen_align.errors import ConfigError

CODE = """
from __future__ import annotations
import dataclasses
import beside

@dataclasses.dataclass
class Thing:
    size: int = 1
    def __post_init__(self):
        if self.size < 0:
            raise ValueError("size is below 0")

def verify(completion, wanted):
    return completion == wanted

def judge(tolerance):
    return lambda completion, wanted: abs(float(completion) - wanted) <= tolerance

def no_arguments():
    return True

LIMIT = beside.LIMIT
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The folder that the command is typed in, with mine.py and a module beside it."""
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "beside.py").write_text("LIMIT = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield tmp_path
    sys.modules.pop("beside", None)


def refused(function, *given) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Names in files and packages


def test_a_file_is_found_where_the_command_is_typed(mine):
    assert component.absolute("k", "mine.py:verify") == f"{mine}/mine.py:verify"


def test_a_file_is_found_in_a_folder_of_config_dir(mine, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setattr(groups, "extra", [mine])
    assert component.absolute("k", "mine.py:verify") == f"{mine}/mine.py:verify"


def test_a_dotted_path_stays_as_it_is():
    assert component.absolute("k", "trl.rewards.x") == "trl.rewards.x"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("mne.py:verify", "k=mne.py:verify: no such file in "),
        ("mine.py:verfy", "k=mine.py:verfy: the file has no verfy (did you mean verify?); it has Thing, verify"),
        ("broken.py:verify", "broken.py: is no Python"),
    ],
)
def test_a_name_that_is_not_in_a_file_is_refused_without_running_it(mine, target, says):
    (mine / "broken.py").write_text("def verify(:\n")
    assert says in refused(component.absolute, "k", target)
    assert "beside" not in sys.modules


def test_a_job_gets_absolute_paths_in_every_node(mine):
    job = OmegaConf.create(
        {"reward": {"a": {"_target_": "mine.py:verify"}}, "data": {"verifier": "mine.py:verify", "path": "mine.py:verify"}}
    )
    component.settle(job)
    there = f"{mine}/mine.py:verify"
    assert job == {"reward": {"a": {"_target_": there}}, "data": {"verifier": there, "path": "mine.py:verify"}}


def test_what_lies_beside_a_file_can_be_imported_by_it(mine):
    assert component.locate("mine.py:LIMIT") == 3


def test_a_dataclass_of_a_users_file_is_one(mine):
    assert dataclasses.asdict(component.construct({"_target_": "mine.py:Thing", "size": 2})) == {"size": 2}


def test_a_file_is_run_once(mine):
    assert component.locate("mine.py:Thing") is component.locate(f"{mine}/mine.py:Thing")


def test_a_name_in_a_class_is_found():
    assert component.locate("pathlib.Path.cwd").__name__ == "cwd"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nothing", "expected a dotted path such as package.module.name, or FILE.py:NAME"),
        ("no_such_package.x", "cannot be imported (ModuleNotFoundError: No module named 'no_such_package')"),
        ("qwen_align.nope.x", "cannot be imported (ModuleNotFoundError: No module named 'qwen_align.nope')"),
        ("pathlib.Pth", "pathlib has no Pth (did you mean Path?)"),
        ("fails.py:x", "cannot be imported (ZeroDivisionError: division by zero)"),
    ],
)
def test_what_cannot_be_imported_is_one_line(mine, target, says):
    (mine / "fails.py").write_text("x = 1 / 0\n")
    assert says in refused(component.locate, target, "k")


# Settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"sise": 1}, "(did you mean size?)"), ({"size": -1}, "mine.py:Thing raised ValueError: size is below 0")],
)
def test_settings_that_do_not_fit_are_one_line(mine, settings, says):
    assert says in refused(component.construct, {"_target_": "mine.py:Thing", **settings}, "reward")


def test_a_builtin_without_a_signature_is_not_checked():
    component.check_arguments("k", "builtins.max", max, {"anything": 1})


# Verifiers


def test_a_verifier_is_known_by_its_name():
    assert component.verifier("countdown").needs == ("nums", "target")
    assert {"countdown", "math", "constraints", "label"} <= set(component.verifiers())


def test_no_verifier_is_none():
    assert component.verifier(None) is None


def test_a_verifier_takes_settings():
    assert component.verifier({"_target_": "label", "labels": ["spam", "ham"]}).answer("it is spam") == "spam"


def test_a_users_function_is_a_verifier_by_its_own_name(mine):
    found = component.verifier("mine.py:verify")
    assert (found.name, found.needs) == ("verify", ("wanted",))


def test_what_a_users_factory_makes_is_a_verifier(mine):
    found = component.verifier({"_target_": "mine.py:judge", "tolerance": 0.5})
    assert found.verify("1.4", {"wanted": 1.0}) == "correct"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("countdwn", "data.verifier=countdwn: expected null, "),
        ("countdwn", "(did you mean countdown?)"),
        ("rational", "expected null, "),
        ({"labels": []}, "expected a name, FILE.py:NAME, or a node with _target_"),
        ({"_target_": "countdown", "most": 1}, "data.verifier=countdown: takes no settings; got most"),
        ({"_target_": "label", "lables": ["a", "b"]}, "(did you mean labels?)"),
        ({"_target_": "label", "labels": ["a"]}, "data.verifier.labels=['a']: expected at least two"),
        ("mine.py:no_arguments", "data.verifier=no_arguments: expected a function verify(completion, **row)"),
    ],
)
def test_what_is_no_verifier_is_one_line(mine, spec, says):
    assert says in refused(component.verifier, spec)


# Code


def test_changed_code_of_the_users_has_another_hash(mine):
    before = component.code_hash("mine.py:verify")
    (mine / "mine.py").write_text(CODE + "\n# changed")
    assert component.code_hash("mine.py:verify") not in (before, None)


def test_changed_code_of_a_users_package_has_another_hash(tmp_path, monkeypatch):
    package = tmp_path / "package_of_mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "rewards.py").write_text("def short(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = component.code_hash("package_of_mine.rewards.short")
    (package / "rewards.py").write_text("def short(): return 1\n")
    assert component.code_hash("package_of_mine.rewards.short") not in (before, None)


@pytest.mark.parametrize("target", ["trl.rewards.think_format_reward", "qwen_align.reward.length.LengthReward", "nowhere.x"])
def test_installed_packages_have_none(target):
    assert component.code_hash(target) is None
