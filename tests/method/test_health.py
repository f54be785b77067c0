"""Rules about logged numbers: when each speaks, and with which number and key."""

from types import SimpleNamespace

import pytest

from qwen_align.method import health

ARGS = SimpleNamespace(max_completion_length=28, num_generations=8, temperature=1.0, beta=0.05, learning_rate=1e-6)


def lines(n=5, **numbers):
    """n logged lines with these numbers; a list gives one a line."""
    return [
        {"step": i + 1} | {key: value[i] if isinstance(value, list) else value for key, value in numbers.items()}
        for i in range(n)
    ]


def found(kind, logged):
    return health.load([kind])[kind](logged, ARGS)


def test_cut_completions_are_named_with_their_share_and_the_key():
    text = found("completions_cut", lines(**{"completions/clipped_ratio": [0.1, 0.2, 0.3, 0.2, 0.3]}))
    assert text.startswith("22% of the completions are cut at max_completion_length=28")


def test_a_few_cut_completions_are_no_warning():
    assert found("completions_cut", lines(**{"completions/clipped_ratio": [0.0, 0.4, 0.0, 0.0, 0.0]})) is None


def test_a_policy_that_only_the_limit_ends_never_learned_to_stop():
    text = found("completions_cut", lines(**{"completions/clipped_ratio": 1.0}))
    assert text.startswith("no completion of the last 5 logged steps ends by a stop token: the policy never learned to stop")


def test_several_answers_are_named_with_their_share():
    text = found("several_answers", lines(**{"completions/several_answers": [0.1, 0.2, 0.3, 0.2, 0.3]}))
    assert text.startswith("22% of the completions hold several answers")
    assert found("several_answers", lines(**{"completions/several_answers": 0.1})) is None
    assert found("several_answers", lines(**{"completions/clipped_ratio": 0.0})) is None, "data without that notion"


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
    falling = {"rewards/chosen": -0.4, "logps/chosen": -48.0, "rewards/margins": [0.0, 0.5, 1.0, 1.0, 1.0]}
    text = found("chosen_falls", lines(**falling))
    assert "by 8.0 nats each (logps/chosen), while the margins grow (0 to 0.7)" in text
    assert found("chosen_falls", lines(**falling | {"rewards/margins": 0.0})) is None
    assert found("chosen_falls", lines(**falling | {"rewards/chosen": 0.4})) is None


def test_how_far_chosen_answers_may_fall_depends_on_their_length():
    long, short = ({"rewards/chosen": -0.05, "logps/chosen": logp, "rewards/margins": [0, 1, 1, 1, 1]} for logp in (-90, -9))
    assert found("chosen_falls", lines(**long)) is None
    assert "by 1.0 nats each" in found("chosen_falls", lines(**short))


def test_rules_of_a_users_own_are_found_by_path_or_file(tmp_path):
    (tmp_path / "mine.py").write_text("def loud(lines, args):\n    return 'loud' if lines else None\n")
    rules = health.load([f"{tmp_path}/mine.py:loud", "qwen_align.method.health.kl"])
    assert list(rules) == ["loud", "kl"]
    assert rules["loud"]([{"step": 1}], ARGS) == "loud"


def drifting(weight):
    return lines(**{"sampling/importance_weight": weight, "sampling/logp_difference/mean": 0.01})


def test_weights_far_from_one_are_warned_about_with_the_number():
    assert "factor of 1.35" in found("sampling_drift", drifting(1.35))


@pytest.mark.parametrize("logged", [[], drifting(1.02), drifting(1.35)[1:], lines(reward=1.0)])
def test_small_drift_a_single_step_or_no_vllm_is_no_warning(logged):
    assert found("sampling_drift", logged) is None
