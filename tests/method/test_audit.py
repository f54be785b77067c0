"""How completions end and how many answers they hold, and what is said about it."""

import json

import pytest
from datasets import Dataset
from sampling import policy

from qwen_align import run_folder
from qwen_align.config import component
from qwen_align.generator import Completion
from qwen_align.method import audit
from qwen_align.method.judge import judged
from qwen_align.metric.interval import Interval
from qwen_align.verifier import Verifier

COUNTDOWN, MATHS = component.verifier("countdown"), component.verifier("math")
ROW = {"prompt": "?", "nums": [1, 2], "target": 3}
RIGHT, WRONG = "<answer>1 + 2</answer>", "<answer>1 - 2</answer>"
LIMITED = audit.StopCriteria("sft", 28, ("<|im_end|>",))


def audited(*texts, cut=0, verifier=COUNTDOWN, row=ROW):
    """The audit of one problem's completions, the last `cut` of them unfinished."""
    pool = [Completion(text, 5, i < len(texts) - cut) for i, text in enumerate(texts)]
    return audit.audit(verifier, [row], [judged(verifier, row, pool)], LIMITED)


def test_answers_are_counted_and_the_first_is_judged_beside_the_last():
    found = audited(RIGHT, RIGHT + WRONG, WRONG + RIGHT + RIGHT, "none", WRONG + WRONG)
    means = {key: value.mean for key, value in found.items() if isinstance(value, Interval)}
    assert means == {
        "ended_by_stop": 1.0,
        "answers_per_completion": 1.6,
        "several_answers": 0.6,
        "no_answer": 0.2,
        "last_answer_correct": 0.4,
        "first_answer_correct": 0.4,
        "first_changes_verdict": 0.4,
    }
    assert found["verdicts_changed"] == 2


def test_an_answer_while_thinking_is_none():
    assert audited(f"<think>{RIGHT}")["no_answer"].mean == 1.0


def test_marked_answers_of_maths_are_counted():
    texts = ("so \\boxed{71}\n#### 72", "#### 72", "it is 72", "#### Step 1\nadd\n#### 72")
    found = audited(*texts, verifier=MATHS, row={"answer": "72"})
    assert found["answers_per_completion"].mean == 1.0
    assert found["several_answers"].mean == 0.25
    assert found["no_answer"].mean == 0.25, "though the last number is read as the answer"
    assert (found["last_answer_correct"].mean, found["first_answer_correct"].mean) == (1.0, 0.75)


def test_a_verifier_without_that_notion_gives_no_such_numbers():
    found = audited("a", verifier=Verifier(lambda completion: True, "mine"))
    assert found.keys() == {"max_completion_length", "stop_tokens", "ended_by_stop", "warnings"}


def test_what_nobody_counted_is_left_out():
    pool = judged(COUNTDOWN, ROW, [Completion(RIGHT, 0, True)])
    found = audit.audit(COUNTDOWN, [ROW], [pool], audit.StopCriteria("recorded", None))
    assert not {"ended_by_stop", "max_completion_length", "stop_tokens"} & found.keys()


@pytest.mark.parametrize(
    ("texts", "cut", "expected"),
    [
        ([RIGHT] * 10, 2, "20% of the sampled completions are cut at max_completion_length=28"),
        ([RIGHT] * 10, 10, "none of the sampled completions ends by a stop token (<|im_end|>): the policy never learned"),
        (
            [WRONG + RIGHT] * 2 + [RIGHT] * 8,
            0,
            "20% of the completions hold several answers, so they go on after the first; the last one is judged: 1.000 "
            "correct, the first one would give 0.800",
        ),
    ],
    ids=["cut", "never stops", "several answers"],
)
def test_what_is_wrong_is_printed_and_kept(texts, cut, expected, capsys):
    (warning,) = audited(*texts, cut=cut)["warnings"]
    assert warning.startswith(expected)
    assert capsys.readouterr().out == f"warning: sft: {warning}\n"


def test_a_few_are_no_warning():
    assert audited(WRONG + RIGHT, *[RIGHT] * 9, cut=1)["warnings"] == []


RLOO = {"num_generations": 8, "max_completion_length": 512, "generation_kwargs": None}


def differing(limit=512, **args):
    return audit.differences({"method": {"args": RLOO | args}}, limit)


def test_a_run_that_samples_as_it_is_measured_differs_in_nothing():
    assert differing() == []
    assert audit.differences({"method": {"args": {"max_length": 64}}}, 512) == [], "nothing is sampled"
    assert audit.differences({}, 512) == []


def test_another_limit_in_training_is_named_with_both_keys():
    (text,) = differing(1024)
    assert "method.args.max_completion_length=512 tokens, and they are measured up to max_completion_length=1024" in text


