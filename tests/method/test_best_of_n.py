"""Best-of-N: who chooses, when sampling stops, what survives a kill and what is left to train on."""

import json

import pytest
import sampling
from sampling import SCRIPTS, Script, job, policy, puzzle
from tiny import TINY
from trained import finished

from qwen_align import run_folder
from qwen_align.data.local import Local
from qwen_align.errors import ConfigError
from qwen_align.generator.transformers import Transformers
from qwen_align.method import best_of_n
from qwen_align.metric import interval
from qwen_align.metric.difference import Difference
from qwen_align.stage import run, worker

TINY_POOL = (*TINY, "init=base", "method.problems=20")


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """measured(script, data, **settings): the metrics of a best-of-4 in tmp_path."""
    monkeypatch.setattr(best_of_n.policy, "load", lambda job: policy())
    monkeypatch.setattr(best_of_n.policy, "to_device", lambda weights, job: weights)
    monkeypatch.setattr(best_of_n.model, "from_run", lambda folder: policy())

    def call(script, data=None, lineage=(), **changes):
        monkeypatch.setattr(sampling, "SOURCE", script)
        settings = {"select": "verifier", "early_stop": False, "ancestors": True} | changes
        return best_of_n.best_of_n(job("best_of_n", lineage=lineage, **settings), data or puzzle(), tmp_path)

    return call


def means(metrics):
    return {k: v.mean for k, v in metrics["policies"]["policy"].items() if isinstance(v, interval.Interval)}


def longest(completions, answer):
    """A reward that reads a column."""
    assert len(completions) == len(answer)
    return [float(len(completion[-1]["content"])) for completion in completions]


LONGEST = {"_target_": f"{__name__}.longest"}


def test_the_full_pool_keeps_the_metrics_that_a_report_knows(measured):
    found = measured(Script(SCRIPTS))
    policy = found["policies"]["policy"]
    curve = {f"pass@{k}" for k in (1, 2, 4)} | {f"best_of_{k}" for k in (1, 2, 4)}
    assert curve | {"n", "samples", "greedy", "wellformed", "mean_tokens", "truncated", "tokens"} <= policy.keys()
    assert [policy[f"best_of_{n}"].mean for n in (1, 2, 4)] == pytest.approx([0, 2 / 3, 2 / 3])
    assert (found["headline"]["name"], found["headline"]["policy"]) == ("best_of_4", None)


def test_samples_are_those_of_method_evaluate(tmp_path, stages_of):
    lines = []
    for method in ("evaluate", "best_of_n"):
        (stage,) = stages_of(*TINY_POOL, f"method={method}", "method.samples=4", f"runs_dir={tmp_path}")
        lines.append(run_folder.read_jsonl(finished(stage) / "samples.jsonl"))
    assert lines[0] == lines[1]


def test_majority_takes_the_first_with_the_commonest_answer(measured):
    found = measured(Script(SCRIPTS), select="majority")
    assert found["headline"]["name"] == "majority@4"
    assert means(found)["majority@4"] == pytest.approx(1 / 3), "q is right, p is outvoted"
    assert means(found)["best_of_4"] == pytest.approx(2 / 3)


def test_reward_takes_the_highest_score_and_the_verifier_judges_it(measured):
    data = puzzle({"p": "b", "q": "ccc", "r": "z"})
    found = means(measured(Script(SCRIPTS), data, select="reward", reward=LONGEST))
    assert [found[f"reward@{n}"] for n in (1, 2, 4)] == pytest.approx([1 / 3, 1 / 3, 2 / 3])


def test_a_reward_that_needs_another_column_is_refused_before_sampling(measured):
    script, reward = Script(SCRIPTS), {"_target_": "qwen_align.reward.verifier.VerifierReward", "verifier": "countdown"}
    with pytest.raises(ConfigError, match=r"needs the column nums; the data has prompt, answer"):
        measured(script, select="reward", reward=reward)
    assert script.asked == 0


