"""The public Countdown sets, with small local folders in their place."""

import json
from pathlib import Path

import datasets
import pytest

from qwen_align import groups
from qwen_align.data.countdown import Countdown, is_held_out
from qwen_align.data.countdown_hub import CountdownHub
from qwen_align.errors import ConfigError

PROBLEMS = [{"nums": [a, b, 3], "target": a + b + 3} for a in range(1, 9) for b in range(a, 9)]
OPEN = "A conversation. User: Using the numbers [{nums}], create an equation that equals {target}. Assistant: <think>"
CLOSED = "Using the numbers [{nums}], create an equation that equals {target}."


def query(template: str, problem: dict) -> str:
    return template.format(nums=", ".join(map(str, problem["nums"])), target=problem["target"])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def hub(tmp_path: Path):
    """hub(rows of demonstrations, settings): the data set on folders of the test's own."""

    def build(demonstrations: list[dict] | None = None, **changes) -> CountdownHub:
        for name in ("problems", "demonstrations"):
            (tmp_path / name).mkdir()
        datasets.Dataset.from_list(PROBLEMS).to_parquet(tmp_path / "problems" / "train.parquet")
        lines = demonstrations or [{"query": query(CLOSED, p), "completion": "<answer>1</answer>"} for p in PROBLEMS]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "demonstrations" / "train.jsonl").write_text(text)
        node = {k: v for k, v in groups.read("data", "countdown_hub").items() if k != "_target_"}
        names = {"prompts_name": str(tmp_path / "problems"), "demonstrations_name": str(tmp_path / "demonstrations")}
        return CountdownHub(**node | names | changes)

    return build


def trained_on(problem: dict) -> bool:
    return not is_held_out(problem["nums"], 0.15)


@pytest.mark.parametrize("view", ["demonstrations", "prompts", "evaluation"])
def test_columns_are_those_of_the_problems_made_here(hub, view):
    node = {k: v for k, v in groups.read("data", "countdown").items() if k != "_target_"}
    made = Countdown(**node | {"problems": 5, "evaluation_problems": 5})
    public, own = getattr(hub(), view)(), getattr(made, view)()
    assert set(public.column_names) == set(own.column_names)
    assert public.features["prompt"] == own.features["prompt"]


def test_prompts_are_worded_as_the_problems_made_here(hub):
    prompt = "Numbers {numbers} target {target}"
    row = hub(prompt=prompt).prompts()[0]
    expected = next(p for p in PROBLEMS if trained_on(p))
    content = prompt.format(numbers=" ".join(map(str, expected["nums"])), target=expected["target"])
    assert row["prompt"] == [{"role": "user", "content": content}]


def test_held_out_rows_are_in_the_evaluation_view_alone(hub):
    data = hub()
    held_out = [p["nums"] for p in PROBLEMS if not trained_on(p)]
    assert 0 < len(held_out) < len(PROBLEMS)
    assert data.evaluation()["nums"][:] == held_out
    assert data.prompts()["nums"][:] == [p["nums"] for p in PROBLEMS if trained_on(p)]
    assert data.demonstrations()["nums"][:] == [p["nums"] for p in PROBLEMS if trained_on(p)]


def test_no_more_rows_than_asked_for(hub):
    data = hub(problems=3, evaluation_problems=2)
    assert (len(data.prompts()), len(data.demonstrations()), len(data.evaluation())) == (3, 3, 2)


def test_a_demonstration_reads_its_problem_from_the_query(hub):
    problem = next(p for p in PROBLEMS if trained_on(p))
    (row,) = hub([{"query": query(OPEN, problem), "completion": "hm</think><answer>1</answer>"}]).demonstrations()
    assert (row["nums"], row["target"]) == (problem["nums"], problem["target"])


@pytest.mark.parametrize(
    ("template", "completion"),
    [(OPEN, "hm</think><answer>1</answer>"), (CLOSED, "<think>hm</think><answer>1</answer>")],
    ids=["opened", "unopened"],
)
def test_thinking_that_the_query_opened_gets_its_tag_back(hub, template, completion):
    problem = next(p for p in PROBLEMS if trained_on(p))
    (row,) = hub([{"query": query(template, problem), "completion": completion}]).demonstrations()
    assert row["completion"] == [{"role": "assistant", "content": "<think>hm</think><answer>1</answer>"}]


def test_thinking_that_query_and_completion_both_open_has_one_tag(hub):
    problem = next(p for p in PROBLEMS if trained_on(p))
    completion = "<think>hm</think><answer>1</answer>"
    (row,) = hub([{"query": query(OPEN, problem), "completion": completion}]).demonstrations()
    assert row["completion"][0]["content"].count("<think>") == 1


def test_queries_without_a_problem_are_left_out_and_counted(hub, capsys):
    problem = next(p for p in PROBLEMS if trained_on(p))
    lines = [{"query": "Tell me a joke", "completion": "no"}, {"query": query(CLOSED, problem), "completion": "yes"}]
    rows = hub(lines).demonstrations()
    assert [row["completion"][0]["content"] for row in rows] == ["yes"]
    assert "1 of 2 demonstrations are used" in capsys.readouterr().out


def test_queries_that_name_no_problem_at_all_are_an_error(hub):
    data = hub([{"query": "Tell me a joke", "completion": "no"}])
    with pytest.raises(ConfigError, match=r"data\.demonstrations_name=.*no query reads like"):
        data.demonstrations()


def test_a_missing_column_names_those_that_are_there(hub, tmp_path):
    data = hub([{"question": "Using the numbers [1, 2], equals 3", "completion": "1 + 2"}])
    with pytest.raises(ConfigError, match="has no column query; it has ") as caught:
        data.demonstrations()
    assert str(caught.value).startswith(f"data.demonstrations_name={tmp_path / 'demonstrations'}: ")
    assert "question" in str(caught.value)


def test_a_missing_set_is_one_clear_line(hub):
    with pytest.raises(ConfigError, match=r"data\.prompts_name=nobody/nothing: .*data=countdown") as caught:
        hub(prompts_name="nobody/nothing").prompts()
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_one_clear_line(hub, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"data\.prompts_name=.*empty: ") as caught:
        hub(prompts_name=str(tmp_path / "empty")).prompts()
    assert "\n" not in str(caught.value)


def test_a_torn_file_is_one_clear_line(hub, tmp_path):
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "train.jsonl").write_text('{"nums": [1, 2')
    with pytest.raises(ConfigError, match=r"data\.prompts_name=.*torn: ") as caught:
        hub(prompts_name=str(tmp_path / "torn")).prompts()
    assert "\n" not in str(caught.value)


def test_verify_judges_a_row(hub):
    row = {"nums": [1, 2, 3], "target": 6}
    assert hub().verify("<answer>1 + 2 + 3</answer>", row) == "correct"
