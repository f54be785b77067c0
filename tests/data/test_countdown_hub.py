"""The public Countdown sets, with small local folders in their place."""

import json
from pathlib import Path

import datasets
import pytest

from qwen_align.config import groups
from qwen_align.data.countdown import Countdown, is_held_out
from qwen_align.data.countdown_hub import CountdownHub
from qwen_align.errors import ConfigError

pytestmark = pytest.mark.slow

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
        node = {k: v for k, v in groups.read("data", "countdown_hub").items() if k not in ("_target_", "verifier")}
        names = {"prompts_name": str(tmp_path / "problems"), "demonstrations_name": str(tmp_path / "demonstrations")}
        return CountdownHub(**node | {"held_out": SHARE} | names | changes)

    return build


SHARE = 0.15


def trained_on(problem: dict) -> bool:
    return not is_held_out(problem["nums"], SHARE)


@pytest.mark.parametrize("view", ["demonstrations", "prompts", "evaluation"])
def test_columns_are_those_of_the_problems_made_here(hub, view):
    node = {k: v for k, v in groups.read("data", "countdown").items() if k not in ("_target_", "verifier")}
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


def test_a_stop_token_that_somebody_left_in_an_answer_comes_off(hub):
    problem = next(p for p in PROBLEMS if trained_on(p))
    (row,) = hub([{"query": query(CLOSED, problem), "completion": "<answer>1</answer><|im_end|>\n"}]).demonstrations()
    assert row["completion"][0]["content"] == "<answer>1</answer>"


def test_rows_that_cannot_be_used_are_left_out_and_counted(hub, capsys):
    problem, held_out = (next(p for p in PROBLEMS if trained_on(p) is yes) for yes in (True, False))
    lines = [
        {"query": "Tell me a joke", "completion": "no"},
        {"query": query(CLOSED, problem), "completion": " "},
        {"query": query(CLOSED, held_out), "completion": "no"},
        {"query": query(CLOSED, problem), "completion": "yes"},
    ]
    rows = hub(lines).demonstrations()
    assert [row["completion"][0]["content"] for row in rows] == ["yes"]
    out = capsys.readouterr().out
    assert "3 of 4 rows are left out" in out
    for reason in ("no 'numbers [1, 2, 3] ... equals 6' is in it", "completion is empty", "evaluation view has these"):
        assert f"1 because {reason}" in out or f"1 because the {reason}" in out


def test_queries_that_name_no_problem_at_all_are_an_error(hub):
    data = hub([{"query": "Tell me a joke", "completion": "no"}])
    with pytest.raises(ConfigError, match=r"data\.demonstrations_name=.*holds no row that can be used; 1 because no 'numb"):
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


def test_a_torn_file_is_one_clear_line(hub, tmp_path):
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "train.jsonl").write_text('{"nums": [1, 2')
    with pytest.raises(ConfigError, match=r"data\.prompts_name=.*torn: ") as caught:
        hub(prompts_name=str(tmp_path / "torn")).prompts()
    assert "\n" not in str(caught.value)


# What follows is shaped like the course's sets: ready-made prompts in ChatML, pairs, and a split to measure on.
SYSTEM = "You are a helpful assistant."
QUESTION = "A talk.\nUser: Using the numbers [{nums}], create an equation that equals {target}. Show {{it}}.\nAssistant:"


def listed(nums: list[int]) -> str:
    width = max(len(str(number)) for number in nums)  # as NumPy prints an array
    return " ".join(f"{number:>{width}}" for number in nums)


def worded(nums: list[int], target: int, question: str = QUESTION) -> list[dict[str, str]]:
    content = question.format(nums=listed(nums), target=target)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def rendered(messages: list[dict[str, str]], asking: str = "<|im_start|>assistant\n") -> str:
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages) + asking


def problem(*nums: int) -> dict:
    return {"nums": list(nums), "target": sum(nums), "prompt": rendered(worded(list(nums), sum(nums)))}


TRAIN = [problem(44, 19, 35), problem(14, 45, 9, 1), problem(7, 8, 9), problem(3, 4, 50)]
TEST = [problem(83, 78, 1, 39), problem(9, 8, 7)]


@pytest.fixture
def course(tmp_path: Path):
    """course(train, test, pairs, settings): the data set on folders shaped like the course's."""

    def build(train=TRAIN, test=TEST, pairs=None, **changes) -> CountdownHub:
        for name in ("course", "pairs", "demonstrations"):
            (tmp_path / name).mkdir()
        for split, rows in (("train", train), ("test", test)):
            datasets.Dataset.from_list(rows).to_parquet(tmp_path / "course" / f"{split}-00000-of-00001.parquet")
        pairs = pairs or [pair_of([3, 4, 5]), pair_of([7, 9, 8])]
        datasets.Dataset.from_list(pairs).to_parquet(tmp_path / "pairs" / "train.parquet")
        demonstrations = [{"query": "numbers [1, 22, 3] ... equals 26", "completion": "<think>a</think><answer>1</answer>"}]
        datasets.Dataset.from_list(demonstrations).to_parquet(tmp_path / "demonstrations" / "train.parquet")
        node = {k: v for k, v in groups.read("data", "countdown_hub").items() if k not in ("_target_", "verifier")}
        names = {f"{k}_name": str(tmp_path / v) for k, v in {"prompts": "course", "preferences": "pairs"}.items()}
        own = {"prompt": None, "held_out": 0.0, "evaluation_split": "test"}
        return CountdownHub(**node | names | {"demonstrations_name": str(tmp_path / "demonstrations")} | own | changes)

    return build