def test_data_without_a_verifier_are_refused(measured):
    with pytest.raises(ConfigError, match=r"data\.verifier=null: Puzzle has no verifier, which method=best_of_n needs"):
        measured(Script(SCRIPTS), puzzle(verifier=None))


def test_ancestors_answer_the_same_problems_and_every_pair_is_compared(measured):
    script = Script({name: texts * 3 for name, texts in SCRIPTS.items()})
    found = measured(script, lineage=("sft", "sft", "rloo"))
    assert list(found["policies"]) == ["sft", "sft_2", "rloo"]
    pairs = [(one.before, one.after) for one in found["differences"]]
    assert pairs == [("sft", "sft_2"), ("sft", "rloo"), ("sft_2", "rloo")]
    assert all(isinstance(one, Difference) for one in found["differences"])
    assert found["differences"][0].metrics["best_of_4"] == interval.Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize("changes", [{"ancestors": False}, {"view": "prompts"}])
def test_ancestors_are_only_measured_where_they_are_asked_for(measured, changes):
    assert list(measured(Script(SCRIPTS), lineage=("sft", "rloo"), **changes)["policies"]) == ["rloo"]


def test_a_problem_leaves_once_the_verifier_accepts(measured, tmp_path):
    script = Script(SCRIPTS)
    found = measured(script, early_stop=True)
    assert script.waves == [(3, 1), (3, 1), (3, 1), (1, 2)], "greedy, then waves of 1, 1, 2"
    policy = found["policies"]["policy"]
    assert [policy[f"best_of_{n}"].mean for n in (1, 2, 4)] == pytest.approx([0, 2 / 3, 2 / 3])
    assert not any(key.startswith("pass@") for key in policy)
    assert [len(line["samples"]) for line in run_folder.read_jsonl(tmp_path / "samples.jsonl")] == [2, 2, 4]


def test_early_stop_finds_what_the_full_pool_finds(measured, tmp_path):
    full = means(measured(Script(SCRIPTS)))
    (tmp_path / "completions.jsonl").unlink()
    early = means(measured(Script(SCRIPTS), early_stop=True))
    assert {k: v for k, v in early.items() if "best" in k} == {k: v for k, v in full.items() if "best" in k}


def test_tokens_stand_beside_what_the_full_pool_would_have_taken(measured):
    policy = measured(Script(SCRIPTS), early_stop=True)["policies"]["policy"]
    assert policy["tokens"] == (1 + 1) + (2 + 1) + 4
    assert policy["tokens_without_stop"] == 4 * (1 + 2 + 1), "four times each first sample"
    ratio = policy["token_ratio"]
    assert ratio.mean == pytest.approx(9 / 16)
    assert ratio.low <= ratio.mean <= ratio.high


def test_every_wave_draws_from_a_seed_of_its_own(measured):
    script = Script(SCRIPTS)
    measured(script, early_stop=True)
    assert len(set(script.seeds[1:])) == 3


def test_finished_prompts_survive_a_kill_and_are_not_sampled_again(measured, tmp_path):
    killed = Script(SCRIPTS, stop_after=5)  # three greedy ones and two of the pools
    with pytest.raises(KeyboardInterrupt):
        measured(killed)
    with (tmp_path / "completions.jsonl").open("a") as file:
        file.write('{"policy": "policy", "wa')  # a line torn by the kill
    resumed = Script(SCRIPTS)
    found = measured(resumed)
    assert resumed.waves == [(1, 4)]
    assert "sampling_seconds" not in found["policies"]["policy"]
    assert [len(line["samples"]) for line in run_folder.read_jsonl(tmp_path / "samples.jsonl")] == [4, 4, 4]
    assert len(run_folder.read_jsonl(tmp_path / "completions.jsonl")) == 6


