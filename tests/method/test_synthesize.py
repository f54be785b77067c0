"""Demonstrations from a teacher: only what is right, only once, nothing held out, and no paid answer lost."""

import json
import random

import pytest
import sampling
from trained import finished

from qwen_align import run_folder
from qwen_align.config import component
from qwen_align.data import Data
from qwen_align.data.countdown import Countdown, solve, trace
from qwen_align.errors import ConfigError
from qwen_align.generator import Completion
from qwen_align.method.synthesize import Answers, EvaluationOverlap, grams, synthesize, teacher, teacher_prompt
from qwen_align.stage import run, worker
from qwen_align.stage.launch import USER_ERROR

pytestmark = pytest.mark.slow

PROMPT = "Numbers {numbers} target {target}"
OVERRIDES = (
    "data=countdown",
    "method=synthesize",
    "generator=solver",
    "model=countdown_tiny",
    "data.count=[3,3]",
    "data.numbers=[1,20]",
    "data.evaluation_problems=10",
    "method.problems=12",
    "method.samples=3",
    f"data.prompt='{PROMPT}'",
)


class Teacher:
    """Answers with `say(prompt, number of the answer)`; an Exception among them is raised."""

    needs_policy = False

    def __init__(self, say):
        self.say, self.asked = say, []

    def stream(self, prompts, sampling, title, policy=None):
        for index, prompt in enumerate(prompts):
            self.asked.append((prompt[-1]["content"], sampling.n, sampling.seed))
            said = [self.say(prompt[-1]["content"], len(self.asked)) for _ in range(sampling.n)]
            for answer in said:
                if isinstance(answer, Exception):
                    raise answer
            yield index, [Completion(text, 10, finished, 5) for text, finished in said]


def solved(prompt, number=0):
    words = prompt.split()
    steps = solve([int(w) for w in words[1:4]], int(words[5]), random.Random(number))
    return trace(*steps), True


@pytest.fixture
def data():
    verifier = component.verifier("countdown")
    return Data(Countdown(40, 10, [3, 3], [1, 20], [1, 60], 100, 0.15, 0, PROMPT), verifier)


@pytest.fixture
def ask(data, tmp_path, monkeypatch):
    """ask(say, settings): run the method with a teacher that says this; returns (metrics, demonstrations, teacher)."""

    def call(say=solved, data=data, **changes):
        call.teacher = Teacher(say)
        monkeypatch.setattr(sampling, "SOURCE", call.teacher)
        rates = {"prompt": None, "completion": None}
        method = {"view": "prompts", "problems": 8, "samples": 1, "teacher_prompt": None, "threshold": 0.0}
        job = sampling.job("synthesize", **(method | {"price_per_million_tokens": rates} | changes))
        metrics = synthesize(job, data, tmp_path)
        return metrics, run_folder.read_jsonl(tmp_path / "demonstrations.jsonl"), call.teacher

    return call


def short(completions, most=40, **_):
    """A reward that likes short answers."""
    return [1.0 if len(completion[-1]["content"]) <= most else -1.0 for completion in completions]


def reads_ids(completions, completion_ids):
    return [0.0 for _ in completions]


def node(function, **settings):
    return {"_target_": f"{__name__}.{function.__name__}", **settings}


def test_what_the_verifier_accepts_is_kept(ask, data):
    metrics, lines, _ = ask()
    assert metrics["answers"] == {"asked": 8, "kept": 8, "dropped": {}}
    assert all(data.verifier.verify(line["completion"][0]["content"], line) == "correct" for line in lines)
    assert [line["prompt"] for line in lines] == data.rows("prompts")["prompt"][:8]


def test_why_answers_are_dropped_is_counted(ask):
    answers = iter([("<answer>1</answer>", True), ("no idea", True), None, None, "cut"] + [None] * 3)

    def say(prompt, number):
        kind = next(answers)
        return (solved(prompt)[0], False) if kind == "cut" else kind or solved(prompt)

    metrics, _, _ = ask(say)
    assert metrics["answers"]["dropped"] == {"wellformed_wrong": 1, "malformed": 1, "cut": 1}
    assert metrics["headline"]["name"] == "kept"
    assert metrics["headline"]["n"] == 8
    assert metrics["headline"]["low"] < metrics["headline"]["mean"] == 5 / 8 < metrics["headline"]["high"]


