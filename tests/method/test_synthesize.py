"""Demonstrations from a teacher: only what is right, only once, nothing held out, and no paid answer lost."""

import json

import pytest

from qwen_align.data.countdown import Countdown, solve, trace
from qwen_align.errors import ConfigError
from qwen_align.generator import Completion
from qwen_align.method import synthesize as module
from qwen_align.method.synthesize import Answers, Held, asked_as, grams, synthesize
from qwen_align.stage import run, run_folder, worker
from qwen_align.stage.launch import USER_ERROR

PROMPT = "Numbers {numbers} target {target}"
WORDS = (
    "data=countdown", "method=synthesize", "generator=solver", "model=countdown_tiny", "data.count=[3,3]",
    "data.numbers=[1,20]", "data.evaluation_problems=10", "method.problems=12", "method.samples=3", f"data.prompt='{PROMPT}'",
)  # fmt: skip


class Teacher:
    """Answers with `say(prompt, number of the answer)`; an Exception among them is raised."""

    needs_policy = False

    def __init__(self, say):
        self.say, self.asked = say, []

    def stream(self, prompts, *, n, seed, **_):
        for index, prompt in enumerate(prompts):
            self.asked.append((prompt[-1]["content"], n, seed))
            said = [self.say(prompt[-1]["content"], len(self.asked)) for _ in range(n)]
            for answer in said:
                if isinstance(answer, Exception):
                    raise answer
            yield index, [Completion(text, 10, finished, 5) for text, finished in said]


def solved(prompt, number=0):
    import random

    words = prompt.split()
    steps = solve([int(w) for w in words[1:4]], int(words[5]), random.Random(number))
    return trace(*steps), True


@pytest.fixture
def data():
    return Countdown(40, 10, [3, 3], [1, 20], [1, 60], 100, 0.15, 0, PROMPT)


@pytest.fixture
def ask(data, tmp_path, monkeypatch):
    """ask(say, settings): run the method with a teacher that says this; returns (metrics, demonstrations, teacher)."""

    def call(say=solved, data=data, **changes):
        teacher = Teacher(say)
        monkeypatch.setattr(module, "instantiate", lambda *_, **__: teacher)
        rates = {"prompt": None, "completion": None}
        method = {"view": "prompts", "problems": 8, "samples": 1, "temperature": 1.0, "teacher_prompt": None}
        config = {
            "seed": 0, "max_completion_length": 28, "generator": {"_target_": "a.teacher.Teacher", "model": "oracle"},
            "method": method | {"price_per_million_tokens": rates} | changes,
        }  # fmt: skip
        call.teacher = teacher
        metrics = synthesize(config, data, tmp_path)
        return metrics, run_folder.read_jsonl(tmp_path / "demonstrations.jsonl"), teacher

    return call


def test_what_the_verifier_accepts_is_kept(ask, data):
    metrics, lines, _ = ask()
    assert metrics["answers"] == {"asked": 8, "kept": 8, "dropped": {}}
    assert all(data.verify(line["completion"][0]["content"], line) == "correct" for line in lines)
    assert [line["prompt"] for line in lines] == data.prompts()["prompt"][:8]


def test_why_answers_are_dropped_is_counted(ask):
    said = iter([("<answer>1</answer>", True), ("no idea", True), None, None, "cut"] + [None] * 3)

    def say(prompt, number):
        kind = next(said)
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
    assert provenance["teacher"] == {"generator": "teacher", "model": "oracle"}
    assert provenance["prompt"] == lines[0]["prompt"]
    assert provenance["sampling"] == {"temperature": 1.0, "seed": 0, "max_completion_length": 28}
    assert (provenance["verdict"], provenance["tokens"], provenance["prompt_tokens"]) == ("correct", 10, 5)
    assert provenance["price"] == pytest.approx(110e-6)


def test_tokens_and_price_of_all_answers_are_summed(ask):
    metrics, _, _ = ask(lambda *_: ("wrong", True), price_per_million_tokens={"prompt": 2.0, "completion": 10.0})
    assert metrics["tokens"] == {"prompt": 40, "completion": 80}
    assert metrics["price"] == pytest.approx(8 * 110e-6)


def test_without_rates_there_is_no_price(ask):
    assert ask()[0]["price"] is None


def test_the_teacher_is_asked_with_its_own_prompt_and_the_data_keep_theirs(ask, data):
    row = data.prompts()[0]
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
        asked_as(template, row)


