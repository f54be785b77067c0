"""The user's own files: what is turned into messages, what is handed on, and what their verifier gets."""

import json
from pathlib import Path

import pytest

from qwen_align import data
from qwen_align.config import groups
from qwen_align.data.local import Local
from qwen_align.errors import ConfigError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "gsm8k"
NODE = groups.read("data", "local")


@pytest.fixture
def written(tmp_path):
    """written(name, rows or text): the path of a file of the test's own."""

    def write(name, content):
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def one(role, text):
    return [{"role": role, "content": text}]


ROWS = [{"prompt": "2 + 2?", "completion": "4"}, {"prompt": "3 + 3?", "completion": "6"}]
ASKED = one("user", "2 + 2?")
FOUR, FIVE = one("assistant", "4"), one("assistant", "5")


def test_plain_text_becomes_messages(written):
    rows = Local(demonstrations_path=written("rows.jsonl", ROWS)).demonstrations()
    assert rows[0] == {"prompt": ASKED, "completion": FOUR}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": one("system", "Be brief.") + ASKED, "completion": FOUR},
        {"messages": ASKED + FIVE + one("user", "Sure?") + FOUR},
    ],
    ids=["prompt and completion", "a whole conversation"],
)
def test_messages_stay(written, row):
    assert Local(demonstrations_path=written("rows.jsonl", [row])).demonstrations()[0] == row


def test_columns_are_renamed_and_the_others_handed_on(written):
    path = written("rows.jsonl", [{"question": "2 + 2?", "answer": "4", "level": 1, "class": "sum"}])
    columns = {"prompt": "question", "completion": "answer", "kind": "class"}
    (row,) = Local(demonstrations_path=path, columns=columns).demonstrations()
    assert row == {"prompt": ASKED, "completion": FOUR, "kind": "sum", "level": 1}


def test_a_map_of_one_view_does_not_take_a_column_from_another(written):
    path = written("rows.jsonl", [{"question": "2 + 2?", "answer": "so #### 4"}])
    columns = {"prompt": "question", "completion": "answer"}
    node = NODE | {"demonstrations_path": path, "prompts_path": path, "columns": columns, "verifier": "math"}
    found = data.load(node)
    assert found.rows("prompts")[0] == {"prompt": ASKED, "answer": "so #### 4"}
    assert found.rows("demonstrations")[0]["completion"] == one("assistant", "so #### 4")


@pytest.mark.parametrize("prompt", [{"prompt": "2 + 2?"}, {"prompt": ASKED}, {}], ids=["text", "messages", "none"])
def test_a_prompt_inside_chosen_and_rejected_is_taken_out(written, prompt):
    pair = {"chosen": ASKED + FOUR, "rejected": ASKED + FIVE}
    (row,) = Local(preferences_path=written("rows.jsonl", [prompt | pair])).preferences()
    assert row == {"prompt": ASKED, "chosen": FOUR, "rejected": FIVE}


BAD = [  # view, row, what is said of it
    ("demonstrations", {"prompt": "?"}, "has no column completion, only prompt"),
    ("demonstrations", {"prompt": None, "completion": "4"}, "prompt is empty"),
    ("demonstrations", {"prompt": "?", "completion": "  "}, "completion is empty"),
    ("demonstrations", {"prompt": 3, "completion": "4"}, "prompt is neither text nor messages"),
    ("demonstrations", {"prompt": ["?"], "completion": "4"}, "prompt holds something that is no message"),
    ("demonstrations", {"prompt": "?", "completion": ASKED}, "completion does not end with the assistant"),
    ("demonstrations", {"messages": FOUR}, "messages hold an answer without a prompt"),
    ("preferences", {"prompt": "?", "chosen": "4", "rejected": "4"}, "chosen and rejected are the same"),
    ("preferences", {"prompt": "?", "chosen": one("assistant", ""), "rejected": "4"}, "chosen ends with an empty"),
    ("preferences", {"chosen": "4", "rejected": "5"}, "chosen and rejected hold no prompt, and there is no prompt"),
    ("preferences", {"chosen": ASKED + FOUR, "rejected": one("user", "?") + FIVE}, "chosen and rejected answer diff"),
    ("preferences", {"prompt": "", "chosen": "4", "rejected": "5"}, "prompt is empty"),
    ("preferences", {"prompt": FOUR, "chosen": FOUR, "rejected": "5"}, "chosen or rejected holds the prompt"),
    ("evaluation", {"prompt": "?", "nums": [1], "target": None}, "target is no whole number"),
    ("evaluation", {"prompt": "?", "nums": [], "target": 1}, "nums is no list of whole numbers"),
    ("evaluation", {"prompt": "?", "nums": [1]}, "has no column target, only prompt, nums"),
    ("prompts", {"prompt": "?", "nums": [True], "target": 1}, "nums is no whole number"),
]


