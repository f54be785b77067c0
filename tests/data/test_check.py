"""The user's files, bad, unusual and good, before any stage: what is said of them, and that a stage reads what was checked."""

import json
import sys
from types import SimpleNamespace

import pytest

from qwen_align import data
from qwen_align.config import groups
from qwen_align.data import files
from qwen_align.data.check import report
from qwen_align.data.local import Local
from qwen_align.errors import ConfigError
from qwen_align.stage import preflight, run

USER, GPT = {"role": "user", "content": "Né où ?"}, {"role": "assistant", "content": "à Köln"}
GOOD = {"prompt": "Né où ?", "completion": "à Köln"}
PAIR = {"prompt": "?", "chosen": "yes", "rejected": "no"}
TEXT = json.dumps(GOOD, ensure_ascii=False) + "\n"
CELLS = "prompt,completion\nNé où ?,à Köln\n"


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def talk(*roles):
    return lines({"messages": [{"role": role, "content": "words"} for role in roles]})


@pytest.fixture
def checked(tmp_path):
    """checked(name, content, ...): the source with this file, and the line that the parent says of it."""

    def check(name, content, view="demonstrations", **settings):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        node = groups.read("data", "local") | {f"{view}_path": str(path)} | settings
        source = data.load(node).source
        (line,) = map(report, source.user_files())
        return source, line

    return check


BAD = [  # file, content, what is said
    ("a.jsonl", "", "is empty"),
    ("a.jsonl", "\n \n", "holds no row that can be used"),
    ("a.csv", "prompt,completion\n", "holds no row that can be used"),
    ("a.json", "[]", "holds no row that can be used"),
    ("a.jsonl", TEXT + '{"prompt": "a", "compl', "1 of 2 rows cannot be used: line 2 is not JSON: "),
    (
        "a.jsonl",
        TEXT + "{'prompt': 'a', 'completion': 'b'}",
        "line 2 is not JSON: \"{'prompt': 'a', 'completion': 'b'} (Expect",
    ),
    ("a.jsonl", TEXT + "{}{}", "line 2 is not JSON: '{}{} (Extra data)'"),
    ("a.json", "[" + TEXT, "is no JSON list"),
    ("a.json", json.dumps(GOOD, indent=1), "holds one object over several lines"),
    ("a.jsonl", TEXT + '"text"', "line 2 is not an object: 'text'"),
    ("a.json", '[1, {"a": 2}]', "row 1 is not an object: 1"),
    ("a.jsonl", '{"prompt": "a", "completion": "\\ud83d"}', "line 1 holds half a character"),
    ("a.jsonl", lines({"prompt": "a"}), "line 1 has no column completion, only prompt"),
    ("a.jsonl", lines({"question": "a", "reponse": "b"}), "add data.columns.prompt=question data.columns.completion=reponse"),
    ("a.jsonl", lines({"Question": "a", "réponse": "b"}), "=Question 'data.columns.completion=\"réponse\"'"),
    ("a.jsonl", lines({"frage": "a", "antwort": "b"}), "add data.columns.prompt=frage data.columns.completion=antwort"),
    ("a.jsonl", lines({"instruction": "a", "input": "", "output": "b"}), "prompt=instruction data.columns.completion=output"),
    ("a.jsonl", lines({"user_input": "a", "model_response": "b"}), "prompt=user_input data.columns.completion=model_response"),
    ("a.jsonl", lines({"Prompt": "a", "Completion": "b"}), "data.columns.prompt=Prompt data.columns.completion=Completion"),
    ("a.jsonl", lines({"conversations": [USER, GPT]}), "add data.columns.messages=conversations"),
    ("a.csv", "Frage;Antwort\na;b\n", "add data.columns.prompt=Frage data.columns.completion=Antwort"),
    ("a.csv", "prompt,prompt,completion\na,b,c\n", "names the column 'prompt' twice"),
    ("a.csv", CELLS + "alone\n", "line 3 has another number of cells than the header: ['alone', None]"),
    ("a.csv", 'prompt,completion\na,"b" c\n', "is not CSV"),
    ("a.jsonl", lines(GOOD, GOOD | {"prompt": None}), "line 2 prompt is empty"),
    ("a.jsonl", lines(GOOD | {"completion": " "}), "line 1 completion is empty"),
    ("a.jsonl", lines(GOOD | {"prompt": 12}), "prompt is neither text nor messages: 12"),
    ("a.jsonl", talk("human", "gpt"), "messages has the role human; expected user (not human), assistant (not gpt)"),
    ("a.jsonl", talk("user", "Assistant"), "messages has the role Assistant; expected user"),
    (
        "a.jsonl",
        lines({"messages": [{"from": "human", "value": "a"}]}),
        "is no message with role and content: {'from': 'human'",
    ),
    ("a.jsonl", talk("user", "user", "assistant"), "messages has roles in a wrong order; expected"),
    ("a.jsonl", talk("user", "assistant", "system", "user", "assistant"), "roles in a wrong order"),
    ("a.jsonl", talk("assistant", "user", "assistant"), "messages hold an answer without a prompt"),
    ("a.jsonl", talk("user"), "messages does not end with the assistant's message"),
    ("a.jsonl", talk("system", "assistant"), "messages holds no message of the user"),
    ("a.jsonl", lines({"messages": [{"role": "user", "content": " "}, GPT]}), "holds an empty message of the user"),
    ("a.jsonl", lines({"prompt": str([USER]), "completion": "b"}), "prompt holds messages written as text"),
    (
        "a.jsonl",
        lines(GOOD | {"level": 1}, GOOD | {"level": "one"}),
        "column level holds values of different types (a number in l",
    ),
    ("a.jsonl", lines(GOOD | {"n": [1, "x"]}), "column n[] holds values of different types (a number in line 1: 1, text in"),
    (
        "a.csv",
        CELLS.encode("cp1252"),
        "line 2 is not UTF-8: in cp1252 it says 'Né où ?,à Köln'); save it as UTF-8, or add data.enc",
    ),
    ("a.jsonl", TEXT.encode("latin-1"), "or add data.encoding=cp1252"),
    ("a.csv", CELLS.encode("utf-16-le"), "UTF-16 without its mark); save it as UTF-8, or add data.encoding=utf-16-le"),
    ("a.parquet", "PAR1 torn", "cannot be read ("),
]