def pair_of(nums: list[int], **changes) -> dict:
    asked = QUESTION.format(nums=", ".join(map(str, nums)), target=sum(nums))
    return {"query": asked, "response_ws": "<answer>1</answer>", "response_ls": "<answer>2</answer>"} | changes


def test_a_ready_made_prompt_becomes_its_messages(course):
    rows = course(train=TRAIN[:2]).prompts()
    assert rows["prompt"][:] == [worded([44, 19, 35], 98), worded([14, 45, 9, 1], 69)]
    assert rendered(rows[1]["prompt"]) == TRAIN[1]["prompt"], "ChatML gives the set's own text back"
    assert "[14 45  9  1]" in rows[1]["prompt"][-1]["content"]


def test_every_view_asks_as_the_ready_made_prompts_do(course):
    data = course()
    assert data.demonstrations()[0]["prompt"] == worded([1, 22, 3], 26)
    assert data.preferences()[0]["prompt"] == worded([3, 4, 5], 12)
    assert data.evaluation()[0]["prompt"] == worded([83, 78, 1, 39], 201)


def test_numbers_with_commas_are_asked_with_commas(course):
    asked = "Using the numbers [{nums}], create an equation that equals {target}."
    rows = []
    for nums in ([44, 19, 3], [5, 6, 70]):
        content = asked.format(nums=", ".join(map(str, nums)), target=sum(nums))
        own = [{"role": "user", "content": content}]
        rows.append({"nums": nums, "target": sum(nums), "prompt": rendered(own)})
    data = course(train=rows[:1], test=rows[1:])
    assert data.demonstrations()[0]["prompt"][0]["content"] == asked.format(nums="1, 22, 3", target=26)


def test_pairs_have_the_columns_that_dpo_reads(course):
    row = course().preferences()[0]
    assert row["chosen"] == [{"role": "assistant", "content": "<answer>1</answer>"}]
    assert row["rejected"] == [{"role": "assistant", "content": "<answer>2</answer>"}]


@pytest.mark.parametrize(
    "asked", [rendered(worded([3, 4, 5], 12)), "Using the numbers [3 4 5], create an equation that equals 12."]
)
def test_a_pairs_query_may_be_chatml_or_plain(course, asked):
    rows = course(pairs=[pair_of([3, 4, 5], query=asked)]).preferences()
    assert rows[0]["prompt"] == worded([3, 4, 5], 12)


def test_thinking_that_the_query_opened_gets_its_tag_back_in_both_answers(course):
    asked = "numbers [3, 4, 5] equals 12. Assistant: <think>"
    answers = {"response_ws": "a</think>1", "response_ls": "b</think>2"}
    row = course(pairs=[pair_of([3, 4, 5], query=asked, **answers)]).preferences()[0]
    assert [row[name][0]["content"] for name in ("chosen", "rejected")] == ["<think>a</think>1", "<think>b</think>2"]


def test_pairs_that_cannot_be_used_are_left_out_and_counted(course, capsys):
    pairs = [
        pair_of([3, 4, 5]),
        pair_of([3, 4, 5], response_ls="<answer>1</answer>"),
        pair_of([3, 4, 5], response_ws=None),
        pair_of([3, 4, 5], query=None),
    ]
    assert len(course(pairs=pairs).preferences()) == 1
    out = capsys.readouterr().out
    assert "3 of 4 rows are left out" in out
    assert "response_ws and response_ls are the same" in out


def test_no_view_trains_on_the_numbers_of_the_split_that_is_measured(course, capsys):
    data = course()
    assert data.prompts()["nums"][:] == [[44, 19, 35], [14, 45, 9, 1], [3, 4, 50]]
    assert "1 of 4 rows are left out: the evaluation view has these numbers" in capsys.readouterr().out
    assert data.preferences()["nums"][:] == [[3, 4, 5]]
    assert "1 of 2 rows are left out: 1 because the evaluation view has these numbers" in capsys.readouterr().out


def test_the_split_that_is_measured_is_read_whole_and_in_order(course):
    assert course().evaluation()["nums"][:] == [[83, 78, 1, 39], [9, 8, 7]]


def test_numbers_are_held_out_however_few_problems_are_measured(course):
    data = course(evaluation_problems=1)
    assert len(data.evaluation()) == 1
    assert [7, 8, 9] not in data.prompts()["nums"][:]


