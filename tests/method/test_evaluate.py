"""One measurement for every policy: its metrics, its files, and what ends a training stage."""

import json
from statistics import fmean

import pytest
import sampling
from sampling import EXACT, SCRIPTS, Puzzle, Script, job, policy, puzzle

from qwen_align import run_folder
from qwen_align.data import Data
from qwen_align.errors import ConfigError
from qwen_align.generator import Completion
from qwen_align.method import evaluate
from qwen_align.method.audit import StopCriteria
from qwen_align.method.evaluate import Measured
from qwen_align.method.judge import Judged, judged
from qwen_align.metric import interval
from qwen_align.verifier import Verdict, Verifier
from qwen_align.verifier.label import Label

pytestmark = pytest.mark.slow

STOP = StopCriteria("sft", 8)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """measured(data, script): the metrics of method=evaluate in tmp_path."""
    monkeypatch.setattr(evaluate.policy, "load", lambda job: policy())
    monkeypatch.setattr(evaluate.policy, "to_device", lambda weights, job: weights)

    def call(data=None, script=None, **method):
        monkeypatch.setattr(sampling, "SOURCE", script or Script(SCRIPTS))
        return evaluate.evaluate(job("evaluate", **method), data or puzzle(), tmp_path)

    return call


def test_a_policy_is_measured_greedily_and_in_samples(measured):
    found = measured()["evaluation"]
    assert (found["n"], found["samples"]) == (3, 4)
    assert found["greedy"] == interval.share([False] * 3)
    assert found["pass@1"].mean == pytest.approx((1 / 4 + 2 / 4 + 0) / 3)
    assert [found[f"best_of_{n}"].mean for n in (1, 2, 4)] == pytest.approx([0, 2 / 3, 2 / 3])
    assert found["wellformed"].mean == pytest.approx(7 / 12)
    assert found["mean_tokens"].mean == pytest.approx(fmean(len(text) for pool in SCRIPTS.values() for text in pool))
    assert found["truncated"].mean == 0


def test_the_headline_is_pass_at_1(measured):
    found = measured()
    assert found["headline"] == {"name": "pass@1", "policy": None, "n": 3, **vars(found["evaluation"]["pass@1"])}


def test_completions_are_kept_with_their_verdicts(measured, tmp_path):
    measured()
    first, *_ = run_folder.read_jsonl(tmp_path / "samples.jsonl")
    assert (first["policy"], first["answer"], first["greedy"]) == ("policy", "a", ["wrong", "wellformed_wrong"])
    assert first["samples"][1:] == [["a", "correct"], ["b", "wellformed_wrong"], ["x", "malformed"]]
    (line, *_) = [json.loads(line) for line in (tmp_path / "eval.json").read_text().splitlines()]
    assert (line["response"], line["scores"], line["greedy"]) == (SCRIPTS["p"], [0.1, 1.0, 0.1, 0.0], "wrong")


def test_a_second_measurement_begins_its_files_anew(measured, tmp_path):
    measured()
    measured()
    assert len(run_folder.read_jsonl(tmp_path / "samples.jsonl")) == 3


def test_only_the_first_problems_are_measured_and_too_few_are_reported(measured, capsys):
    assert measured(problems=2)["evaluation"]["n"] == 2
    assert measured(problems=9)["evaluation"]["n"] == 3
    assert "the evaluation view has 3 problems, fewer than the 9 asked for" in capsys.readouterr().out


def test_greedy_and_samples_are_drawn_by_the_jobs_settings(measured):
    script = Script(SCRIPTS)
    measured(script=script)
    assert (script.waves, script.seeds) == ([(3, 1), (3, 4)], [0, 0])


def test_without_a_verifier_there_is_nothing_to_measure(measured):
    with pytest.raises(ConfigError, match=r"data\.verifier=null: Puzzle has no verifier, which method=evaluate needs"):
        measured(puzzle(verifier=None))