def test_killed_between_waves_it_ends_as_if_nothing_had_happened(tmp_path, stages_of, monkeypatch):
    stream, calls = Transformers.stream, []

    def stops_before_the_third(self, prompts, sampling, title, policy=None):
        calls.append(title)
        if len(calls) == 4:
            raise RuntimeError("killed")
        yield from stream(self, prompts, sampling, title, policy)

    def stage_in(runs):
        (stage,) = stages_of(*TINY_POOL, "method=best_of_n", "method.samples=8", "method.early_stop=true", f"runs_dir={runs}")
        return stage

    undisturbed = finished(stage_in(tmp_path / "one"))
    stage = stage_in(tmp_path / "two")
    with monkeypatch.context() as patch:
        patch.setattr(Transformers, "stream", stops_before_the_third)
        run.prepare(stage, afresh=False)
        assert worker.run_stage(stage.folder) == 1
    samples = [(folder / "samples.jsonl").read_text() for folder in (undisturbed, finished(stage))]
    assert samples[0] == samples[1]


def test_winners_and_pairs_of_training_problems_are_exported(measured, tmp_path, capsys):
    measured(Script(SCRIPTS), view="prompts")
    assert "2 winners in demonstrations.jsonl, 2 pairs in preferences.jsonl, of 3 problems" in capsys.readouterr().out
    assert [line["greedy"] for line in run_folder.read_jsonl(tmp_path / "samples.jsonl")] == [None] * 3


def test_nothing_is_exported_from_the_evaluation_view(measured, tmp_path):
    measured(Script(SCRIPTS))
    assert not (tmp_path / "demonstrations.jsonl").exists()
    assert not (tmp_path / "preferences.jsonl").exists()


def test_exports_are_views_of_data_local(measured, tmp_path):
    measured(Script(SCRIPTS), view="prompts")
    demonstrations, preferences = (str(tmp_path / f"{name}.jsonl") for name in ("demonstrations", "preferences"))
    data = Local(demonstrations_path=demonstrations, preferences_path=preferences)
    assert data.demonstrations()[0]["completion"] == [{"role": "assistant", "content": "a"}]
    assert {"prompt", "chosen", "rejected"} <= set(data.preferences().column_names)


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
    model = [override for override in TINY if override.startswith("model.")]
    (stage,) = stages_of(
        "model=countdown_tiny",
        *model,
        "hardware=cpu",
        "method=sft",
        "data=local",
        f"data.demonstrations_path={winners}",
        "method.batch_size=8",
        f"runs_dir={tmp_path}",
        "method.args.max_length=64",
        "max_completion_length=28",
        "method.args.activation_checkpointing=false",
    )
    metrics = run_folder.read_json(finished(stage) / "metrics.json")
    assert metrics["train"]["steps"] == 2
    assert "evaluation" not in metrics, "the file has no held-out problems"


def test_a_verifiers_fingerprint_does_not_know_the_reward(stages_of):
    overrides = ("data=countdown", "method=best_of_n", "init=base", "reward.correct=2.0")
    plain, other = stages_of(*overrides[:3])[-1], stages_of(*overrides)[-1]
    assert plain.fingerprint == other.fingerprint
    scored = stages_of(*overrides, "method.select=reward")[-1]
    assert scored.config["method"]["reward"]["correct"] == 2.0
    assert stages_of(*overrides[:3], "method.select=reward")[-1].fingerprint != scored.fingerprint


def test_intervals_hold_their_means(measured):
    policy = measured(Script(SCRIPTS), early_stop=True)["policies"]["policy"]
    assert policy["best_of_4"] == interval.share([True, True, False])


def test_full_pools_are_written_for_others_to_score(measured, tmp_path):
    measured(Script(SCRIPTS))
    lines = [json.loads(line) for line in (tmp_path / "eval-policy.json").read_text().splitlines()]
    assert [line["response"] for line in lines] == list(SCRIPTS.values())
    assert lines[0]["scores"] == [0.1, 1.0, 0.1, 0.0]
    assert all(line["greedy"] == "wrong" for line in lines)


@pytest.mark.parametrize("changes", [{"early_stop": True}, {"view": "prompts"}])
def test_pools_that_are_no_measurement_are_not(measured, tmp_path, changes):
    measured(Script(SCRIPTS), **changes)
    assert not list(tmp_path.glob("eval*.json"))
