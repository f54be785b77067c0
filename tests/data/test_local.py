"""The user's own files: what is read, what is turned into messages, and how a bad row is named."""

import json
from pathlib import Path

import datasets
import pytest

from qwen_align.config import groups
from qwen_align.data.local import Local
from qwen_align.errors import ConfigError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "gsm8k"


@pytest.fixture
def written(tmp_path):
    """written(name, rows or text): the path of a file of the test's own, in the form that its suffix says."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
        else:
            table = datasets.Dataset.from_list(content)
            (table.to_csv if path.suffix == ".csv" else table.to_parquet)(path)
        return str(path)

    return write


def said(role, text):
    return [{"role": role, "content": text}]


ROWS = [{"prompt": "2 + 2?", "completion": "4"}, {"prompt": "3 + 3?", "completion": "6"}]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "ROWS.JSONL"])
def test_plain_text_becomes_messages(written, name):
    rows = Local(demonstrations_path=written(name, ROWS if name != "ROWS.JSONL" else json.dumps(ROWS[0]) + "\n"))
    first = rows.demonstrations()[0]
    assert first == {"prompt": said("user", "2 + 2?"), "completion": said("assistant", "4")}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_messages_stay(written, suffix):
    prompt = [{"role": "system", "content": "Be brief."}, *said("user", "2 + 2?")]
    row = {"prompt": prompt, "completion": said("assistant", "4")}
    assert Local(demonstrations_path=written(f"rows.{suffix}", [row])).demonstrations()[0] == row


def test_a_conversation_stays_whole(written):
    talk = [*said("user", "2 + 2?"), *said("assistant", "5"), *said("user", "Sure?"), *said("assistant", "4")]
    row = Local(demonstrations_path=written("rows.jsonl", [{"messages": talk}])).demonstrations()[0]
    assert row == {"messages": talk}


def test_columns_are_renamed_and_the_others_handed_on(written):
    path = written("rows.csv", [{"question": "2 + 2?", "answer": "4", "level": 1}])
    data = Local(demonstrations_path=path, columns={"prompt": "question", "completion": "answer"})
    (row,) = data.demonstrations()
    assert row == {"prompt": said("user", "2 + 2?"), "completion": said("assistant", "4"), "level": "1"}


def test_a_map_of_one_view_does_not_take_a_column_from_another(written):
    path = written("rows.jsonl", [{"question": "2 + 2?", "answer": "so #### 4"}])
    columns = {"prompt": "question", "completion": "answer"}
    data = Local(demonstrations_path=path, prompts_path=path, columns=columns, verifier="math")
    assert data.prompts()[0] == {"prompt": said("user", "2 + 2?"), "answer": "so #### 4"}
    assert data.demonstrations()[0]["completion"] == said("assistant", "so #### 4")


def test_demonstrations_serve_as_prompts_too(written):
    row = ROWS[0] | {"answer": 4}
    data = Local(prompts_path=written("rows.jsonl", [row]), verifier="math")
    assert data.prompts()[0] == {"prompt": said("user", "2 + 2?"), "answer": "4"}


def test_preferences_have_both_answers(written):
    path = written("rows.jsonl", [{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}])
    (row,) = Local(preferences_path=path).preferences()
    assert row == {
        "prompt": said("user", "2 + 2?"), "chosen": said("assistant", "4"), "rejected": said("assistant", "5"),
    }  # fmt: skip


BAD = [  # view, row, what is said of it
    ("demonstrations", {"prompt": "?"}, "has no column completion, only prompt"),
    ("demonstrations", {"prompt": None, "completion": "4"}, "prompt is empty"),
    ("demonstrations", {"prompt": "?", "completion": "  "}, "completion is empty"),
    ("demonstrations", {"prompt": 3, "completion": "4"}, "prompt is neither text nor messages"),
    ("demonstrations", {"prompt": ["?"], "completion": "4"}, "prompt holds something that is no message"),
    ("demonstrations", {"prompt": "?", "completion": said("user", "4")}, "completion does not end with the assistant"),
    ("demonstrations", {"messages": said("assistant", "4")}, "messages hold an answer without a prompt"),
    ("preferences", {"prompt": "?", "chosen": "4", "rejected": "4"}, "chosen and rejected are the same"),
    ("preferences", {"prompt": "?", "chosen": said("assistant", ""), "rejected": "4"}, "chosen ends with an empty"),
    ("evaluation", {"prompt": "?", "nums": [1], "target": None}, "target is no whole number"),
    ("evaluation", {"prompt": "?", "nums": [1, "b"], "target": 1}, "nums is no whole number"),
    ("evaluation", {"prompt": "?", "nums": [], "target": 1}, "nums is no list of whole numbers"),
    ("evaluation", {"prompt": "?", "nums": [1]}, "has no column target, only prompt, nums"),
    ("prompts", {"prompt": "?", "nums": [True], "target": 1}, "nums is no whole number"),
]


@pytest.mark.parametrize(("view", "row", "complaint"), BAD, ids=lambda v: v if isinstance(v, str) else "")
def test_a_bad_row_is_named_by_file_and_line(written, view, row, complaint):
    path = written("rows.jsonl", "\n" + json.dumps(row) + "\n")
    data = Local(**{f"{view}_path": path}, verifier="countdown")
    with pytest.raises(ConfigError) as caught:
        getattr(data, view)()
    assert str(caught.value).startswith(f"data.{view}_path={path}: 1 of 1 rows cannot be used: line 2 {complaint}")
    assert "on_bad_row=skip" in str(caught.value)


@pytest.mark.parametrize(("line", "complaint"), [("{", "is not JSON"), ("[1]", "is not an object"), ("7", "is not an")])
def test_a_line_that_is_no_row_is_named(written, line, complaint):
    data = Local(demonstrations_path=written("rows.jsonl", f"{json.dumps(ROWS[0])}\n{line}\n"))
    with pytest.raises(ConfigError, match=f"1 of 2 rows cannot be used: line 2 {complaint}"):
        data.demonstrations()


def test_csv_cells_may_hold_lines_and_a_short_row_is_named(written):
    text = '\ufeffprompt,completion\n"one\ntwo",yes\nalone\n'
    data = Local(demonstrations_path=written("rows.csv", text), on_bad_row="skip")
    assert data.demonstrations()["prompt"][:] == [said("user", "one\ntwo")]
    with pytest.raises(ConfigError, match="line 4 has another number of cells than the header"):
        Local(demonstrations_path=written("rows.csv", text)).demonstrations()


def test_skipping_is_said_aloud(written, capsys):
    path = written("rows.jsonl", [*ROWS, {"prompt": "?"}, {"prompt": ""}])
    assert len(Local(demonstrations_path=path, on_bad_row="skip").demonstrations()) == 2
    out = capsys.readouterr().out
    assert (
        "2 of 4 rows cannot be used: line 3 has no column completion, only prompt; line 4 prompt is empty; left out"
        in out
    )


def test_many_bad_rows_are_counted(written):
    path = written("rows.jsonl", [{"prompt": "?"}] * 50)
    with pytest.raises(ConfigError, match=r"50 of 50 rows cannot be used: .*; and 30 more") as caught:
        Local(demonstrations_path=path).demonstrations()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", '{"prompt": "?"}\n'])
def test_nothing_left_is_an_error_even_when_skipping(written, content):
    with pytest.raises(ConfigError, match="holds no row that can be used"):
        Local(demonstrations_path=written("rows.jsonl", content), on_bad_row="skip").demonstrations()


def test_columns_of_two_types_are_a_users_mistake(written):
    path = written("rows.jsonl", [ROWS[0] | {"level": 1}, ROWS[1] | {"level": "hard"}])
    with pytest.raises(ConfigError, match="the column level holds values of different types"):
        Local(demonstrations_path=path).demonstrations()


def test_a_column_that_only_later_rows_have_is_kept(written):
    rows = Local(demonstrations_path=written("rows.jsonl", [ROWS[0], ROWS[1] | {"level": 1}])).demonstrations()
    assert rows["level"][:] == [None, 1]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_file_that_is_not_utf8_is_one_clear_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"prompt,completion\n\xff\xfe,b\n")
    with pytest.raises(ConfigError, match=r"data\.demonstrations_path=.*cannot be read"):
        Local(demonstrations_path=str(tmp_path / name)).demonstrations()


def test_a_torn_parquet_file_is_one_clear_line(written):
    with pytest.raises(ConfigError, match=r"rows\.parquet: cannot be read"):
        Local(demonstrations_path=written("rows.parquet", "PAR1")).demonstrations()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"demonstrations_path": "nowhere.jsonl"}, r"data\.demonstrations_path=nowhere\.jsonl: no such file"),
        ({"prompts_path": "rows.txt"}, r"data\.prompts_path=rows\.txt: expected a file that ends with \.jsonl, \.csv"),
        ({"on_bad_row": "ignore"}, r"data\.on_bad_row=ignore: expected stop or skip"),
        (
            {"verifier": "maths"},
            r"data\.verifier=maths: expected null, countdown, math, constraints \(did you mean math\?\)",
        ),
        ({"columns": {"promt": "q"}}, r"data\.columns\.promt=q: expected ours=theirs.*did you mean prompt"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        Local(**settings)


def test_a_view_without_a_file_says_what_to_set(written):
    data = Local(demonstrations_path=written("rows.jsonl", ROWS))
    assert data.views() == ("demonstrations",)
    with pytest.raises(ConfigError, match=r"has no preferences view; set data\.preferences_path=FILE .*chosen"):
        data.preferences()


def test_the_countdown_verifier_reads_nums_and_target(written):
    path = written("rows.csv", 'prompt,numbers,target\n?,"[1, 2, 3]",6\n?,1 2 3,7\n')
    data = Local(evaluation_path=path, columns={"nums": "numbers"}, verifier="countdown")
    rows = data.evaluation().to_list()
    assert rows[0]["nums"] == rows[1]["nums"] == [1, 2, 3]
    assert [data.verify("<answer>1+2+3</answer>", row) for row in rows] == ["correct", "wellformed_wrong"]


def test_the_maths_verifier_reads_answer(written):
    data = Local(evaluation_path=written("rows.jsonl", [{"prompt": "?", "answer": 1234}]), verifier="math")
    (row,) = data.evaluation()
    assert data.verify("so #### 1,234", row) == "correct"
    assert data.answer("so 1,234") == data.answer("#### 1234") == "1234"


def test_without_a_verifier_there_is_none():
    assert (Local().verify, Local().answer, Local().timeouts) == (None, None, None)


def test_the_yaml_has_no_view():
    node = groups.read("data", "local")
    assert Local(**{k: v for k, v in node.items() if k != "_target_"}).views() == ()


def test_columns_can_be_set_on_the_command_line(written, stages_of):
    path = written("rows.jsonl", [{"question": "?", "answer": "4"}])
    words = ("method=sft", "data=local", f"data.demonstrations_path={path}")
    (stage,) = stages_of(*words, "data.columns={prompt:question,completion:answer}")
    assert stage.config["data"]["columns"].items() >= {"prompt": "question", "completion": "answer"}.items()


def test_other_rows_in_the_same_file_are_another_run(written, stages_of):
    words = ("method=sft", "data=local", f"data.demonstrations_path={written('rows.jsonl', ROWS)}")
    before = stages_of(*words)[0].fingerprint
    assert stages_of(*words)[0].fingerprint == before
    written("rows.jsonl", ROWS[:1])
    assert stages_of(*words)[0].fingerprint != before


def test_a_view_without_a_file_is_found_before_anything_runs(written, stages_of):
    path = written("rows.jsonl", ROWS)
    with pytest.raises(ConfigError, match="data=local: has no prompts view, which method=rloo needs"):
        stages_of("method=rloo", "init=base", "data=local", "reward=math", f"data.demonstrations_path={path}")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data lies beside a checkout")
def test_real_gsm8k_files_are_read_and_judged():
    columns = {"prompt": "question", "completion": "answer"}
    data = Local(
        demonstrations_path=str(SHARED / "train-2k.jsonl"), prompts_path=str(SHARED / "train-2k.jsonl"),
        evaluation_path=str(SHARED / "test-500.jsonl"), columns=columns, verifier="math",
    )  # fmt: skip
    assert (len(data.demonstrations()), len(data.prompts()), len(data.evaluation())) == (2000, 2000, 500)
    for row in data.evaluation().to_list():
        assert data.verify(row["answer"], row) == "correct"
        assert data.verify("#### -17.25", row) == "wellformed_wrong"
    completions = [row["completion"][0]["content"] for row in data.demonstrations()]
    assert all("\n#### " in text for text in completions)


ASKED = said("user", "2 + 2?")


@pytest.mark.parametrize("prompt", [{"prompt": "2 + 2?"}, {"prompt": ASKED}, {}], ids=["text", "messages", "none"])
def test_a_prompt_inside_chosen_and_rejected_is_taken_out(written, prompt):
    pair = {"chosen": ASKED + said("assistant", "4"), "rejected": ASKED + said("assistant", "5")}
    (row,) = Local(preferences_path=written("rows.jsonl", [prompt | pair])).preferences()
    assert row == {"prompt": ASKED, "chosen": said("assistant", "4"), "rejected": said("assistant", "5")}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"chosen": "4", "rejected": "5"}, "chosen and rejected hold no prompt, and there is no prompt"),
        (
            {"chosen": ASKED + said("assistant", "4"), "rejected": said("user", "?") + said("assistant", "5")},
            "chosen and rejected answer different prompts",
        ),
        ({"prompt": "", "chosen": "4", "rejected": "5"}, "prompt is empty"),
        (
            {"prompt": said("assistant", "4"), "chosen": said("assistant", "4"), "rejected": "5"},
            "chosen or rejected holds",
        ),
    ],
)
def test_a_pair_without_one_prompt_is_named(written, row, complaint):
    with pytest.raises(ConfigError, match=f"line 1 {complaint}"):
        Local(preferences_path=written("rows.jsonl", [row])).preferences()


@pytest.mark.parametrize("view", ["demonstrations", "preferences", "prompts"])
def test_a_prompt_of_the_evaluation_file_is_not_trained_on(written, view, capsys):
    rows = [row | {"chosen": "yes", "rejected": "no"} for row in ROWS]
    paths = {f"{view}_path": written("train.jsonl", rows), "evaluation_path": written("test.jsonl", [ROWS[1]])}
    with pytest.raises(ConfigError) as caught:
        getattr(Local(**paths), view)()
    path = paths[f"{view}_path"]
    said_of = f"data.{view}_path={path}: 1 of 2 rows cannot be used: line 2 asks what data.evaluation_path holds"
    assert str(caught.value).startswith(said_of)
    kept = getattr(Local(**paths, on_bad_row="skip"), view)()
    assert kept["prompt"][:] == [ASKED]
    assert said_of in capsys.readouterr().out
    assert len(Local(**paths).evaluation()) == 1


def test_one_column_can_be_named_on_the_command_line(written, stages_of):
    path = written("rows.jsonl", [{"question": "?", "completion": "4"}])
    (stage,) = stages_of("method=sft", "data=local", f"data.demonstrations_path={path}", "data.columns.prompt=question")
    assert Local(**{k: v for k, v in stage.config["data"].items() if k != "_target_"}).columns == {"prompt": "question"}
    with pytest.raises(ConfigError, match=r"data\.columns\.promt=question: no such key.*data\.columns\.prompt"):
        stages_of("method=sft", "data=local", "data.columns.promt=question")


def test_the_constraints_verifier_judges_too(written):
    wanted = '[{"kind": "starts", "with": "a"}, {"kind": "ends", "with": "b"}]'
    data = Local(
        evaluation_path=written("rows.jsonl", [{"prompt": "?", "constraints": wanted}]), verifier="constraints"
    )
    (row,) = data.evaluation()
    assert (data.judge("a c", row), data.verify("a c", row)) == (0.5, "wellformed_wrong")


@pytest.mark.parametrize("wanted", ["", "starts", '[{"kind": "start"}]', ["starts"], None])
def test_constraints_that_cannot_be_checked_are_a_bad_row(written, wanted):
    data = Local(
        evaluation_path=written("rows.jsonl", [{"prompt": "?", "constraints": wanted}]), verifier="constraints"
    )
    with pytest.raises(ConfigError, match="line 1 constraints is no JSON list of constraints"):
        data.evaluation()
