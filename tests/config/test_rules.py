"""What a method's rules refuse before anything is loaded, each with the key, the value, and what would be right."""

import re

import pytest

from qwen_align.config import rules
from qwen_align.errors import ConfigError


def refused(stages_of, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        stages_of(*overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    "word",
    ["method.args.top_p=0.95", "method.args.top_k=20", "method.args.min_p=0.1", "method.args.generation_kwargs={top_k: 20}"],
)
def test_training_on_truncated_samples_is_refused(stages_of, word):
    message = refused(stages_of, "method=rloo", "data=countdown", word)
    assert message.startswith(word.partition("=")[0])
    assert "biases the gradient" in message


def test_a_reference_that_nobody_saved_is_refused(stages_of):
    words = ("experiment=quickstart", "method=rloo", "init=base", "method.args.beta=0.05")
    assert refused(stages_of, *words).startswith("method.args.beta=0.05: the KL term's reference is read from disk")
    assert stages_of(*words, "adapter=lora") and stages_of(*words, "method.args.beta=0"), "these have none to load"


def rloo(prompts: int, generations: int, **args) -> dict:
    return {"prompts_per_step": prompts, "args": {"num_generations": generations, **args}}


def test_accumulation_follows_from_the_batch():
    assert rules.batch(rloo(32, 8, per_device_train_batch_size=32), processes=1) == (32, 8)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_processes(processes):
    per_device, accumulation = rules.batch(rloo(32, 8, per_device_train_batch_size=32), processes)
    assert per_device * processes * accumulation == 32 * 8


def test_a_device_holds_no_more_than_its_share_of_the_batch():
    method = {"batch_size": 16, "args": {"per_device_train_batch_size": 64}}
    assert rules.batch(method, processes=4) == (4, 1)


def test_a_batch_that_does_not_come_out_even_shows_the_equation():
    with pytest.raises(ConfigError) as caught:
        rules.batch({"batch_size": 61, "args": {"per_device_train_batch_size": 8}}, processes=2)
    assert "method.batch_size = 61" in str(caught.value)
    assert "6 x 2 x 5 = 60" in str(caught.value)


def test_what_a_device_holds_at_once_is_a_ceiling():
    assert rules.batch({"batch_size": 60, "args": {"per_device_train_batch_size": 8}}, processes=1) == (6, 10)
    assert rules.batch(rloo(10, 7, per_device_train_batch_size=16), processes=1) == (14, 5)


def test_an_accumulation_that_contradicts_the_batch_shows_the_equation():
    method = rloo(32, 8, per_device_train_batch_size=32, gradient_accumulation_steps=4)
    with pytest.raises(ConfigError) as caught:
        rules.batch(method, processes=1)
    assert "method.prompts_per_step x num_generations = 256" in str(caught.value)
    assert "32 x 1 x 4 = 128" in str(caught.value)


def test_an_empty_batch_is_refused(stages_of):
    assert refused(stages_of, "method.batch_size=0").startswith("method.batch_size=0")


def test_a_plan_is_checked_for_the_batch_of_every_stage(stages_of):
    message = refused(stages_of, "method=rloo", "stages.sft.batch_size=57", "hardware=cpu_ddp")
    assert "batch_size = 57" in message
    assert "2 x 2 x 14 = 56" in message


def test_a_save_between_generations_is_refused(stages_of):
    message = refused(stages_of, "method=rloo", "method.args.num_iterations=2", "method.args.save_steps=3")
    assert message.startswith("method.args.save_steps=3")
    assert "every 2 steps" in message


def test_a_save_at_the_end_of_a_generation_is_accepted(stages_of):
    stages = stages_of("method=rloo", "method.args.num_iterations=2", "method.args.save_steps=4")
    assert stages[-1].config["method"]["args"]["save_steps"] == 4


def test_the_step_that_a_refused_save_is_told_is_one_it_does_not_meet(stages_of):
    message = refused(stages_of, "method=rloo", "method.args.steps_per_generation=3", "method.args.save_steps=20")
    every = re.search(r"every (\d+) steps", message)
    assert every and 20 % int(every[1]) != 0


DPO = ("method=dpo", "data=hh_rlhf", "init=base")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.args.loss_type=[ipoo]", r"loss_type=ipoo: expected one or more of .*did you mean ipo"),
        ("method.args.loss_type=[sigmoid,kto]", "loss_type=kto"),
        ("method.args.beta=0.0", "beta=0.0: expected a number above 0"),
        ("method.args.loss_type=[robust] method.args.label_smoothing=0.5", "label_smoothing=0.5"),
        ("method.args.truncation_mode=keep_end", "truncation_mode=keep_end"),
        (
            "method.args.precompute_ref_log_probs=true hardware=cpu_ddp method.batch_size=64",
            r"precompute_ref_log_probs=true: .*hardware.processes=2; expected false",
        ),
    ],
)
def test_settings_of_dpo_that_trl_notices_late_are_refused_first(stages_of, override, message):
    assert re.match(rf"method\.args\.{message}", refused(stages_of, *DPO, *override.split()))


def test_dpos_loss_types_are_those_that_trl_names(stages_of):
    for name in ("[ipo]", "[hinge]", "[sigmoid_norm]", "[sigmoid,sft]"):
        assert stages_of(*DPO, f"method.args.loss_type={name}")


@pytest.mark.parametrize("method", ["evaluate", "best_of_n", "synthesize"])
def test_what_asks_a_verifier_needs_one(stages_of, method):
    message = refused(stages_of, f"method={method}", "data=hh_rlhf" if method != "synthesize" else "data=instruct", "init=base")
    assert f"has no verifier, which method={method} needs" in message


def test_a_vote_needs_answers(stages_of):
    message = refused(stages_of, "method=best_of_n", "data=constraints", "method.select=majority")
    assert message.startswith("method.select=majority")


def test_one_policy_is_nothing_to_compare(stages_of):
    message = refused(stages_of, "method=compare", "data=countdown", 'method.policies={a: ["method=sft"]}')
    assert message.startswith("method.policies: expected at least two")


def test_a_users_own_rule_is_asked_by_file(stages_of, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from qwen_align.errors import ConfigError\n\n\ndef even_seeds(planned):\n"
        "    if planned.job.seed % 2:\n        raise ConfigError(f'seed={planned.job.seed}: expected an even one')\n"
    )
    rule = f"method.checks=[whole_batch,{tmp_path}/mine.py:even_seeds]"
    assert stages_of("data=countdown", rule, "seed=2")
    assert refused(stages_of, "data=countdown", rule, "seed=3") == "seed=3: expected an even one"


REWARD = ("method=reward", "reward=deberta", "data=hh_rlhf")


@pytest.mark.parametrize(
    ("field", "instead"),
    [
        ("max_length=64", "reward.max_length"),
        ("label_smoothing_factor=0.1", "method.label_smoothing"),
        ("eos_token=x", "nothing"),
    ],
)
def test_a_field_of_trl_that_a_reward_model_takes_from_elsewhere_names_its_home(stages_of, field, instead):
    assert refused(stages_of, *REWARD, f"method.args.{field}").startswith(f"method.args.{field}: set {instead}")


def test_a_share_of_wrong_labels_of_a_half_is_refused(stages_of):
    assert refused(stages_of, *REWARD, "method.label_smoothing=0.5").startswith("method.label_smoothing=0.5: expected")


@pytest.mark.parametrize("every", ["0", "-1", "2.5", "true"])
def test_a_number_of_steps_that_is_none_is_refused(stages_of, every):
    message = refused(stages_of, "method=rloo", "data=countdown", f"method.held_out_every={every}")
    assert "expected a whole number" in message
