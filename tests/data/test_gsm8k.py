"""GSM8K: worked solutions, final answers, and the split, on small folders of the test's own."""

import json
from pathlib import Path

import datasets
import pytest

from qwen_align.config import groups
from qwen_align.data.gsm8k import GSM8K
from qwen_align.errors import ConfigError

TRAIN = [
    {"question": "Half of 48?", "answer": "It is 48/2 = <<48/2=24>>24.\n#### 24"},
    {"question": "A thousand and 2?", "answer": "1000+2 = <<1000+2=1002>>1002\n#### 1,002"},
]
TEST = [{"question": "2 + 2?", "answer": "2+2 = <<2+2=4>>4\n#### 4"}]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def gsm8k(tmp_path: Path):
    """gsm8k(settings): the data set on a folder of the test's own; `train` replaces its training rows."""

    def build(train: list[dict] | None = None, **changes) -> GSM8K:
        folder = tmp_path / "gsm8k"
        folder.mkdir()
        for name, rows in (("train", train or TRAIN), ("test", TEST)):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        node = {k: v for k, v in groups.read("data", "gsm8k").items() if k not in ("_target_", "verifier")}
        return GSM8K(**node | {"dataset_name": str(folder), "prompt": "{question}"} | changes)

    return build


def test_a_demonstration_is_the_worked_solution_with_its_answer_last(gsm8k):
    row = gsm8k().demonstrations()[1]
    assert row["prompt"] == [{"role": "user", "content": "A thousand and 2?"}]
    assert row["completion"] == [{"role": "assistant", "content": "1000+2 = 1002\n#### 1,002"}]


def test_the_calculators_notes_are_kept_on_purpose_only(gsm8k):
    (text,) = gsm8k(problems=1, calculator=True).demonstrations()[0]["completion"]
    assert text["content"] == "It is 48/2 = <<48/2=24>>24.\n#### 24"


def test_prompts_and_evaluation_carry_the_final_answer(gsm8k):
    data = gsm8k()
    assert data.prompts()["answer"][:] == ["24", "1,002"]
    assert data.evaluation().to_list() == [{"prompt": [{"role": "user", "content": "2 + 2?"}], "answer": "4"}]


def test_no_more_rows_than_asked_for(gsm8k):
    data = gsm8k(problems=1)
    assert (len(data.demonstrations()), len(data.prompts()), len(data.evaluation())) == (1, 1, 1)


def test_the_prompts_wording_is_set(gsm8k):
    assert gsm8k(prompt="Q: {question}").evaluation()[0]["prompt"][0]["content"] == "Q: 2 + 2?"


def test_braces_in_a_question_are_text(gsm8k):
    rows = [{"question": "What is {x}?", "answer": "#### 1"}]
    assert gsm8k(rows).prompts()[0]["prompt"][0]["content"] == "What is {x}?"


@pytest.mark.parametrize("answer", ["no marker", "empty ####"])
def test_a_solution_without_a_final_answer_is_named(gsm8k, answer):
    rows = [TRAIN[0], {"question": "?", "answer": answer}]
    with pytest.raises(ConfigError, match=r"data\.dataset_name=.*row 1 of train has no final answer"):
        gsm8k(rows).prompts()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "Solve it"}, r"data\.prompt='Solve it': has the fields \[\]; expected \{question\}"),
        ({"problems": 0}, r"data\.problems=0: expected a whole number from 1 on"),
    ],
)
def test_settings_that_cannot_work_are_refused(gsm8k, changes, message):
    with pytest.raises(ConfigError, match=message):
        gsm8k(**changes)


def test_the_hubs_main_configuration_is_asked_for(gsm8k, monkeypatch):
    asked = []

    def load_dataset(name, config, **settings):
        asked.append((name, config, settings["split"], settings["revision"]))
        return datasets.Dataset.from_list(TEST)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = gsm8k(dataset_name="openai/gsm8k", dataset_revision="abc")
    data.evaluation()
    assert asked == [("openai/gsm8k", "main", "test", "abc")]
    assert [(source.config, source.splits) for source in data.sources("evaluation")] == [("main", ("test",))]


def test_a_set_that_cannot_be_had_is_one_clear_line(gsm8k):
    with pytest.raises(ConfigError, match=r"data\.dataset_name=nobody/nothing: ") as caught:
        gsm8k(dataset_name="nobody/nothing").prompts()
    assert "\n" not in str(caught.value)


def test_it_brings_the_maths_reward(stages_of):
    stages = stages_of("method=rloo", "init=base", "data=gsm8k")
    assert stages[-1].config["method"]["reward"]["verifier"] == "math"
