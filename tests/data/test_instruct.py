"""SmolTalk and UltraFeedback, with small local folders in their place."""

import datasets
import pytest

from qwen_align.config import groups
from qwen_align.data.instruct import Instruct
from qwen_align.errors import ConfigError


def turn(role: str, text: str) -> dict:
    return {"role": role, "content": text}


def pair(prompt: str, chosen: str = "good", rejected: str = "bad", points: tuple = (8.0, 5.0)) -> dict:
    return {
        "prompt": prompt,
        "prompt_id": prompt,
        "chosen": [turn("user", prompt), turn("assistant", chosen)],
        "rejected": [turn("user", prompt), turn("assistant", rejected)],
        "messages": [turn("user", prompt), turn("assistant", chosen)],
        "score_chosen": points[0],
        "score_rejected": points[1],
    }


TALKS = [
    [turn("user", "Hi"), turn("assistant", "Hello")],
    [turn("system", "Be brief."), turn("user", "1"), turn("assistant", "2"), turn("user", "3"), turn("assistant", "4")],
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def instruct(tmp_path):
    """instruct(talks=, train=, test=, settings): the data set on folders of the test's own."""

    def build(talks=TALKS, train=(), test=(), **changes) -> Instruct:
        splits = {
            "talks/train-00000-of-00001": [{"messages": talk, "source": "x"} for talk in talks],
            "pairs/data/train_prefs-00000-of-00001": train or [pair("one"), pair("two")],
            "pairs/data/test_prefs-00000-of-00001": test or [pair("held out"), pair("held out too")],
        }
        for name, rows in splits.items():
            path = tmp_path / f"{name}.parquet"
            path.parent.mkdir(exist_ok=True, parents=True)
            datasets.Dataset.from_list(list(rows)).to_parquet(path)
        node = {k: v for k, v in groups.read("data", "instruct").items() if k not in ("_target_", "verifier")}
        names = {"demonstrations_name": str(tmp_path / "talks"), "preferences_name": str(tmp_path / "pairs")}
        return Instruct(**node | names | changes)

    return build


def asked(rows) -> list[str]:
    return [prompt[-1]["content"] for prompt in rows["prompt"]]


def test_conversations_stay_whole(instruct):
    assert instruct().demonstrations().to_list() == [{"messages": talk} for talk in TALKS]


def test_preferences_are_split_into_prompt_and_answers(instruct):
    (row,) = instruct(train=[pair("one")]).preferences()
    assert row == {
        "prompt": [turn("user", "one")],
        "chosen": [turn("assistant", "good")],
        "rejected": [turn("assistant", "bad")],
    }


def test_a_margin_is_the_difference_of_the_ratings(instruct):
    assert instruct(margin=True).preferences()["margin"][:] == [3.0, 3.0]


def test_pairs_that_teach_nothing_are_left_out_aloud(instruct, capsys):
    bad = [pair("tie", points=(7.0, 7.0)), pair("same", "a", "a"), pair("empty", rejected=" "), pair("held out")]
    made = instruct(train=[pair("one"), *bad, pair("tie 2", points=(6.0, 6.0))])
    assert asked(made.preferences()) == ["one"]
    out = capsys.readouterr().out
    assert "data.preferences_name=" in out
    assert "5 of 6 rows are left out: 2 because chosen is rated no higher than rejected; 1 because" in out
    for reason in ("are the same", "rejected ends with an empty message", "the evaluation view asks the same"):
        assert f"1 because {reason}" in out or f"1 because chosen and rejected {reason}" in out


def test_prompts_and_evaluation_share_nothing_and_come_once(instruct):
    made = instruct(
        train=[pair("one"), pair("one", "other"), pair("held out"), pair("two")],
        test=[pair("held out"), pair("held out", "other"), pair("held out too")],
    )
    assert asked(made.prompts()) == ["one", "two"]
    assert asked(made.evaluation()) == ["held out", "held out too"]


def test_a_demonstration_of_a_held_out_prompt_is_left_out(instruct, capsys):
    leak = [turn("system", "Be brief."), turn("user", "held out"), turn("assistant", "yes")]
    assert instruct(talks=[*TALKS, leak]).demonstrations().num_rows == 2
    assert "1 of 3 rows are left out: 1 because the evaluation view asks the same" in capsys.readouterr().out


def test_a_conversation_without_an_answer_is_left_out(instruct, capsys):
    assert instruct(talks=[*TALKS, TALKS[1][:2], [turn("assistant", "?")]]).demonstrations().num_rows == 2
    out = capsys.readouterr().out
    assert "1 because messages does not end with the assistant's message" in out
    assert "1 because messages hold an answer without a prompt" in out


def test_fewer_rows_can_be_asked_for_and_a_seed_chooses_the_same_again(instruct):
    talks = [[turn("user", f"question {i}"), turn("assistant", "answer")] for i in range(50)]
    made = instruct(talks=talks, problems=10, evaluation_problems=1)
    questions = lambda: [talk[0]["content"] for talk in made.demonstrations()["messages"]]  # noqa: E731
    first = questions()
    assert len(first) == len(set(first)) == 10
    assert first == questions()
    made.seed = 1
    assert first != questions()
    assert asked(made.evaluation()) == ["held out"]


def test_problems_bounds_the_preferences_too(instruct):
    assert asked(instruct(problems=1).preferences()) == ["one"]


def test_a_set_of_another_shape_is_refused(instruct, tmp_path):
    made = instruct(preferences_name=str(tmp_path / "talks"))
    with pytest.raises(ConfigError, match=r"data\.preferences_name="):
        made.preferences()


def test_less_than_one_row_is_refused(instruct):
    with pytest.raises(ConfigError, match=r"data\.problems=0: expected"):
        instruct(problems=0)


def test_the_data_set_brings_a_reward_model_and_has_no_verifier(stages_of):
    (stage,) = stages_of("method=sft", "data=instruct")
    assert stage.config["reward"]["name"] == "deberta"
    assert groups.read("data", "instruct")["verifier"] is None
