"""Data: a source and its verifier, loaded from one node."""

import pytest
from datasets import Dataset

from qwen_align import data
from qwen_align.config import groups
from qwen_align.data import Data
from qwen_align.errors import ConfigError
from qwen_align.verifier import Verifier

SMALL = {"problems": 20, "evaluation_problems": 10}


class Source:
    """One view, of which the verifier reads `answer`."""

    def __init__(self, **columns):
        self.columns = columns

    def evaluation(self):
        return Dataset.from_dict(self.columns)


@pytest.mark.parametrize(("option", "verifier"), [("countdown", "countdown"), ("constraints", "constraints")])
def test_a_data_set_brings_its_verifier_and_every_demonstration_of_it_is_judged(option, verifier):
    found = data.load(groups.read("data", option) | SMALL | ({"pairs": 10} if option == "constraints" else {}))
    assert found.verifier.name == verifier
    verdicts = [found.verifier.verify(row["completion"][0]["content"], row) for row in found.rows("demonstrations")]
    assert set(verdicts) <= {"correct", "wellformed_wrong"}
    assert "correct" in verdicts


@pytest.mark.parametrize("option", groups.options("data"))
def test_every_data_set_says_whether_it_has_a_verifier(option):
    assert "verifier" in groups.read("data", option)


def test_another_verifier_takes_its_place_in_one_line(tmp_path):
    (tmp_path / "mine.py").write_text("def short(completion):\n    return len(completion) < 5\n")
    found = data.load(groups.read("data", "countdown") | SMALL | {"verifier": f"{tmp_path / 'mine.py'}:short"})
    row = found.rows("evaluation")[0]
    assert [found.verifier.verify(text, row) for text in ("yes", "a long text")] == ["correct", "wellformed_wrong"]


def test_a_verifier_with_settings_is_a_node_on_the_command_line(stages_of):
    (*_, stage) = stages_of("method=evaluate", "data=countdown", "data.verifier={_target_: label, labels: [spam, ham]}")
    assert data.load(stage.config["data"]).verifier.answer("no spam") == "spam"
    with pytest.raises(ConfigError, match=r"^data\.verifier\.labels=\['spam'\]: expected at least two"):
        stages_of("method=evaluate", "data=countdown", "data.verifier={_target_: label, labels: [spam]}")


def test_a_column_that_the_verifier_lacks_is_named():
    found = Data(Source(prompt=["?"]), Verifier(lambda completion, answer: True, "mine"))
    with pytest.raises(ConfigError, match=r"^data\.verifier=mine: reads the column answer; the evaluation view has prompt$"):
        found.rows("evaluation")


@pytest.mark.parametrize(
    ("view", "message"),
    [("prompts", "Source has no prompts view; it has evaluation"), ("evaluation", "evaluation view of Source is empty")],
)
def test_a_view_that_is_not_there_or_empty_is_named(view, message):
    with pytest.raises(ConfigError, match=message):
        Data(Source(prompt=[])).rows(view)


def test_what_needs_a_verifier_says_so_where_there_is_none():
    with pytest.raises(ConfigError, match=r"^data\.verifier=null: Source has no verifier, which method=evaluate needs"):
        Data(Source()).judged("method=evaluate")


def test_settings_that_a_source_does_not_take_are_refused():
    with pytest.raises(ConfigError, match=r"^data: .*Countdown does not take these settings"):
        data.load(groups.read("data", "countdown") | {"colour": "red"})