def test_equal_answers_to_a_problem_are_kept_once(ask):
    metrics, lines, _ = ask(lambda prompt, _: solved(prompt, 0), samples=3)
    assert len(lines) == 8
    assert metrics["answers"] == {"asked": 24, "kept": 8, "dropped": {"duplicate": 16}}


def test_a_row_says_where_it_came_from(ask):
    _, lines, _ = ask(price_per_million_tokens={"prompt": 2.0, "completion": 10.0}, problems=1)
    provenance = lines[0]["provenance"]
    assert provenance["teacher"] == {"generator": "source"}
    assert provenance["prompt"] == lines[0]["prompt"]
    assert provenance["sampling"] == {
        "n": 1,
        "temperature": 1.0,
        "seed": 0,
        "max_completion_length": 8,
        "top_p": 1.0,
        "top_k": 0,
    }
    assert (provenance["verdict"], provenance["tokens"], provenance["prompt_tokens"]) == ("correct", 10, 5)
    assert provenance["price"] == pytest.approx(110e-6)


def test_tokens_and_price_of_all_answers_are_summed(ask):
    metrics, _, _ = ask(lambda *_: ("wrong", True), price_per_million_tokens={"prompt": 2.0, "completion": 10.0})
    assert metrics["tokens"] == {"prompt": 40, "completion": 80}
    assert metrics["price"] == pytest.approx(8 * 110e-6)


def test_without_rates_there_is_no_price(ask):
    assert ask()[0]["price"] is None


def test_the_teacher_is_asked_with_its_own_prompt_and_the_data_keep_theirs(ask, data):
    row = data.rows("prompts")[0]
    _, lines, teacher = ask(
        lambda *_: solved(row["prompt"][0]["content"]), teacher_prompt="Solve {nums} -> {target}", problems=1
    )
    assert teacher.asked[0][0] == f"Solve {' '.join(map(str, row['nums']))} -> {row['target']}"
    assert lines[0]["prompt"] == row["prompt"]
    assert lines[0]["provenance"]["prompt"][0]["content"] == teacher.asked[0][0]


@pytest.mark.parametrize("template", ["no field", "{question}", "{", "{nums[0]}"])
def test_a_template_that_does_not_fit_is_an_error(template):
    row = {"prompt": [{"role": "user", "content": "p"}], "nums": [1], "target": 2}
    with pytest.raises(ConfigError, match=r"method\.teacher_prompt: "):
        teacher_prompt(template, row)


def test_a_system_message_stays_before_the_teachers_prompt():
    row = {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}
    expected = [{"role": "system", "content": "s"}, {"role": "user", "content": "Please: u"}]
    assert teacher_prompt("Please: {prompt}", row) == expected


def test_a_dying_server_loses_nothing_and_only_the_rest_is_asked_again(ask, tmp_path):
    def dying(prompt, number):
        return solved(prompt) if number <= 5 else ConfigError("generator.base_url=x: no answer after 3 tries")

    with pytest.raises(ConfigError, match="no answer after 3 tries"):
        ask(dying)
    assert len(run_folder.read_jsonl(tmp_path / "answers.jsonl")) == 5
    metrics, lines, teacher = ask()
    assert len(teacher.asked) == 3
    assert metrics["answers"]["asked"] == len(lines) == 8
    _, _, teacher = ask()
    assert teacher.asked == []


def test_what_is_asked_again_is_asked_with_another_seed(ask):
    with pytest.raises(ConfigError):
        ask(lambda prompt, number: solved(prompt) if number <= 4 else ConfigError("gone"), samples=3)
    first = {seed for _, _, seed in ask.teacher.asked}
    _, _, again = ask(samples=3)
    assert first.isdisjoint(seed for _, _, seed in again.asked)
    assert len(again.asked) == 8 * 3 - 4