@pytest.mark.parametrize(("name", "content", "said"), BAD, ids=range(len(BAD)))
def test_what_is_wrong_with_a_file_is_said_in_one_line(checked, name, content, said):
    with pytest.raises(ConfigError) as caught:
        checked(name, content)
    assert str(caught.value).startswith("data.demonstrations_path=")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


PAIRS = [
    ({"chosen": "no"}, "line 1 chosen and rejected are the same: 'no'"),
    ({"rejected": None}, "line 1 rejected is empty"),
    ({"chosen": [GPT], "rejected": [USER]}, "rejected does not end with the assistant's message"),
]


@pytest.mark.parametrize(("change", "said"), PAIRS)
def test_what_is_wrong_with_a_pair_is_said(checked, change, said):
    with pytest.raises(ConfigError, match=said):
        checked("a.jsonl", lines(PAIR | change), "preferences")


@pytest.mark.parametrize(
    "names", [("question", "choisi", "rejeté"), ("frage", "gewählt", "abgelehnt"), ("input", "winner", "loser")]
)
def test_pairs_under_other_names_are_told_what_to_add(checked, names):
    with pytest.raises(ConfigError) as caught:
        checked("a.jsonl", lines(*[dict(zip(names, PAIR.values(), strict=True))] * 50), "preferences")
    message = str(caught.value).replace("'", "").replace('"', "")
    assert message.count("add ") == message.count(f"data.columns.chosen={names[1]} data.columns.rejected={names[2]}") == 1
    assert "50 of 50 rows" in message


def test_a_column_of_the_verifier_under_another_name_is_told(checked):
    verifier = {"_target_": "label", "labels": ["a", "b"]}
    with pytest.raises(ConfigError, match=r"has no column label, only prompt, classe; add data\.columns\.label=classe$"):
        checked("a.jsonl", lines({"prompt": "?", "classe": "a"}), "evaluation", verifier=verifier)


@pytest.mark.parametrize(
    ("name", "said"),
    [("no.jsonl", "no such file"), ("a.docx", "ends with .jsonl"), ("", "ends with"), ("d.csv", "is a folder")],
)
def test_a_path_that_is_no_file_is_said(tmp_path, name, said):
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(ConfigError, match=said):
        Local(demonstrations_path=str(tmp_path / name))


@pytest.mark.parametrize(("settings", "said"), [({"encoding": "klingon"}, "cp1252"), ({"separator": "ab"}, "tab, or null")])
def test_a_setting_that_cannot_be_is_said(settings, said):
    with pytest.raises(ConfigError, match=said):
        Local(**settings)


VALID = [  # file, content, settings
    ("a.jsonl", TEXT, {}),
    ("a.jsonl", b"\xef\xbb\xbf" + TEXT.encode(), {}),
    ("a.jsonl", TEXT.encode("utf-16"), {}),
    ("a.jsonl", TEXT.encode("cp1252"), {"encoding": "cp1252"}),
    ("a.jsonl", TEXT.replace("\n", "\r\n\r\n"), {}),
    ("a.jsonl", json.dumps([GOOD], indent=1), {}),
    ("a.json", TEXT, {}),
    ("a.json", json.dumps([GOOD]), {}),
    ("a.json", json.dumps([GOOD], indent=2), {}),
    ("é à.JSON", json.dumps([GOOD], ensure_ascii=False), {}),
    ("a.csv", CELLS, {}),
    ("a.csv", CELLS.replace(",", ";"), {}),
    ("a.csv", "sep=;\r\n" + CELLS.replace(",", ";"), {}),
    ("a.csv", CELLS.replace(",", ";").encode("cp1252"), {"encoding": "cp1252"}),
    ("a.csv", CELLS.replace(",", "\t").encode("utf-16"), {}),
    ("a.csv", CELLS.replace(",", "\t"), {}),
    ("a.csv", CELLS.replace(",", "|"), {}),
    ("a.csv", CELLS.replace(",", "#"), {"separator": "#"}),
    ("a.csv", '"prompt";"completion"\r\n"Né où ?";"à Köln"\r\n', {}),
    ("a.tsv", CELLS.replace(",", "\t"), {}),
    ("a.csv", b"\xef\xbb\xbf" + CELLS.encode(), {"separator": ","}),
    ("a.csv", CELLS.replace("prompt", '"ma question"'), {"columns": {"prompt": "ma question"}}),
]


