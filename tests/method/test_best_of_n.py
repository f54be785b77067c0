"""Best-of-N: who chooses, when sampling stops, what survives a kill and what is left to train on."""

import json
from types import SimpleNamespace

import pytest
from datasets import Dataset
from tiny import TINY

from qwen_align.data.local import Local
from qwen_align.errors import ConfigError
from qwen_align.generator import Completion
from qwen_align.generator.transformers import Transformers
from qwen_align.method import best_of_n, select
from qwen_align.method.draw import Draws, waves
from qwen_align.metric import interval
from qwen_align.stage import run, run_folder, worker


class Script:
    """A generator that answers prompt i with the next completions of its own script."""

    needs_policy = True

    def __init__(self, scripts, stop_after=None):
        self.scripts, self.given, self.stop_after = scripts, {}, stop_after
        self.asked, self.seeds, self.waves = 0, [], []

    def stream(self, prompts, *, n, temperature, max_completion_length, seed, title, policy=None, top_p=1.0, top_k=0):
        self.seeds.append(seed)
        self.waves.append((len(prompts), n))
        for position, prompt in enumerate(prompts):
            if self.asked == self.stop_after:
                raise KeyboardInterrupt
            self.asked += 1
            name = prompt[0]["content"]
            if not temperature:
                yield position, [Completion("wrong", 1, True)] * n
                continue
            begin = self.given.get(name, 0)
            self.given[name] = begin + n
            texts = self.scripts[name][begin : begin + n]
            yield position, [Completion(text, len(text), True) for text in texts]


class Puzzle:
    """Completions that are the answer are correct; x is malformed."""

    def __init__(self, answers):
        self.rows = [{"prompt": [{"role": "user", "content": name}], "answer": a} for name, a in answers.items()]

    def evaluation(self):
        return Dataset.from_list(self.rows)

    prompts = evaluation

    def verify(self, completion, row):
        return "correct" if completion == row["answer"] else "malformed" if completion == "x" else "wellformed_wrong"

    def answer(self, completion):
        return None if completion == "x" else completion


class Longest:
    """A reward for the longest completion."""

    name, weight, needs = "longest", 1.0, ("answer",)

    def score(self, prompts, completions, **columns):
        assert len(prompts) == len(completions) == len(columns["answer"])
        return [float(len(c)) for c in completions]


SCRIPTS = {"p": ["b", "a", "b", "x"], "q": ["cc", "d", "d", "ccc"], "r": ["x", "x", "x", "x"]}
ANSWERS = {"p": "a", "q": "d", "r": "z"}


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """compare(script, data, **settings): the metrics of a best-of-4 in tmp_path."""
    policy = SimpleNamespace(to=lambda *_: None)
    monkeypatch.setattr(best_of_n.policy, "load", lambda config: (policy, None))
    monkeypatch.setattr(best_of_n.policy, "to_device", lambda weights, config: weights)
    monkeypatch.setattr(best_of_n.audit, "stops", lambda label, loaded, limit: best_of_n.audit.Stops(label, limit))

    def call(script, data=None, **changes):
        monkeypatch.setattr(best_of_n, "source_of", lambda config: script)
        settings = {
            "view": "evaluation", "problems": 3, "samples": 4, "temperature": 1.0, "top_p": 1.0, "top_k": 0,
            "select": "verifier", "reward": None, "early_stop": False, "ancestors": True,
        }  # fmt: skip
        config = {"method": settings | changes, "seed": 0, "max_completion_length": 8}
        return best_of_n.compare(config, data or Puzzle(ANSWERS), tmp_path)

    return call


def means(metrics):
    return {k: v["mean"] for k, v in metrics["policies"]["policy"].items() if isinstance(v, dict) and "mean" in v}


@pytest.mark.parametrize("samples", [1, 2, 3, 7, 16, 20])
def test_waves_sum_to_the_samples(samples):
    assert sum(waves(samples)) == samples
    assert waves(16) == [1, 1, 2, 4, 8]


@pytest.mark.parametrize("needed", range(1, 17))
def test_waves_draw_less_than_twice_what_one_at_a_time_would(needed):
    drawn = next(d for i in range(5) if (d := sum(waves(16)[: i + 1])) >= needed)
    assert drawn < 2 * needed


