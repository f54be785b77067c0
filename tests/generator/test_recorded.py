"""Completions from a file: measured as our own are, compared with the file's scores, and every bad line named."""

import json

import pytest
from tiny import TINY

from qwen_align import model, run_folder
from qwen_align.config import component
from qwen_align.errors import ConfigError
from qwen_align.generator import Completion
from qwen_align.generator.recorded import Recorded, name_of, write
from qwen_align.method import policy
from qwen_align.stage import run, worker

RIGHT, WRONG, NONE = "<answer>44 + 35 + 19</answer>", "<answer>44 - 19 + 35</answer>", "I can't."
LINE = {
    "prompt": "numbers [44, 19, 35] target 98",
    "nums": [44, 19, 35],
    "target": 98,
    "ground_truth": {"numbers": [44, 19, 35], "target": 98},
    "response": [RIGHT, WRONG],
    "scores": [1, 0.1],
}


def recorded(tmp_path, *lines):
    path = tmp_path / "eval.json"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return Recorded(str(path))


def problems(tmp_path, *lines, verifier="countdown"):
    return recorded(tmp_path, *lines).problems(component.verifier(verifier))


def without(*keys):
    return {key: value for key, value in LINE.items() if key not in keys}


def test_a_line_is_a_problem_with_its_completions_and_scores(tmp_path):
    (problem,) = problems(tmp_path, LINE)
    assert problem.row == {"prompt": LINE["prompt"], "nums": [44, 19, 35], "target": 98}
    assert [completion.text for completion in problem.pool] == [RIGHT, WRONG]
    assert problem.scores == [1.0, 0.1]


def test_a_json_list_is_read_like_lines(tmp_path):
    first, second = problems(tmp_path, json.dumps([LINE, LINE], indent=1))
    assert first.row == second.row == problems(tmp_path, LINE)[0].row


@pytest.mark.parametrize("top", [{}, {"nums": None, "target": None}], ids=["absent", "null"])
def test_what_only_the_ground_truth_says_is_taken_from_there(tmp_path, top):
    (problem,) = problems(tmp_path, without("nums", "target") | top)
    assert (problem.row["nums"], problem.row["target"]) == ([44, 19, 35], 98)


@pytest.mark.parametrize("truth", ["72", {"answer": "72"}])
def test_a_maths_answer_may_be_the_ground_truth(tmp_path, truth):
    (problem,) = problems(tmp_path, {"ground_truth": truth, "response": ["#### 72"]}, verifier="math")
    assert problem.row["answer"] == "72"


def test_numbers_written_as_text_become_numbers(tmp_path):
    (problem,) = problems(tmp_path, LINE | {"target": "98"})
    assert problem.row["target"] == 98