def test_a_system_message_stays_before_the_teachers_prompt():
    row = {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}
    expected = [{"role": "system", "content": "s"}, {"role": "user", "content": "Please: u"}]
    assert asked_as("Please: {prompt}", row) == expected


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
    held = Held([row_of("Numbers 1 2 3 target 6", nums=[1, 2, 3], target=6)])
    assert held.touches(row_of("other words", nums=[3, 1, 2], target=6))
    assert not held.touches(row_of("Numbers 1 2 3 target 5", nums=[1, 2, 3], target=5))


LONG = "a farmer sells seven dozen brown eggs at the market every single monday morning in june"


def test_a_text_touches_by_thirteen_words_in_a_row():
    held = Held(
        [row_of(LONG), row_of("how many litres of water are there in the two tanks together after an hour then")]
    )
    words = LONG.split()
    assert held.touches(row_of(f"Once upon a time, {' '.join(words[:13]).upper()}!"))
    assert not held.touches(row_of(" ".join(words[:12]) + " else"))
    assert held.touches(row_of("something else"), answer=f"This is like: {LONG}."), "an answer may quote one"


def test_a_short_text_touches_only_the_same_text():
    held = Held([row_of("What is 2 + 2?")])
    assert held.touches(row_of("what is 2+2"))
    assert not held.touches(row_of("What is 2 + 3?"))


def test_wording_that_all_evaluation_prompts_share_is_no_problem_of_theirs():
    preface = "please solve the following problem step by step and put the final answer in a box now"
    held = Held([row_of(f"{preface}: question number {i} about {i * 7} apples") for i in range(100)])
    assert not held.touches(row_of(f"{preface}: something new altogether"))
    assert held.touches(row_of(f"{preface}: question number 42 about 294 apples"))


def test_grams_are_runs_of_words():
    assert len(grams(" ".join(map(str, range(20))))) == 8
    assert grams("Two, words") == {("two", "words")}
    assert grams("") == set()


def test_problems_of_the_evaluation_view_are_not_even_asked(ask, data, monkeypatch):
    monkeypatch.setattr(data, "evaluation", lambda: data.prompts().select(range(3)))
    metrics, lines, teacher = ask(data=data)
    assert metrics["problems"] == {"view": 8, "asked": 5, "held_out_or_repeated": 3}
    assert len(lines) == len(teacher.asked) == 5


def test_data_without_a_verifier_are_an_error(ask, data):
    class Text:
        def evaluation(self):
            return data.evaluation()

    with pytest.raises(ConfigError, match="Text has no verifier"):
        ask(data=Text())


def test_the_solver_makes_demonstrations_without_a_policy(tmp_path, stages_of, monkeypatch):
    (stage,) = stages_of(*WORDS, f"runs_dir={tmp_path}")
    run.prepare(stage, afresh=False)
    monkeypatch.setattr("qwen_align.method.policy.load", lambda _: pytest.fail("no policy is needed"))
    assert worker.run_stage(stage.folder) == 0
    metrics = run_folder.read_json(stage.folder / "metrics.json")
    assert metrics["answers"]["asked"] == 36
    assert metrics["answers"]["dropped"].keys() <= {"duplicate"}
    assert metrics["solved"]["mean"] == 1.0
    assert len(run_folder.read_jsonl(stage.folder / "demonstrations.jsonl")) == metrics["answers"]["kept"]


def test_a_local_policy_can_teach(tmp_path, stages_of):
    words = [word for word in WORDS if not word.startswith("generator")]
    sizes = [
        "model.hidden_size=16",
        "model.num_hidden_layers=1",
        "model.intermediate_size=16",
        "max_completion_length=4",
    ]
    (stage,) = stages_of(*words, *sizes, f"runs_dir={tmp_path}")
    run.prepare(stage, afresh=False)
    assert worker.run_stage(stage.folder) == 0
    metrics = run_folder.read_json(stage.folder / "metrics.json")
    assert metrics["teacher"] == {"generator": "transformers", "policy": "base"}
    assert metrics["answers"]["asked"] == 36
    assert metrics["tokens"]["completion"] > 0


def test_a_teacher_that_is_not_there_is_one_line_and_the_run_can_go_on(tmp_path, stages_of, capsys):
    words = [word for word in WORDS if not word.startswith("generator")]
    openai = ["generator=openai", "generator.base_url=http://127.0.0.1:9/v1", "generator.api_key_env=null"]
    (stage,) = stages_of(*words, *openai, "generator.retries=0", f"runs_dir={tmp_path}")
    run.prepare(stage, afresh=False)
    assert worker.run_stage(stage.folder) == USER_ERROR
    assert (
        "generator.base_url=http://127.0.0.1:9/v1: no answer"
        in run_folder.read_json(stage.folder / "run.json")["error"]
    )
    assert "Traceback" not in capsys.readouterr().err