def test_the_full_pool_keeps_the_metrics_that_a_report_knows(compare):
    found = compare(Script(SCRIPTS))
    policy = found["policies"]["policy"]
    curve = {f"pass@{k}" for k in (1, 2, 4)} | {f"best_of_{k}" for k in (1, 2, 4)}
    assert curve | {"n", "samples", "greedy", "wellformed", "mean_tokens", "truncated", "tokens"} <= policy.keys()
    assert [policy[f"best_of_{n}"]["mean"] for n in (1, 2, 4)] == pytest.approx([0, 2 / 3, 2 / 3])
    assert found["headline"]["name"] == "best_of_4"


def test_samples_are_those_of_method_evaluate(tmp_path, stages_of):
    words = ("init=base", "method.problems=20", "method.samples=4", f"runs_dir={tmp_path}")
    lines = []
    for method in ("evaluate", "best_of_n"):
        (stage,) = stages_of(*TINY, f"method={method}", *words)
        run.prepare(stage, afresh=False)
        assert worker.run_stage(stage.folder) == 0
        lines.append(run_folder.read_jsonl(stage.folder / "samples.jsonl"))
    assert lines[0] == lines[1]


def test_majority_takes_the_first_with_the_commonest_answer(compare):
    found = compare(Script(SCRIPTS), select="majority")
    assert found["headline"]["name"] == "majority@4"
    assert means(found)["majority@4"] == pytest.approx(1 / 3), "q is right, p is outvoted"
    assert means(found)["best_of_4"] == pytest.approx(2 / 3)


def test_reward_takes_the_highest_score_and_the_verifier_judges_it(compare, monkeypatch):
    monkeypatch.setattr(best_of_n, "judges", lambda settings, data: [Longest()])
    data = Puzzle({"p": "b", "q": "ccc", "r": "z"})
    found = means(compare(Script(SCRIPTS), data, select="reward"))
    assert [found[f"reward@{n}"] for n in (1, 2, 4)] == pytest.approx([1 / 3, 1 / 3, 2 / 3])


def test_a_configured_reward_is_built_and_reads_the_columns(compare):
    reward = {"_target_": "qwen_align.reward.math.MathReward"}
    script = Script({"p": ["1", "2", "3", "4"], "q": ["5", "6", "7", "8"], "r": ["9", "9", "9", "9"]})
    found = means(compare(script, Puzzle({"p": "3", "q": "8", "r": "0"}), select="reward", reward=reward))
    assert found["reward@4"] == found["best_of_4"] == pytest.approx(2 / 3)


def test_a_reward_that_needs_another_column_is_a_users_mistake(compare):
    reward = {"_target_": "qwen_align.reward.countdown.CountdownReward"}
    with pytest.raises(ConfigError, match="reward=countdown: needs the column nums; the data has prompt, answer"):
        compare(Script(SCRIPTS), select="reward", reward=reward)


def test_none_of_a_reward_does_not_count():
    silent = SimpleNamespace(name="silent", weight=2.0, needs=(), score=lambda p, c, **_: [None, 1.0])
    one = SimpleNamespace(name="one", weight=0.5, needs=(), score=lambda p, c, **_: [1.0, 1.0])
    pools = [[Completion("a", 1, True), Completion("b", 1, True)]]
    assert select.weighted([silent, one], [{"prompt": []}], pools) == [[0.5, 2.5]]