def test_each_answer_is_on_disk_before_the_next_is_asked_for(ask, tmp_path):
    seen = []

    def say(prompt, number):
        path = tmp_path / "answers.jsonl"
        seen.append(len(run_folder.read_jsonl(path)))
        return solved(prompt, number)

    ask(say, samples=2)
    assert seen == list(range(16))


def test_a_line_that_a_kill_tore_is_dropped_and_asked_again(ask, tmp_path):
    ask(problems=4)
    path = tmp_path / "answers.jsonl"
    path.write_text(path.read_text()[:-20])
    metrics, _, teacher = ask(problems=4)
    assert len(teacher.asked) == 1
    assert metrics["answers"]["asked"] == 4
    assert [json.loads(line)["tokens"] for line in path.read_text().splitlines()] == [10] * 4


def test_answers_are_found_by_their_prompt(tmp_path):
    one, two = ([{"role": "user", "content": text}] for text in ("one", "two"))
    Answers(tmp_path / "a.jsonl").add(one, [Completion("x", 1, True)])
    again = Answers(tmp_path / "a.jsonl")
    assert (again.of(one), again.of(two), len(again)) == ([Completion("x", 1, True)], [], 1)


def row_of(text, **columns):
    return {"prompt": [{"role": "user", "content": text}]} | columns


def test_a_countdown_problem_touches_by_its_numbers_and_target_alone():
    overlap = EvaluationOverlap([row_of("Numbers 1 2 3 target 6", nums=[1, 2, 3], target=6)])
    assert overlap.touches(row_of("other words", nums=[3, 1, 2], target=6))
    assert not overlap.touches(row_of("Numbers 1 2 3 target 5", nums=[1, 2, 3], target=5))


LONG = "a farmer sells seven dozen brown eggs at the market every single monday morning in june"


def test_a_text_touches_by_thirteen_words_in_a_row():
    overlap = EvaluationOverlap(
        [row_of(LONG), row_of("how many litres of water are there in the two tanks together after an hour then")]
    )
    words = LONG.split()
    assert overlap.touches(row_of(f"Once upon a time, {' '.join(words[:13]).upper()}!"))
    assert not overlap.touches(row_of(" ".join(words[:12]) + " else"))
    assert overlap.touches(row_of("something else"), answer=f"This is like: {LONG}."), "an answer may quote one"


def test_a_short_text_touches_only_the_same_text():
    overlap = EvaluationOverlap([row_of("What is 2 + 2?")])
    assert overlap.touches(row_of("what is 2+2"))
    assert not overlap.touches(row_of("What is 2 + 3?"))


def test_wording_that_all_evaluation_prompts_share_is_no_problem_of_theirs():
    preface = "please solve the following problem step by step and put the final answer in a box now"
    overlap = EvaluationOverlap([row_of(f"{preface}: question number {i} about {i * 7} apples") for i in range(100)])
    assert not overlap.touches(row_of(f"{preface}: something new altogether"))
    assert overlap.touches(row_of(f"{preface}: question number 42 about 294 apples"))


def test_grams_are_runs_of_words():
    assert len(grams(" ".join(map(str, range(20))))) == 8
    assert grams("Two, words") == {("two", "words")}
    assert grams("") == set()


def test_problems_of_the_evaluation_view_are_not_even_asked(ask, data, monkeypatch):
    held_out = data.rows("prompts").select(range(3))
    monkeypatch.setattr(data.source, "evaluation", lambda: held_out)
    metrics, lines, teacher = ask(data=data)
    assert metrics["problems"] == {"view": 8, "asked": 5, "held_out_or_repeated": 3}
    assert len(lines) == len(teacher.asked) == 5


def test_without_verifier_and_reward_nothing_says_what_to_keep(ask, data):
    with pytest.raises(ConfigError, match=r"data\.verifier=null: .*which method=synthesize without a reward needs"):
        ask(data=Data(data.source))


def test_with_a_verifier_a_reward_has_to_accept_too(ask):
    long = lambda prompt, number: (" " * 40 * (number % 2) + solved(prompt)[0], True)  # noqa: E731
    metrics, lines, _ = ask(long, reward=node(short, most=70))
    kept = [len(line["completion"][0]["content"]) <= 70 for line in lines]
    assert all(kept)
    assert metrics["answers"]["dropped"]["low_reward"] == 8 - len(lines) > 0
    assert {line["provenance"]["reward"] for line in lines} == {1.0}