def test_a_verifier_that_fails_is_found_before_sampling(measured):
    script = Script(SCRIPTS)
    with pytest.raises(ConfigError, match=r"data\.verifier=mine: .*raised IndexError"):
        measured(puzzle(verifier=Verifier(lambda completion: completion[0] == "a", "mine")), script)
    assert script.asked == 0


def test_a_source_that_answers_in_the_policys_place_is_refused(measured):
    teacher = Script(SCRIPTS)
    teacher.needs_policy = False
    with pytest.raises(ConfigError, match="method=evaluate measures a policy"):
        measured(script=teacher)


def test_a_users_score_is_the_true_score_and_1_alone_is_correct(measured):
    half = Verifier(lambda completion, answer: 1.0 if completion == answer else 0.5, "half")
    found = measured(puzzle(verifier=half))["evaluation"]
    assert found["true_score"].mean == pytest.approx(fmean([1, 0.5, 0.5, 0.5, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]))
    assert found["pass@1"].mean == pytest.approx(0.25)


def test_a_verifier_of_verdicts_gives_no_true_score(measured):
    assert "true_score" not in measured()["evaluation"]


def test_labels_have_a_confusion_table_of_greedy_answers_and_of_samples(measured):
    rows = Puzzle({"p": "spam", "q": "ham", "r": "ham"})
    rows.rows = [{"prompt": row["prompt"], "label": row["answer"]} for row in rows.rows]
    script = Script({"p": ["spam", "ham"], "q": ["ham", "ham"], "r": ["what?", "spam"]})
    label = Verifier(Label(["spam", "ham"]), "label")
    found = measured(Data(rows, label), script, samples=2)["evaluation"]["labels"]
    assert found["labels"] == ["ham", "spam"]
    assert found["samples"]["table"] == [[2, 1, 1], [1, 1, 0]]
    assert found["greedy"]["table"] == [[0, 0, 2], [0, 0, 1]], "wrong is none of them"
    accuracy = found["samples"]["accuracy"]
    assert {name: (value["n"], value["mean"]) for name, value in accuracy.items()} == {"ham": (2, 0.5), "spam": (1, 0.5)}


def test_verdicts_that_were_given_up_are_counted(measured):
    class Late(sampling.Exact):
        count = 0

        def timeouts(self):
            return self.count

        def verify(self, completion, answer):
            self.count += completion == "x"
            return super().verify(completion, answer)

    assert measured(puzzle(verifier=Verifier(Late(), "late")))["evaluation"]["verifier_timeouts"] == 5


def test_without_a_verifier_completions_are_recorded_and_no_file_is_written_for_others(tmp_path):
    problems = evaluate.Problems([{"prompt": "?"}], None, tmp_path)
    pools = problems.judged([[Completion("a", 1, True)]])
    found = problems.measured([], pools, STOP, None, "eval.json")
    assert found.details["audit"]["ended_by_stop"].mean == 1.0
    assert not found.summary().keys() & {"pass@1", "greedy", "wellformed"}
    assert [path.name for path in tmp_path.iterdir()] == ["samples.jsonl"]
    (line,) = run_folder.read_jsonl(tmp_path / "samples.jsonl")
    assert (line["greedy"], line["samples"]) == (None, [["a", ""]])


def test_policies_are_compared_on_a_value_a_problem():
    pools = [judged(EXACT, {"answer": "a"}, [Completion(t, 1, True) for t in texts]) for texts in ("ab", "bb")]
    found = Measured([pool[0] for pool in pools], pools, {}, {"judge": [[1.0, 2.0], [3.0, 4.0]]}, {"reward@1": [True, False]})
    assert found.per_problem() == {
        "greedy": [1.0, 0.0],
        "pass@1": [0.5, 0.0],
        "best_of_2": [1.0, 0.0],
        "judge": [1.5, 3.5],
        "reward@1": [1.0, 0.0],
    }