@pytest.mark.parametrize(
    ("answers", "index"),
    [(["a", "b", "b"], 1), (["a", "b"], 0), ([None, None], 0), ([None, "b"], 1), (["a", None, None], 0)],
)
def test_commonest(answers, index):
    assert select.commonest(answers) == index


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"select": "verifyer"}, r"method\.select=verifyer: expected one of verifier.*did you mean verifier"),
        ({"select": "majority", "early_stop": True}, r"method\.early_stop=true: .*method\.select=majority needs all"),
        ({"view": "demonstrations"}, r"method\.view=demonstrations: expected evaluation"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(compare, changes, message):
    with pytest.raises(ConfigError, match=message):
        compare(Script(SCRIPTS), **changes)


def test_majority_without_answers_to_vote_on_is_refused(compare):
    data = Puzzle(ANSWERS)
    data.answer = None
    with pytest.raises(ConfigError, match=r"select=majority: Puzzle gives no answer"):
        compare(Script(SCRIPTS), data, select="majority")


def test_a_problem_leaves_once_the_verifier_accepts(compare, tmp_path):
    script = Script(SCRIPTS)
    found = compare(script, early_stop=True)
    assert script.waves == [(3, 1), (3, 1), (3, 1), (1, 2)], "greedy, then waves of 1, 1, 2"
    policy = found["policies"]["policy"]
    assert [policy[f"best_of_{n}"]["mean"] for n in (1, 2, 4)] == pytest.approx([0, 2 / 3, 2 / 3])
    assert not any(key.startswith("pass@") for key in policy)
    assert [len(line["samples"]) for line in run_folder.read_jsonl(tmp_path / "samples.jsonl")] == [2, 2, 4]


def test_early_stop_finds_what_the_full_pool_finds(compare, tmp_path):
    full = means(compare(Script(SCRIPTS)))
    (tmp_path / "completions.jsonl").unlink()
    early = means(compare(Script(SCRIPTS), early_stop=True))
    assert {k: v for k, v in early.items() if "best" in k} == {k: v for k, v in full.items() if "best" in k}


def test_tokens_are_told_beside_what_the_full_pool_would_have_taken(compare):
    policy = compare(Script(SCRIPTS), early_stop=True)["policies"]["policy"]
    assert policy["tokens"] == (1 + 1) + (2 + 1) + 4
    assert policy["tokens_without_stop"] == 4 * (1 + 2 + 1), "four times each first sample"
    ratio = policy["token_ratio"]
    assert ratio["mean"] == pytest.approx(9 / 16)
    assert ratio["low"] <= ratio["mean"] <= ratio["high"]


def test_every_wave_draws_from_a_seed_of_its_own(compare):
    script = Script(SCRIPTS)
    compare(script, early_stop=True)
    assert len(set(script.seeds[1:])) == 3


def test_finished_prompts_survive_a_kill_and_are_not_sampled_again(compare, tmp_path):
    killed = Script(SCRIPTS, stop_after=5)  # three greedy ones and two of the pools
    with pytest.raises(KeyboardInterrupt):
        compare(killed)
    with (tmp_path / "completions.jsonl").open("a") as file:
        file.write('{"policy": "policy", "wa')  # a line torn by the kill
    resumed = Script(SCRIPTS)
    found = compare(resumed)
    assert resumed.waves == [(1, 4)]
    assert resumed.seeds != [0], "the finished prompts' random numbers are not handed out again"
    assert "sampling_seconds" not in found["policies"]["policy"]
    assert [len(line["samples"]) for line in run_folder.read_jsonl(tmp_path / "samples.jsonl")] == [4, 4, 4]
    assert len(run_folder.read_jsonl(tmp_path / "completions.jsonl")) == 6


def test_killed_between_waves_it_ends_as_if_nothing_had_happened(tmp_path, stages_of, monkeypatch):
    words = (*TINY, "init=base", "method.problems=20", "method.samples=8", "method.early_stop=true")

    def finished(runs):
        (stage,) = stages_of(*words, f"runs_dir={runs}")
        run.prepare(stage, afresh=False)
        return stage, worker.run_stage(stage.folder)

    undisturbed, code = finished(tmp_path / "one")
    assert code == 0
    stream, calls = Transformers.stream, []

    def stops_before_the_third(self, prompts, **settings):
        calls.append(settings["title"])
        if len(calls) == 4:
            raise RuntimeError("killed")
        yield from stream(self, prompts, **settings)

    monkeypatch.setattr(Transformers, "stream", stops_before_the_third)
    assert finished(tmp_path / "two")[1] == 1
    monkeypatch.setattr(Transformers, "stream", stream)
    resumed, code = finished(tmp_path / "two")
    assert code == 0
    told = [(stage.folder / "samples.jsonl").read_text() for stage in (undisturbed, resumed)]
    assert told[0] == told[1]


def test_winners_and_pairs_of_training_problems_are_exported(compare, tmp_path):
    compare(Script(SCRIPTS), view="prompts")
    demonstrations = run_folder.read_jsonl(tmp_path / "demonstrations.jsonl")
    assert [row["completion"][0]["content"] for row in demonstrations] == ["a", "d"]
    pairs = run_folder.read_jsonl(tmp_path / "preferences.jsonl")
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in pairs] == [("a", "b"), ("d", "cc")]
    assert demonstrations[0]["answer"] == "a"
    assert [line["greedy"] for line in run_folder.read_jsonl(tmp_path / "samples.jsonl")] == [None] * 3


def test_a_problem_that_is_always_right_gives_no_pair(compare, tmp_path):
    compare(Script({"p": ["a"] * 4, "q": ["d"] * 4, "r": ["x"] * 4}), view="prompts")
    assert len(run_folder.read_jsonl(tmp_path / "demonstrations.jsonl")) == 2
    assert run_folder.read_jsonl(tmp_path / "preferences.jsonl") == []