def test_more_demonstrations_may_not_ask_what_is_measured(course, tmp_path):
    row = {"prompt": "7 8 9?", "completion": "<answer>7 + 8 + 9</answer>", "nums": [8, 7, 9], "target": 24}
    (tmp_path / "more.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match=r"data\.extra=.*line 1 asks for numbers that the evaluation view has: \[8, 7, 9\]"):
        course(extra=str(tmp_path / "more.jsonl")).demonstrations()


def test_more_demonstrations_come_last(course, tmp_path):
    row = {"prompt": "1 2 3?", "completion": "<answer>1 + 2 + 3</answer>", "nums": [1, 2, 3], "target": 6}
    (tmp_path / "more.jsonl").write_text(json.dumps(row) + "\n")
    rows = course(extra=str(tmp_path / "more.jsonl")).demonstrations()
    assert rows["nums"][:] == [[1, 22, 3], [1, 2, 3]]
    assert rows[1]["prompt"] == [{"role": "user", "content": "1 2 3?"}]


BROKEN = {
    "text": "Using the numbers [1 2 3], create an equation that equals 6.",
    "answer begun": rendered(worded([1, 2, 3], 6), "<|im_start|>assistant\nLet me"),
    "turn within a turn": "<|im_start|>system\nYou <|im_start|>user\nnumbers [1 2 3] equals 6<|im_end|>\n",
    "text between": rendered(worded([1, 2, 3], 6)).replace("<|im_end|>\n<|im_start|>user", "<|im_end|>so<|im_start|>user"),
    "unknown role": rendered([{"role": "tool", "content": "x"}, *worded([1, 2, 3], 6)]),
    "ends with an answer": rendered([*worded([1, 2, 3], 6), {"role": "assistant", "content": "6"}]),
    "nothing": None,
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_prompt_that_is_no_chatml_question_is_left_out_and_counted(course, capsys, text):
    broken = {"nums": [1, 2, 3], "target": 6, "prompt": text}
    assert course(train=[*TRAIN[:2], broken]).prompts()["nums"][:] == [[44, 19, 35], [14, 45, 9, 1]]
    assert "1 of 3 rows are left out: 1 because its prompt is no ChatML" in capsys.readouterr().out


def test_a_prompt_in_other_words_is_left_out_and_counted(course, capsys):
    other = {"nums": [1, 2, 3], "target": 6, "prompt": rendered(worded([1, 2, 3], 6, QUESTION.replace("Show", "Tell")))}
    assert len(course(train=[*TRAIN[:2], other]).prompts()) == 2
    assert "worded otherwise than the first one" in capsys.readouterr().out


def test_a_prompt_about_other_numbers_than_its_columns_is_left_out(course, capsys):
    assert len(course(train=[TRAIN[0], TRAIN[1] | {"target": 70}]).prompts()) == 1
    assert "worded otherwise than the first one" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["Tell me a joke", rendered([{"role": "user", "content": "Tell me a joke"}])])
def test_a_wording_that_cannot_be_taken_from_the_first_row_is_one_clear_line(course, text):
    with pytest.raises(ConfigError, match=r"data\.prompts_name=.*data\.prompt=null asks as its first row does, but ") as caught:
        course(train=[TRAIN[0] | {"prompt": text}, TRAIN[1]]).demonstrations()
    assert "\n" not in str(caught.value)


def test_pairs_are_a_view_only_where_they_are_named(course):
    assert "preferences" in course().views()
    node = {k: v for k, v in groups.read("data", "countdown_hub").items() if k not in ("_target_", "verifier")}
    assert "preferences" not in CountdownHub(**node).views()


def test_a_view_names_the_splits_that_it_reads(course):
    def read(view: str) -> list[tuple[str, tuple[str, ...]]]:
        return [(source.key, source.splits) for source in data.sources(view)]

    data, problems = course(), ("data.prompts_name", ("train", "test"))
    assert read("preferences") == [("data.preferences_name", ("train",)), problems]
    assert read("demonstrations") == [("data.demonstrations_name", ("train",)), problems]
    assert read("prompts") == read("evaluation") == [problems]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation_split": "test"}, r"data\.held_out=0\.02: the evaluation view is the split test; expected 0"),
        ({"evaluation_split": "train", "held_out": 0.0}, r"data\.evaluation_split=train: is trained on"),
        ({"held_out": 0.0}, r"data\.held_out=0\.0: expected a share between 0 and 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    node = {k: v for k, v in groups.read("data", "countdown_hub").items() if k not in ("_target_", "verifier")}
    with pytest.raises(ConfigError, match=message):
        CountdownHub(**node | changes)


def test_a_split_that_is_not_there_is_one_clear_line(course):
    with pytest.raises(ConfigError, match=r"data\.prompts_name=.*dev") as caught:
        course(evaluation_split="dev").evaluation()
    assert "\n" not in str(caught.value)