def test_without_a_verifier_only_scores_are_compared():
    pools = [[Judged("a", 1, True)]]
    assert Measured([], pools, {}, {"judge": [[2.0]]}).per_problem() == {"judge": [2.0]}


def ended(tmp_path, monkeypatch, data):
    """The metrics of a training stage that returned {"steps": 1}."""
    monkeypatch.setattr(evaluate.model, "from_run", lambda folder: policy())
    monkeypatch.setattr(evaluate.policy, "to_device", lambda weights, job: weights)
    monkeypatch.setattr(sampling, "SOURCE", Script(SCRIPTS))

    def train(job, data, folder):
        """Train."""
        line = {"completions/clipped_ratio": 0.25, "completions/mean_length": 9.0}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        return {"steps": 1}

    return evaluate.then_measured(train)(job("rloo"), data, tmp_path)


def test_training_ends_with_the_measurement_and_its_last_rollouts(tmp_path, monkeypatch):
    found = ended(tmp_path, monkeypatch, puzzle())
    assert found["train"]["steps"] == 1
    assert found["train"]["rollouts"]["ended_by_stop"] == 0.75
    assert found["headline"]["mean"] == found["evaluation"]["pass@1"].mean
    assert run_folder.read_jsonl(tmp_path / "samples.jsonl")[0]["policy"] == "rloo"


def test_a_policy_that_cannot_be_measured_is_reported(tmp_path, monkeypatch, capsys):
    assert ended(tmp_path, monkeypatch, puzzle(verifier=None)) == {"train": {"steps": 1}}
    assert "the data has no verifier, so the trained policy is not measured here" in capsys.readouterr().out
    monkeypatch.setattr(Puzzle, "views", lambda self: ("prompts",), raising=False)
    assert ended(tmp_path, monkeypatch, puzzle()) == {"train": {"steps": 1}}
    assert "the data has no evaluation view" in capsys.readouterr().out


def test_rank_0_alone_measures(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "read_only", True)
    assert ended(tmp_path, monkeypatch, puzzle()) == {"train": {"steps": 1}}


def recorded(tmp_path, lines, data=None):
    """The metrics of a file of recorded completions."""
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    node = {"_target_": "qwen_align.generator.recorded.Recorded", "path": str(path)}
    return evaluate.evaluate(job("evaluate", node), data or puzzle(), tmp_path)


def test_what_a_file_holds_is_measured_with_the_problems_its_own(tmp_path, capsys):
    lines = [{"prompt": "1", "answer": "a", "response": ["a", "b"], "scores": [1.0, 1.0], "greedy": "a"}] * 4
    found = recorded(tmp_path, lines)
    assert (found["evaluation"]["n"], found["evaluation"]["pass@1"].mean, found["evaluation"]["greedy"].mean) == (4, 0.5, 1)
    assert found["recorded"]["differ_in_correctness"] == 4
    assert found["headline"]["mean"] == 0.5
    assert "4 problems x 2 completions of" in capsys.readouterr().out


def test_a_measurement_that_was_written_is_read_with_the_same_numbers(measured, tmp_path):
    before = measured()["evaluation"]
    lines = [json.loads(line) for line in (tmp_path / "eval.json").read_text().splitlines()]
    after = recorded(tmp_path, lines)["evaluation"]
    assert {key: after[key] for key in ("pass@1", "greedy", "best_of_4", "mean_tokens", "wellformed")} == {
        key: before[key] for key in ("pass@1", "greedy", "best_of_4", "mean_tokens", "wellformed")
    }


def test_a_file_needs_a_verifier(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.verifier=null"):
        recorded(tmp_path, [{"answer": "a", "response": ["a"]}], puzzle(verifier=None))


def test_the_verdict_of_a_recorded_greedy_answer_is_written(tmp_path):
    recorded(tmp_path, [{"answer": "a", "response": ["a"], "greedy": "x"}])
    (line,) = run_folder.read_jsonl(tmp_path / "samples.jsonl")
    assert line["greedy"] == ["x", Verdict.MALFORMED]