def test_without_a_verifier_the_weighted_sum_of_the_rewards_filters(ask, data):
    say = lambda prompt, number: ("no" if number % 2 else "x" * 50, True)  # noqa: E731
    metrics, lines, _ = ask(say, data=Data(data.source), reward=node(short, weight=0.5), threshold=0.5)
    assert [line["completion"][0]["content"] for line in lines] == ["no"] * 4
    assert metrics["answers"] == {"asked": 8, "kept": 4, "dropped": {"low_reward": 4}}
    assert (lines[0]["provenance"]["verdict"], lines[0]["provenance"]["reward"]) == (None, 0.5)


def test_a_higher_threshold_keeps_nothing(ask, data):
    assert ask(data=Data(data.source), reward=node(short), threshold=1.5)[1] == []


def test_an_empty_answer_is_no_demonstration_whatever_its_reward(ask, data):
    metrics, _, _ = ask(lambda *_: ("  ", True), data=Data(data.source), reward=node(short))
    assert metrics["answers"]["dropped"] == {"empty": 8}


def test_a_reward_of_token_ids_is_refused_before_a_teacher_without_a_tokenizer_is_paid(ask):
    with pytest.raises(ConfigError, match="reward=reads_ids: reads completion_ids"):
        ask(reward=node(reads_ids))
    assert ask.teacher.asked == []


@pytest.mark.parametrize(
    ("target", "name"),
    [("qwen_align.generator.openai.OpenAI", "openai"), ("a.b.Mine", "Mine"), ("folder/mine.py:Mine", "Mine")],
)
def test_a_teacher_is_known_by_its_module_here_and_by_its_name_elsewhere(target, name):
    generator = sampling.job("", {"_target_": target, "model": "oracle", "concurrency": 8}).generator
    assert teacher(generator) == {"generator": name, "model": "oracle"}


def test_the_solver_makes_demonstrations_without_a_policy(tmp_path, stages_of, monkeypatch):
    (stage,) = stages_of(*OVERRIDES, f"runs_dir={tmp_path}")
    monkeypatch.setattr("qwen_align.method.policy.load", lambda _: pytest.fail("no policy is needed"))
    finished(stage)
    metrics = run_folder.read_json(stage.folder / "metrics.json")
    assert metrics["answers"]["asked"] == 36
    assert metrics["answers"]["dropped"].keys() <= {"duplicate"}
    assert metrics["solved"]["mean"] == 1.0
    assert len(run_folder.read_jsonl(stage.folder / "demonstrations.jsonl")) == metrics["answers"]["kept"]


def test_a_local_policy_can_teach(tmp_path, stages_of):
    overrides = [override for override in OVERRIDES if not override.startswith("generator")]
    sizes = ["model.hidden_size=16", "model.num_hidden_layers=1", "model.intermediate_size=16", "max_completion_length=4"]
    (stage,) = stages_of(*overrides, *sizes, f"runs_dir={tmp_path}")
    finished(stage)
    metrics = run_folder.read_json(stage.folder / "metrics.json")
    assert metrics["teacher"] == {"generator": "transformers", "policy": "base"}
    assert metrics["answers"]["asked"] == 36
    assert metrics["tokens"]["completion"] > 0


def test_a_teacher_that_is_not_there_is_one_line_and_the_run_can_go_on(tmp_path, stages_of, capsys):
    overrides = [override for override in OVERRIDES if not override.startswith("generator")]
    openai = ["generator=openai", "generator.base_url=http://127.0.0.1:9/v1", "generator.api_key_env=null"]
    (stage,) = stages_of(*overrides, *openai, "generator.retries=0", f"runs_dir={tmp_path}")
    run.prepare(stage, afresh=False)
    assert worker.run_stage(stage.folder) == USER_ERROR
    assert "generator.base_url=http://127.0.0.1:9/v1: no answer" in run_folder.read_json(stage.folder / "run.json")["error"]
    assert "Traceback" not in capsys.readouterr().err