@pytest.mark.parametrize(("view", "row", "reason"), BAD, ids=lambda v: v if isinstance(v, str) else "")
def test_a_bad_row_is_named_by_file_and_line(written, view, row, reason):
    path = written("rows.jsonl", [row])
    found = data.load(NODE | {f"{view}_path": path, "verifier": "countdown"})
    with pytest.raises(ConfigError) as caught:
        found.rows(view)
    assert str(caught.value).startswith(f"data.{view}_path={path}: 1 of 1 rows cannot be used: line 1 {reason}")
    assert str(caught.value).endswith("; data.on_bad_row=skip leaves them out")


@pytest.mark.parametrize("view", ["demonstrations", "preferences", "prompts"])
def test_a_prompt_of_the_evaluation_file_is_not_trained_on(written, view, capsys):
    rows = [row | {"chosen": "yes", "rejected": "no"} for row in ROWS]
    paths = {f"{view}_path": written("train.jsonl", rows), "evaluation_path": written("test.jsonl", [ROWS[1]])}
    with pytest.raises(ConfigError, match=r"1 of 2 rows cannot be used: line 2 asks what data.evaluation_path holds"):
        getattr(Local(**paths), view)()
    kept = getattr(Local(**paths, on_bad_row="skip"), view)()
    assert kept["prompt"][:] == [ASKED]
    assert "line 2 asks what data.evaluation_path holds: '3 + 3?'; left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"demonstrations_path": "nowhere.jsonl"}, r"data\.demonstrations_path=nowhere\.jsonl: no such file"),
        ({"on_bad_row": "ignore"}, r"data\.on_bad_row=ignore: expected stop or skip"),
        ({"columns": {"promt": "q"}}, r"data\.columns\.promt=q: expected ours=theirs; did you mean prompt\?"),
        ({"columns": {"targets": "t"}, "verifier": "countdown"}, r"data\.columns\.targets=t: .*did you mean target\?"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        data.load(NODE | settings)


def test_a_view_without_a_file_says_what_to_set(written):
    found = Local(demonstrations_path=written("rows.jsonl", ROWS))
    assert found.views() == ("demonstrations",)
    with pytest.raises(ConfigError, match=r"has no preferences view; set data\.preferences_path=FILE .*chosen"):
        found.preferences()
    assert data.load(NODE).views == ()


def judged(node, *completions):
    """The verdicts and scores of completions for the first problem of an evaluation file."""
    found = data.load(NODE | node)
    row = found.rows("evaluation")[0]
    return [found.judged("method=evaluate").judge(text, row) for text in completions]


def test_a_verifier_reads_its_columns_in_its_types(written):
    path = written("rows.csv", 'prompt,numbers,target\n?,"[1, 2, 3]",6\n')
    node = {"evaluation_path": path, "columns": {"nums": "numbers"}, "verifier": "countdown"}
    assert data.load(NODE | node).rows("evaluation")[0] == {"prompt": one("user", "?"), "nums": [1, 2, 3], "target": 6}
    assert judged(node, "<answer>1+2+3</answer>", "<answer>1</answer>") == [("correct", None), ("wellformed_wrong", None)]


def test_the_constraints_verifier_gives_a_score(written):
    wanted = '[{"kind": "starts", "with": "a"}, {"kind": "ends", "with": "b"}]'
    path = written("rows.jsonl", [{"prompt": "?", "constraints": wanted}])
    assert judged({"evaluation_path": path, "verifier": "constraints"}, "a c") == [("wellformed_wrong", 0.5)]


def test_labels_are_judged(written):
    path = written("rows.jsonl", [{"prompt": "You won!", "label": "Spam"}])
    node = {"evaluation_path": path, "verifier": {"_target_": "label", "labels": ["spam", "ham"]}}
    verdicts = [verdict for verdict, _ in judged(node, "It is SPAM.", "spam? no, ham", "?")]
    assert verdicts == ["correct", "wellformed_wrong", "malformed"]
    node["verifier"]["labels"] = ["ham", "other"]
    with pytest.raises(ConfigError, match="line 1 label is 'Spam', none of ham, other"):
        judged(node, "ham")


def test_a_users_own_verifier_judges_their_file(written):
    verifier = written("mine.py", "def verify(completion, **row):\n    return row['capital'] in completion\n")
    path = written("rows.jsonl", [{"prompt": "The capital of France?", "capital": "Paris"}])
    node = {"evaluation_path": path, "verifier": f"{verifier}:verify"}
    assert judged(node, "Paris, of course", "Rome") == [("correct", None), ("wellformed_wrong", None)]


def test_a_users_verifier_may_read_the_prompt_and_a_mapped_column(written):
    verifier = written("mine.py", "def verify(text, prompt, kind):\n    return prompt[0]['content'] + kind == text\n")
    path = written("rows.jsonl", [{"prompt": "a", "class": "b"}])
    node = {"evaluation_path": path, "columns": {"kind": "class"}, "verifier": f"{verifier}:verify"}
    assert judged(node, "ab", "a") == [("correct", None), ("wellformed_wrong", None)]


def test_columns_can_be_set_on_the_command_line(written, stages_of):
    path = written("rows.jsonl", [{"question": "?", "answer": "4"}])
    overrides = ("method=sft", "data=local", f"data.demonstrations_path={path}", "data.columns.prompt=question")
    (stage,) = stages_of(*overrides, "data.columns.completion=answer")
    assert stage.config["data"]["columns"] == {"prompt": "question", "completion": "answer"}
    with pytest.raises(ConfigError, match=r"data\.columns\.promt=question: .*did you mean prompt"):
        stages_of(*overrides, "data.columns.promt=question")


def test_other_rows_in_the_same_file_are_another_run(written, stages_of):
    overrides = ("method=sft", "data=local", f"data.demonstrations_path={written('rows.jsonl', ROWS)}")
    before = stages_of(*overrides)[0].fingerprint
    assert stages_of(*overrides)[0].fingerprint == before
    written("rows.jsonl", ROWS[:1])
    assert stages_of(*overrides)[0].fingerprint != before


def test_a_view_without_a_file_is_found_before_anything_runs(written, stages_of):
    path = written("rows.jsonl", ROWS)
    with pytest.raises(ConfigError, match="data=local: has no prompts view, which method=rloo needs"):
        stages_of("method=rloo", "init=base", "data=local", "reward=math", f"data.demonstrations_path={path}")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data lies beside a checkout")
def test_real_gsm8k_files_are_read_and_judged():
    paths = {"demonstrations_path": str(SHARED / "train-2k.jsonl"), "prompts_path": str(SHARED / "train-2k.jsonl")}
    columns = {"prompt": "question", "completion": "answer"}
    node = NODE | paths | {"evaluation_path": str(SHARED / "test-500.jsonl"), "columns": columns, "verifier": "math"}
    found = data.load(node)
    rows = {view: found.rows(view) for view in found.views}
    assert {view: len(view_rows) for view, view_rows in rows.items()} == {
        "demonstrations": 2000,
        "prompts": 2000,
        "evaluation": 500,
    }
    for row in rows["evaluation"].to_list():
        assert found.verifier.verify(row["answer"], row) == "correct"
        assert found.verifier.verify("#### -17.25", row) == "wellformed_wrong"
    assert all("\n#### " in row["completion"][0]["content"] for row in rows["demonstrations"])