@pytest.mark.parametrize("kwargs", [{"stop_strings": ["</answer>"]}, {"stop": "</answer>"}, {"eos_token_id": 5}])
def test_a_stop_of_its_own_in_training_is_named(kwargs):
    (text,) = differing(generation_kwargs=kwargs | {"top_k": 5})
    ((key, value),) = kwargs.items()
    assert f"method.args.generation_kwargs.{key}={value}, which the evaluation doesn't" in text


def test_rollouts_are_counted_as_text_and_as_messages():
    texts = [RIGHT + RIGHT, RIGHT, "", RIGHT]
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    expected = {"completions/answers": 1.0, "completions/several_answers": 0.25, "completions/no_answer": 0.25}
    assert audit.of_rollouts(COUNTDOWN.answers, texts) == audit.of_rollouts(COUNTDOWN.answers, messages) == expected
    assert audit.of_rollouts(None, texts) == {}


def test_the_last_logged_rollouts_are_averaged():
    lines = [{"completions/clipped_ratio": x, "completions/mean_length": 9.0} for x in (1.0, 0.1, 0.2, 0.3, 0.2, 0.2)]
    found = audit.of_log([*lines, {"train_runtime": 1.0}])
    assert found == pytest.approx({"logged_lines": 5, "ended_by_stop": 0.8, "truncated": 0.2, "mean_tokens": 9.0})
    assert audit.of_log([{"loss": 1.0}]) == {}


def labelled(*labels):
    return Dataset.from_dict({"input_ids": [[1] * len(row) for row in labels], "labels": list(labels)})


@pytest.mark.parametrize(
    ("rows", "without", "expected"),
    [
        (labelled([-100, 4, 9], [-100, 9, 4, 9]), 0, None),
        (labelled([-100, 4], *[[-100, 4, 9]] * 9), 1, None),
        (labelled([-100, 4, 9], [-100, 4], [], [9]), 2, "2 of 4 demonstrations never show the stop token"),
        (labelled([-100, 4], [-100, 4, 5]), 2, "no demonstration shows the stop token"),
    ],
    ids=["none", "a few", "many", "all"],
)
def test_demonstrations_that_teach_no_stop_are_counted_and_many_are_a_warning(rows, without, expected, capsys):
    found = audit.of_demonstrations(rows, 9)
    assert found["demonstrations"] == {"rows": len(rows), "without_stop_token": without}
    assert ("warnings" in found) == bool(expected)
    text = found["warnings"][0]["text"] if expected else ""
    assert text.startswith(expected or "")
    assert capsys.readouterr().out == (f"warning: {text}\n" if expected else "")


def test_rows_without_labels_say_nothing():
    assert audit.of_demonstrations(Dataset.from_dict({"input_ids": [[1]]}), 9) == {}


def finished(smoke_chain, method):
    """The folder of a finished stage of the chain."""
    return next(stage.folder for stage in smoke_chain if stage.method == method)


def test_every_training_stage_ends_with_an_audit(smoke_chain):
    found = run_folder.read_json(finished(smoke_chain, "rloo") / "metrics.json")
    audited = found["evaluation"]["audit"]
    assert audited["stop_tokens"] == ["<|im_end|>"]
    assert audited["ended_by_stop"]["mean"] == pytest.approx(1 - found["evaluation"]["truncated"]["mean"])
    assert audited["last_answer_correct"] == found["evaluation"]["pass@1"]


def test_rloos_own_rollouts_are_in_its_metrics(smoke_chain):
    folder = finished(smoke_chain, "rloo")
    rollouts = run_folder.read_json(folder / "metrics.json")["train"]["rollouts"]
    logged = [line for line in run_folder.read_jsonl(folder / "metrics.jsonl") if "reward" in line]
    assert rollouts["logged_lines"] == len(logged) == 3
    assert rollouts["truncated"] + rollouts["ended_by_stop"] == pytest.approx(1)


@pytest.fixture
def trained(tmp_path):
    """A policy of a run folder whose training sampled up to 14 tokens."""
    weights, tokenizer = policy()
    weights.name_or_path = str(tmp_path / "model")
    run_folder.write_json(tmp_path / "run.json", {"state": "finished"})
    args = {"num_generations": 4, "max_completion_length": 14}
    (tmp_path / "config.yaml").write_text(json.dumps({"method": {"args": args}}))
    return weights, tokenizer


def test_a_policy_that_is_measured_later_is_compared_with_how_it_was_trained(trained):
    found = audit.stop_criteria("rloo", trained, 28)
    assert (found.limit, found.tokens) == (28, ("<1>",))
    assert "max_completion_length=14" in found.differences[0]
    assert audit.stop_criteria("rloo", trained, 14).differences == ()


def test_a_copied_model_folder_says_nothing_of_its_training(trained, tmp_path):
    trained[0].name_or_path = str(tmp_path / "elsewhere" / "model")
    assert audit.stop_criteria("rloo", trained, 28).differences == ()