def test_the_reward_picks_the_best_winner_and_the_worst_loser(tmp_path):
    pools = [[Completion(text, 1, True) for text in ("a", "a1", "b", "b1")]]
    verdicts = [["correct", "correct", "wellformed_wrong", "wellformed_wrong"]]
    select.export(tmp_path, [{"prompt": []}], pools, verdicts, [[0.1, 0.9, 0.5, -1.0]], "reward")
    (pair,) = run_folder.read_jsonl(tmp_path / "preferences.jsonl")
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("a1", "b1")


def test_nothing_is_exported_from_the_evaluation_view(compare, tmp_path):
    compare(Script(SCRIPTS))
    assert not (tmp_path / "demonstrations.jsonl").exists()
    assert not (tmp_path / "preferences.jsonl").exists()


def test_exports_are_views_of_data_local(compare, tmp_path):
    compare(Script(SCRIPTS), view="prompts")
    data = Local(
        demonstrations_path=str(tmp_path / "demonstrations.jsonl"),
        preferences_path=str(tmp_path / "preferences.jsonl"),
        prompts_path=str(tmp_path / "demonstrations.jsonl"),
        verifier="math",
    )
    assert data.demonstrations()[0]["completion"] == [{"role": "assistant", "content": "a"}]
    assert data.preferences().column_names == ["prompt", "chosen", "rejected", "answer"]
    assert data.prompts().column_names == ["prompt", "answer"]


def test_winners_of_a_policy_train_it_through_data_local(tmp_path, stages_of):
    winners = tmp_path / "winners.jsonl"
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Numbers {n} 2 3 target {n + 5}"}],
            "completion": [{"role": "assistant", "content": f"<answer>{n} + 2 + 3</answer>"}],
        }
        for n in range(1, 17)
    ]
    winners.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = [word for word in TINY if word.startswith("model.")]
    (stage,) = stages_of(
        "model=countdown_tiny", *model, "hardware=cpu", "method=sft", "data=local",
        f"data.demonstrations_path={winners}", "method.batch_size=8", f"runs_dir={tmp_path}",
        "method.args.max_length=64", "max_completion_length=28", "method.args.activation_checkpointing=false",
    )  # fmt: skip
    run.prepare(stage, afresh=False)
    assert worker.run_stage(stage.folder) == 0
    metrics = run_folder.read_json(stage.folder / "metrics.json")
    assert metrics["train"]["steps"] == 2
    assert "evaluation" not in metrics, "the file has no held-out problems"


def test_a_verifiers_fingerprint_does_not_know_the_reward(stages_of):
    words = ("data=countdown", "method=best_of_n", "init=base", "reward.correct=2.0")
    plain, other = stages_of(*words[:3])[-1], stages_of(*words)[-1]
    assert plain.fingerprint == other.fingerprint
    scored = stages_of(*words, "method.select=reward")[-1]
    assert scored.config["method"]["reward"]["correct"] == 2.0
    assert stages_of(*words[:3], "method.select=reward")[-1].fingerprint != scored.fingerprint


def test_a_torn_file_of_draws_is_made_whole(tmp_path):
    path = tmp_path / "completions.jsonl"
    line = {"policy": "a", "wave": "greedy", "problem": 0, "completions": [["t", 1, True]]}
    path.write_text(json.dumps(line) + "\n" + '{"policy": "a"')
    assert Draws(path).known == {("a", "greedy", 0): [Completion("t", 1, True)]}
    assert path.read_text() == json.dumps(line) + "\n"


def test_intervals_hold_their_means(compare):
    policy = compare(Script(SCRIPTS), early_stop=True)["policies"]["policy"]
    assert policy["best_of_4"] == interval.share([True, True, False])


def test_full_pools_are_written_for_others_to_score(compare, tmp_path):
    compare(Script(SCRIPTS))
    lines = [json.loads(line) for line in (tmp_path / "eval-policy.json").read_text().splitlines()]
    assert [line["response"] for line in lines] == list(SCRIPTS.values())
    assert lines[0]["scores"] == [0.1, 1.0, 0.1, 0.0]
    assert all(line["greedy"] == "wrong" for line in lines)


@pytest.mark.parametrize("changes", [{"early_stop": True}, {"view": "prompts"}])
def test_pools_that_are_no_measurement_are_not(compare, tmp_path, changes):
    compare(Script(SCRIPTS), **changes)
    assert not list(tmp_path.glob("eval*.json"))