@pytest.mark.parametrize(("name", "content", "settings"), VALID, ids=range(len(VALID)))
def test_a_stage_reads_the_rows_that_were_checked(checked, name, content, settings):
    source, line = checked(name, content, **settings)
    assert source.demonstrations().to_list() == [{"prompt": [USER], "completion": [GPT]}]
    assert ": 1 rows with " in line


@pytest.mark.parametrize(
    "roles", ["user assistant", "system user assistant user assistant", "user assistant tool tool assistant"]
)
def test_conversations_with_turns_in_order_pass(checked, roles):
    assert "1 rows with messages" in checked("a.jsonl", talk(*roles.split()))[1]


def test_a_spreadsheet_is_read_where_openpyxl_is_and_else_named(checked, monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "openpyxl", raising=False)
    with pytest.raises(ConfigError, match="needs `pip install openpyxl`; or save it as CSV"):
        checked("a.xlsx", "PK")
    sheet = SimpleNamespace(iter_rows=lambda values_only: iter([("prompt", "completion"), ("Né où ?", "à Köln"), (None, None)]))
    book = SimpleNamespace(load_workbook=lambda path, **options: SimpleNamespace(worksheets=[sheet]))
    monkeypatch.setitem(sys.modules, "openpyxl", book)
    assert checked("a.xlsx", "PK")[0].demonstrations().to_list() == [{"prompt": [USER], "completion": [GPT]}]


def test_what_is_odd_is_counted_in_the_files_line(checked):
    _, line = checked("a.jsonl", lines(PAIR, PAIR, PAIR | {"chosen": "no"}), "preferences", on_bad_row="skip")
    assert "2 rows with prompt, chosen, rejected; 1 rows repeat an earlier one; 1 of 3 rows cannot be used: line 3" in line


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """RLOO after SFT on files of which only RLOO reads the prompts; nothing may start."""
    monkeypatch.setattr(run, "Child", lambda *args, **kwargs: pytest.fail("a stage started"))
    (tmp_path / "sft.jsonl").write_text(TEXT, encoding="utf-8")
    (tmp_path / "ask.jsonl").write_text(lines({"frage": "a", "answer": "1"}))
    paths = [f"data.{view}_path={tmp_path / name}.jsonl" for view, name in (("demonstrations", "sft"), ("prompts", "ask"))]
    return ["method=rloo", "reward=math", "data=local", "data.verifier=math", "model=countdown_tiny", *paths]


@pytest.mark.parametrize("words", [[], ["plan=true"]])
def test_the_file_of_a_later_stage_is_checked_before_the_first(chain, run_main, words):
    code, _, errors = run_main(*chain, *words)
    assert code == 2
    assert "ask.jsonl: 1 of 1 rows cannot be used: line 1 has no column prompt" in errors
    assert errors.endswith("; add data.columns.prompt=frage\n")


def test_a_plan_says_what_each_file_holds(chain, run_main):
    code, out, errors = run_main(*chain[:-1], chain[-1].replace("ask", "sft"), "plan=true", "data.columns.answer=completion")
    assert (code, errors) == (0, "")
    assert out.count("sft.jsonl: 1 rows with prompt, completion") == 2


def test_a_file_of_more_demonstrations_is_checked_and_one_that_a_stage_will_write_is_not(stages_of, tmp_path):
    tiny = ("data=countdown", "model=countdown_tiny", f"runs_dir={tmp_path}")
    named = 'method.named={teacher: ["method=synthesize", "generator=solver"]}'
    rows = 'method.rows={a: {seeds: [1, 2], overrides: ["method=sft", "data.extra={teacher}/demonstrations.jsonl"]}}'
    stages = stages_of("method=compare", "method.metrics=[pass@1]", named, rows, *tiny)
    assert preflight.local_files(stages) == []
    (tmp_path / "extra.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(ConfigError, match=r"data\.extra=.*line 1 has no column completion"):
        preflight.local_files(stages_of("method=sft", f"data.extra={tmp_path / 'extra.jsonl'}", *tiny))