def test_without_a_verifier_columns_are_read_as_they_are(tmp_path):
    (problem,) = problems(tmp_path, LINE | {"target": "many"}, verifier=None)
    assert problem.row["target"] == "many"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([LINE, "{"], "line 2 is not JSON"),
        ([LINE, "", "[1]"], "line 3 is no object"),
        (["[", "{,"], "line 2 is not JSON"),
        ([json.dumps([LINE, 1])], "entry 2 is no object"),
        ([without("response")], "line 1 has no response, only prompt, nums"),
        ([LINE | {"response": []}], "line 1 response is no list of texts, or an empty one"),
        ([LINE | {"response": RIGHT}], "line 1 response is no list of texts"),
        ([LINE | {"response": [RIGHT, None]}], "line 1 response: number 2 is null; expected a list of texts"),
        ([LINE, LINE | {"response": [RIGHT], "scores": [1]}], "line 2 has 1 responses, line 1 has 2; expected as many"),
        ([LINE | {"scores": [1]}], "line 1 has 2 responses, but 1 scores"),
        ([LINE | {"scores": [1, None]}], "line 1 scores: number 2 is null; expected a list of numbers"),
        ([LINE | {"scores": [1, "0"]}], 'line 1 scores: number 2 is "0"'),
        ([json.dumps(LINE).replace("0.1]", "NaN]")], "line 1 scores: number 2 is NaN"),
        ([LINE, without("scores")], "line 2 has no scores, unlike line 1"),
        ([LINE | {"target": 97}], "line 1 says target twice: 97, but 98 in ground_truth"),
        ([LINE | {"greedy": RIGHT}, LINE], "line 2 has no greedy, unlike line 1"),
        ([LINE, without("nums", "ground_truth")], "line 2 has no column nums, only prompt, target"),
        ([without("ground_truth") | {"target": None}], "line 1 target is no whole number"),
        ([], "holds no problem"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_first_bad_line_is_named(tmp_path, lines, message):
    with pytest.raises(ConfigError) as caught:
        problems(tmp_path, *lines)
    assert str(caught.value).startswith(f"generator.path={tmp_path / 'eval.json'}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_one_line(tmp_path):
    (tmp_path / "eval.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"generator\.path=.*: cannot be read"):
        Recorded(str(tmp_path / "eval.json")).problems(None)


@pytest.mark.parametrize(("path", "message"), [(None, "null: expected the file"), ("nowhere.json", "nowhere.json: no such")])
def test_a_file_is_needed(path, message):
    with pytest.raises(ConfigError, match=rf"^generator\.path={message}"):
        Recorded(path)


def test_what_is_written_is_read_again(tmp_path):
    row = {"prompt": [{"role": "user", "content": "?"}], "nums": [1, 2], "target": 3, "id": "a"}
    pool = [Completion(RIGHT, 7, True), Completion(NONE, 9, False)]
    write(tmp_path / "eval.json", [row], [[Completion(WRONG, 5, True)]], [pool], [["correct", "malformed"]])
    (problem,) = Recorded(str(tmp_path / "eval.json")).problems(component.verifier("countdown"))
    assert (problem.row, problem.pool, problem.scores) == (row, pool, [1.0, 0.0])
    assert problem.greedy[0].text == WRONG
    assert json.loads((tmp_path / "eval.json").read_text())["ground_truth"] == {"numbers": [1, 2], "target": 3}


@pytest.mark.parametrize(("label", "name"), [("sft_2", "eval-sft_2.json"), ("rloo (a/b) ../c", "eval-rloo_a_b_.._c.json")])
def test_a_policys_file_carries_its_name_and_stays_in_the_folder(label, name):
    assert name_of(label) == name


EVALUATE = ("method=evaluate", "data=countdown", "generator=recorded")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=sft"], "expected method=evaluate with init=base, not method=sft"),
        (["method=rloo"], "not method=sft"),
        (["method=best_of_n"], "not method=sft"),
        (["method=synthesize"], "not method=synthesize"),
        (["method=evaluate", "init=org/model"], "not method=evaluate with init=org/model"),
    ],
)
def test_only_an_evaluation_that_loads_nothing_takes_a_file(stages_of, tmp_path, overrides, message):
    path = recorded(tmp_path, LINE).path
    with pytest.raises(ConfigError, match=r"^generator=recorded: only what is in the file is measured") as caught:
        stages_of(*EVALUATE[1:], f"generator.path={path}", *overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize("method", ["sft", "rloo", "evaluate", "best_of_n"])
def test_a_stage_that_measures_a_policy_refuses_a_source_without_one_first(stages_of, method):
    with pytest.raises(ConfigError, match=r"^generator=solver: method=\w+ measures a policy"):
        stages_of("data=countdown", "generator=solver", f"method={method}")


def test_a_bad_line_is_found_before_a_stage_starts(stages_of, tmp_path):
    path = recorded(tmp_path, LINE, "{").path
    with pytest.raises(ConfigError, match="line 2 is not JSON"):
        stages_of(*EVALUATE, f"generator.path={path}")


def test_another_content_is_another_run(stages_of, tmp_path):
    found = []
    for lines in ([LINE], [LINE, LINE], [LINE]):
        path = recorded(tmp_path, *lines).path
        found.append(stages_of(*EVALUATE, f"generator.path={path}")[-1].fingerprint)
    assert found[0] == found[2] != found[1]


def test_where_the_file_lies_does_not_count(stages_of, tmp_path):
    path = recorded(tmp_path, LINE).path
    other = path.rename(tmp_path / "other.json")
    moved = stages_of(*EVALUATE, f"generator.path={other}")[-1].fingerprint
    assert stages_of(*EVALUATE, f"generator.path={recorded(tmp_path, LINE).path}")[-1].fingerprint == moved


def test_your_own_data_needs_no_evaluation_file_to_judge_a_recorded_one(stages_of, tmp_path):
    path = recorded(tmp_path, {"answer": "72", "response": ["#### 72"]}).path
    overrides = ["method=evaluate", "data=local", "data.verifier=math", "generator=recorded", f"generator.path={path}"]
    assert len(stages_of(*overrides)) == 1


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("no policy is needed")

    monkeypatch.setattr(policy, "load", refuse)
    for name in ("from_pretrained", "from_scratch", "from_run"):
        monkeypatch.setattr(model, name, refuse)


def measured(stages_of, path, *overrides):
    data = overrides or ("data=countdown",)
    (stage,) = stages_of("method=evaluate", "generator=recorded", f"generator.path={path}", *data)
    run.prepare(stage, afresh=False)
    code = worker.run_stage(stage.folder)
    return code, stage.folder


@pytest.mark.usefixtures("nothing_is_loaded")
def test_a_file_is_measured_with_our_verifier_and_intervals_and_no_policy(stages_of, tmp_path, capsys):
    lines = [LINE | {"response": [RIGHT, RIGHT, WRONG, NONE], "scores": [1, 0.1, 1, 0]}] * 3
    code, folder = measured(stages_of, recorded(tmp_path, *lines).path)
    found = run_folder.read_json(folder / "metrics.json")
    assert code == 0
    assert found["evaluation"]["n"] == 3
    assert found["headline"]["mean"] == found["evaluation"]["pass@1"]["mean"] == 0.5
    assert found["evaluation"]["wellformed"]["mean"] == 0.75
    assert found["evaluation"]["mean_characters"]["mean"] == sum(map(len, (RIGHT, RIGHT, WRONG, NONE))) / 4
    assert not {"mean_tokens", "truncated", "greedy"} & found["evaluation"].keys(), "nobody counted or recorded them"
    assert "ended_by_stop" not in found["evaluation"]["audit"]
    assert found["recorded"]["differ_in_correctness"] == 6
    assert "of 12 verdicts 6 differ in what is correct, 0 more in form" in capsys.readouterr().out


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("answers", [["#### 72", "so 71\n#### 71"], ["\\boxed{72}", "none at all"]])
def test_maths_is_measured_in_the_same_way(stages_of, tmp_path, answers):
    path = recorded(tmp_path, {"prompt": "?", "ground_truth": "72", "response": answers}).path
    code, folder = measured(stages_of, path, "data=gsm8k")
    found = run_folder.read_json(folder / "metrics.json")
    assert (code, found["evaluation"]["pass@1"]["mean"]) == (0, 0.5)
    assert found["recorded"] == {"completions": 2, "scored": 0}


def test_our_evaluation_read_back_gives_the_same_numbers(tmp_path, stages_of):
    own = stages_of(*TINY, f"runs_dir={tmp_path}", "method=sft", "evaluation.samples=4")[-1]
    run.prepare(own, afresh=False)
    assert worker.run_stage(own.folder) == 0
    code, folder = measured(stages_of, own.folder / "eval.json", *TINY)
    ours, again = (run_folder.read_json(f / "metrics.json")["evaluation"] for f in (own.folder, folder))
    for key in ("max_completion_length", "stop_tokens"):
        assert ours["audit"].pop(key)
    warnings = [ours["audit"].pop("warnings"), again["audit"].pop("warnings")]
    assert code == 0
    assert again == ours
    assert len(warnings[0]) == len(warnings[1])
    assert {"greedy", "pass@1", "pass@4", "best_of_4", "wellformed", "mean_tokens", "truncated"} <= again.keys()
    assert run_folder.read_json(folder / "metrics.json")["recorded"]["differ_in_correctness"] == 0
    assert (folder / "eval.json").read_bytes() == (own.folder / "eval.json").read_bytes()
