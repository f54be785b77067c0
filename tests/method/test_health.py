"""What a run says of itself in plain words, and that looking at it changes nothing."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tiny import TINY
from transformers import TrainerState

from qwen_align.errors import ConfigError
from qwen_align.method import health
from qwen_align.stage import run, run_folder, worker

ARGS = {"max_completion_length": 28, "num_generations": 8, "temperature": 1.0, "beta": 0.05, "learning_rate": 1e-6}


def lines(n=5, **numbers):
    """n logged lines with these numbers; a list gives one a line."""
    return [
        {"step": i + 1} | {key: value[i] if isinstance(value, list) else value for key, value in numbers.items()}
        for i in range(n)
    ]


def found(kind, logged):
    return health.of_rloo(ARGS)[kind](logged)


def test_cut_completions_are_named_with_their_share_and_the_key():
    text = found("completions_cut", lines(**{"completions/clipped_ratio": [0.1, 0.2, 0.3, 0.2, 0.3]}))
    assert text.startswith("22% of the completions are cut at max_completion_length=28")


def test_a_few_cut_completions_are_no_warning():
    assert found("completions_cut", lines(**{"completions/clipped_ratio": [0.0, 0.4, 0.0, 0.0, 0.0]})) is None


def test_a_policy_that_only_the_limit_ends_never_learned_to_stop():
    text = found("completions_cut", lines(**{"completions/clipped_ratio": 1.0}))
    assert text.startswith(
        "no completion of the last 5 logged steps ends by a stop token: the policy never learned to stop"
    )


def test_several_answers_are_named_with_their_share():
    text = found("several_answers", lines(**{"completions/several_answers": [0.1, 0.2, 0.3, 0.2, 0.3]}))
    assert text.startswith("22% of the completions hold several answers")
    assert found("several_answers", lines(**{"completions/several_answers": 0.1})) is None
    assert found("several_answers", lines(**{"completions/clipped_ratio": 0.0})) is None, "data without that notion"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"num_generations": 8, "max_completion_length": 4}, "warning: RLOO trains on completions of up to "),
        ({"num_generations": 8, "max_completion_length": 8}, ""),
        ({"max_length": 4}, ""),
    ],
    ids=["another limit", "the same", "no sampling"],
)
def test_a_run_that_ends_completions_otherwise_says_so_before_its_first_step(args, told, capsys):
    watch = health.HeldOut(config(None), Judged(), print)
    watch.on_train_begin(SimpleNamespace(**args), TrainerState(global_step=0), None)
    out = capsys.readouterr().out
    assert out.startswith(told) if told else out == ""


def test_groups_without_variance_are_named_with_the_keys_that_help():
    text = found("groups_without_variance", lines(groups_without_variance=0.75))
    assert "in 75% of the groups all 8 completions have the same reward" in text
    assert "method.args.num_generations or method.args.temperature=1" in text
    assert found("groups_without_variance", lines(groups_without_variance=0.4)) is None


def test_kl_is_judged_over_whole_completions():
    logged = lines(**{"kl": 0.05, "completions/mean_length": 300.0})
    assert "15.0 nats a completion" in found("kl", logged)
    assert "method.args.beta=0.05 or lower method.args.learning_rate=1e-06" in found("kl", logged)
    assert found("kl", lines(**{"kl": 0.05, "completions/mean_length": 28.0})) is None


def test_without_a_reference_no_kl_is_known():
    assert found("kl", lines(**{"completions/mean_length": 300.0})) is None


def test_nothing_is_said_before_there_are_enough_lines():
    assert found("groups_without_variance", lines(4, groups_without_variance=1.0)) is None


def held_out(values, error=0.05, rising=True):
    """Lines whose reward rises, or falls, with a held-out number every fifth."""
    logged = lines(5 * len(values), reward=[(i if rising else -i) / 100 for i in range(5 * len(values))])
    for i, value in enumerate(values):
        logged[5 * i + 4] |= {"held_out": value, "held_out_error": error}
    return logged


def test_a_reward_that_rises_while_the_judge_falls_is_named():
    text = found("reward_against_judge", held_out([0.5, 0.7, 0.6, 0.55]))
    assert "since step 10" in text
    assert "fallen from 0.7 to 0.55 (standard error 0.05)" in text


@pytest.mark.parametrize(
    "logged",
    [
        held_out([0.5, 0.7, 0.62]),  # within two standard errors of the best
        held_out([0.5, 0.7, 0.4], error=0.2),
        held_out([0.5, 0.7, 0.4], rising=False),
        held_out([0.7, 0.3, 0.7]),
        held_out([0.7]),
        held_out([0.7, 0.3])[:-1] + lines(1, reward=9.0),  # said when it is measured, not later
    ],
    ids=["noise", "large error", "the reward falls too", "recovered", "one look", "no new look"],
)
def test_a_judge_that_falls_within_noise_or_with_the_reward_is_no_warning(logged):
    assert found("reward_against_judge", logged) is None


def test_a_judge_that_only_falls_is_compared_with_the_first_look():
    logged = lines(10, reward=[i / 100 for i in range(10)])
    logged[0] |= {"held_out": 0.8, "held_out_error": 0.05}
    logged[9] |= {"held_out": 0.5, "held_out_error": 0.05}
    assert "since step 1," in found("reward_against_judge", logged)


def test_chosen_answers_that_become_less_likely_are_named_in_nats():
    check = health.of_dpo({"beta": 0.1})["chosen_falls"]
    falling = {"rewards/chosen": -0.8, "logps/chosen": -48.0, "rewards/margins": [0.0, 0.5, 1.0, 1.0, 1.0]}
    text = check(lines(**falling))
    assert "by 8.0 nats each (logps/chosen), while the margins grow (0 to 0.7)" in text
    assert check(lines(**falling | {"rewards/margins": 0.0})) is None
    assert check(lines(**falling | {"rewards/chosen": 0.8})) is None


def test_how_far_chosen_answers_may_fall_depends_on_their_length():
    check = health.of_dpo({"beta": 0.1})["chosen_falls"]
    long, short = (
        {"rewards/chosen": -0.1, "logps/chosen": logp, "rewards/margins": [0, 1, 1, 1, 1]} for logp in (-90, -9)
    )
    assert check(lines(**long)) is None
    assert "by 1.0 nats each" in check(lines(**short))


def test_a_kind_is_repeated_only_after_a_pause(tmp_path):
    watch = health.Health(tmp_path, {"always": lambda _: "as ever"}, pause=3)
    assert [bool(watch.see({"step": step})) for step in range(1, 8)] == [True, False, False, True, False, False, True]
    assert watch.warnings[1] == {"step": 4, "kind": "always", "text": "as ever"}


def test_without_a_pause_a_kind_is_said_once(tmp_path):
    watch = health.Health(tmp_path, {"always": lambda _: "as ever"}, pause=None)
    assert sum(bool(watch.see({"step": step})) for step in range(500)) == 1


def test_a_resumed_run_warns_as_an_uninterrupted_one(tmp_path, capsys):
    logged = held_out([0.5, 0.7, 0.6, 0.55, 0.5])
    whole, resumed = (health.Health(tmp_path, health.of_rloo(ARGS), pause=3) for _ in range(2))
    for line in logged:
        whole.see(line)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    state = TrainerState(global_step=12)
    resumed.on_train_begin(None, state, None)
    assert capsys.readouterr().out == ""
    for line in logged[12:]:
        state.global_step = line["step"]
        resumed.on_log(None, state, None, logs={key: value for key, value in line.items() if key != "step"})
    assert resumed.warnings == whole.warnings
    assert len(whole.warnings) == 2
    assert "warning at step 20: the reward has risen" in capsys.readouterr().out


class Judged:
    """A data set with an exact judge of its own."""

    def __init__(self, n=100):
        self.n = n

    def evaluation(self):
        return Dataset.from_list([{"prompt": [{"role": "user", "content": str(i)}], "id": i} for i in range(self.n)])

    def judge(self, completion, row):
        return 0.25

    def verify(self, completion, row):
        return "correct"


def config(every=25):
    return {"method": {"held_out_every": every}, "max_completion_length": 8, "seed": 0}


def test_the_judge_comes_before_the_verifier():
    data = Judged()
    assert health.judge_of(data)("", {}) == 0.25
    data.judge = None
    assert health.judge_of(data)("", {}) == 1.0
    assert health.judge_of(object()) is None


def test_held_out_prompts_are_the_last_ones_of_the_evaluation_view():
    assert [row["id"] for row in health.HeldOut(config(), Judged(), print).rows] == list(range(36, 100))
    assert len(health.HeldOut(config(), Judged(3), print).rows) == 3


@pytest.mark.parametrize(("every", "data"), [(None, Judged()), (25, object())], ids=["off", "no judge"])
def test_nothing_is_measured_where_it_is_off_or_there_is_no_judge(every, data):
    assert health.HeldOut(config(every), data, print).rows == []


@pytest.mark.parametrize("every", [0, -1, 2.5, True])
def test_a_number_of_steps_that_is_none_is_refused(every):
    with pytest.raises(ConfigError, match=f"method.held_out_every={every}: expected a whole number of steps"):
        health.HeldOut(config(every), Judged(), print)


def test_random_numbers_and_modes_stay_as_they_were():
    policy = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(1, 1).eval()).train()
    policy[1].eval()

    def drawn():
        return random.random(), np.random.random(), torch.rand(1).item()

    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    expected = drawn()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    with health.undisturbed(policy):
        drawn()
        torch.manual_seed(0)
        policy.eval()
    assert drawn() == expected
    assert [module.training for module in policy.modules()] == [True, True, False]


class Length:
    """A reward that differs between the completions of any policy."""

    name, weight, needs = "length", 1.0, ()

    def score(self, prompts, completions, **columns):
        return [len(completion) / 100 for completion in completions]


@pytest.mark.parametrize("more", [(), ("adapter=lora",)], ids=["full", "lora"])
def test_looking_at_held_out_prompts_changes_no_weight(tmp_path, stages_of, more):
    weights, logged = [], []
    for every in ("1", "null"):
        words = [*TINY, *more, f"runs_dir={tmp_path}/{every}", "method=rloo", "init=base"]
        stage = stages_of(*words, f"method.held_out_every={every}")[-1]
        stage.config["method"]["reward"] = {"_target_": f"{__name__}.Length"}
        run.prepare(stage, afresh=False)
        assert worker.run_stage(stage.folder) == 0
        weights.append(load_file(stage.folder / "model" / "model.safetensors"))
        logged.append(run_folder.read_jsonl(stage.folder / "metrics.jsonl"))
    (looked, not_looked), lines = weights, logged[0][:-1]
    assert all(looked[name].equal(not_looked[name]) for name in looked)
    assert [line["reward"] for line in lines] == [line["reward"] for line in logged[1][:-1]]
    assert all(line["grad_norm"] > 0 for line in lines), "or nothing would have been learned in either run"
    assert all({"held_out", "held_out_error", "held_out_seconds"} <= line.keys() for line in lines)
    assert not [line for line in logged[1] if "held_out" in line]
