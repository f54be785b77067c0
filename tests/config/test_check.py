"""Mistakes that are found before anything is loaded, and what the one line about each says."""

import re
from pathlib import Path

import pytest

from qwen_align.config import groups
from qwen_align.errors import ConfigError


def refused(stages_of, *words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        stages_of(*words)
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["method=rlo"], "rloo"),
        (["model=countdown_tini"], "countdown_tiny"),
        (["metod=rloo"], "method"),
        (["sed=1"], "seed"),
        (["evaluation.problem=3"], "evaluation.problems"),
        (["data.problem=3"], "data.problems"),
        (["adapter=lora", "adapter.lora_dropot=0.1"], "adapter.lora_dropout"),
        (["method.batchsize=8"], "batch_size"),
        (["method.args.learning_rat=1"], "learning_rate"),
        (["stages.rlo.args.beta=0"], "rloo"),
        (["stages.rloo.prompts_per_stp=8"], "prompts_per_step"),
        (["stages.rloo.args.num_generation=4"], "num_generations"),
        (["stages.sft.args.learing_rate=1e-4"], "learning_rate"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_a_misspelled_name_gets_the_nearest_right_one(stages_of, words, nearest):
    message = refused(stages_of, *words)
    assert message.startswith(words[-1].partition("=")[0])
    assert f"(did you mean {nearest}?)" in message


@pytest.mark.parametrize(
    ("method", "old", "new"),
    [
        ("rloo", "kl_coef", "beta"),
        ("rloo", "rloo_k", "num_generations"),
        ("rloo", "response_length", "max_completion_length"),
        ("rloo", "num_ppo_epochs", "num_iterations"),
        ("rloo", "cliprange", "epsilon"),
        ("sft", "max_seq_length", "max_length"),
        ("sft", "warmup_ratio", "warmup_steps"),
        ("sft", "evaluation_strategy", "eval_strategy"),
    ],
)
def test_an_old_name_of_trl_gets_the_new_one(stages_of, method, old, new):
    assert f"set {new}" in refused(stages_of, f"method={method}", f"method.args.{old}=1").replace("method.args.", "")


def test_an_unknown_option_lists_all_options(stages_of):
    message = refused(stages_of, "hardware=tpu")
    assert message.startswith("hardware=tpu: expected one of auto, cpu, cpu_ddp, ")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("seed=1.5", "a whole number"),
        ("evaluation.problems=true", "a whole number"),
        ("evaluation.temperature=hot", "a number"),
        ("plan=1", "true or false"),
        ("model.name=3", "text"),
        ("data.count=3", "a list"),
        ("method.args.learning_rate=fast", "float"),
        ("method.args.lr_scheduler_type=cosinus", "one of linear, cosine"),
    ],
)
def test_a_wrong_type_says_what_is_expected(stages_of, word, expected):
    message = refused(stages_of, "data=countdown", word)
    assert message.startswith(word.partition("=")[0])
    assert f"expected {expected}" in message


def test_a_key_of_another_option_is_named_with_it(run_main):
    _, _, errors = run_main("data=constraints", "data.count=[3,3]", "plan=true")
    assert errors == "error: data.count: not a key of the option that is chosen here; data=countdown has it\n"


def test_a_wrong_value_for_another_stage_names_the_key_as_it_was_typed(stages_of):
    message = refused(stages_of, "method=rloo", "stages.sft.args.learning_rate=fast")
    assert message.startswith("stages.sft.args.learning_rate=fast")


def test_a_whole_number_is_a_number(stages_of):
    assert stages_of("evaluation.temperature=1")[0].config["evaluation"]["temperature"] == 1


@pytest.mark.parametrize("word", ["+foo=1", "++foo=1", "+data.foo=1", "+method.foo=1", "+stages.sft.args.foo=1"])
def test_a_blind_plus_is_refused(stages_of, word):
    assert "foo=1: " in refused(stages_of, word)


def test_a_field_of_trl_needs_no_plus(stages_of):
    (stage,) = stages_of("method.args.adam_beta2=0.98", "method.args.lr_scheduler_kwargs.min_lr=1e-6")
    assert stage.config["method"]["args"]["adam_beta2"] == 0.98
    assert stage.config["method"]["args"]["lr_scheduler_kwargs"] == {"min_lr": 1e-6}


def test_a_field_of_peft_needs_no_plus(stages_of):
    (stage,) = stages_of("adapter=lora", "adapter.use_rslora=true")
    assert stage.config["adapter"]["use_rslora"] is True


def test_a_setting_of_trl_can_be_taken_away(stages_of):
    (stage,) = stages_of("~method.args.learning_rate")
    assert "learning_rate" not in stage.config["method"]["args"]


def test_args_of_a_method_without_args_name_the_key(stages_of):
    assert refused(stages_of, "method=evaluate", "method.args.learning_rate=1").startswith("method.args.learning_rate")


def test_a_misspelling_in_an_experiment_is_found(run_main, tmp_path):
    (tmp_path / "more" / "experiment").mkdir(parents=True)
    content = "# @package _global_\nstages: {sft: {args: {learning_rat: 1.0}}}\n"
    (tmp_path / "more" / "experiment" / "mine.yaml").write_text(content)
    code, _, errors = run_main("--config-dir", str(tmp_path / "more"), "experiment=mine", "plan=true")
    assert code == 2
    assert "learning_rat=1.0: " in errors
    assert "(did you mean learning_rate?)" in errors


def test_scientific_notation_in_a_users_yaml_is_a_number(run_main, tmp_path):
    (tmp_path / "more" / "data").mkdir(parents=True)
    mine = (groups.CONF / "data" / "countdown.yaml").read_text().replace("held_out: 0.15", "held_out: 15e-2")
    assert "held_out: 15e-2" in mine
    (tmp_path / "more" / "data" / "mine.yaml").write_text(mine)
    code, _, errors = run_main("--config-dir", str(tmp_path / "more"), "data=mine", "plan=true")
    assert (code, errors) == (0, "")


@pytest.mark.parametrize("word", ["method.args.temperature=0", "method.args.num_generations=1", "method.args.save_steps=0"])
def test_a_value_out_of_range_is_refused(stages_of, word):
    message = refused(stages_of, "method=rloo", word)
    assert message.startswith(word.partition("=")[0])
    assert "expected a" in message


@pytest.mark.parametrize(
    "word",
    [
        "evaluation.problems=0",
        "evaluation.samples=0",
        "generator.batch_size=0",
        "evaluation.temperature=0",
        "evaluation.top_p=0",
        "evaluation.top_p=1.1",
        "evaluation.top_k=-1",
        "max_completion_length=0",
        "seed=-1",
    ],
)
def test_a_value_that_would_only_fail_after_training_is_refused(stages_of, word):
    assert refused(stages_of, word).startswith(word.partition("=")[0])


@pytest.mark.parametrize("method", ["evaluate", "best_of_n"])
def test_a_measurement_may_draw_from_a_part_of_the_tokens(stages_of, method):
    stages = stages_of(f"method={method}", "data=countdown", "evaluation.top_p=0.95", "evaluation.top_k=20")
    found = stages[-1].config
    assert (found["method"]["top_p"], found["method"]["top_k"]) == (0.95, 20)
    assert (found["evaluation"]["top_p"], found["evaluation"]["top_k"]) == (0.95, 20)


@pytest.mark.parametrize("key", ["problems", "samples"])
def test_sampling_nothing_is_refused(stages_of, key):
    assert f"method.{key}=0: expected a whole number from 1 on" in refused(stages_of, "method=evaluate", f"method.{key}=0")


@pytest.mark.parametrize(
    ("field", "instead"),
    [
        ("output_dir=there", "runs_dir"),
        ("report_to=wandb", "tracking"),
        ("deepspeed=zero2.json", "hardware"),
        ("model_init_kwargs.dtype=bfloat16", "set model,"),
        ("resume_from_checkpoint=there", "runs resume by themselves"),
        ("push_to_hub=true", "runs stay on this machine"),
        ("hub_token=abc", "HF_TOKEN"),
    ],
)
def test_a_field_with_a_home_elsewhere_names_it(stages_of, field, instead):
    message = refused(stages_of, f"method.args.{field}")
    assert message.startswith(f"method.args.{re.split('[.=]', field)[0]}=")
    assert instead in message


ONLY_PROMPTS = """
class OnlyPrompts:
    def prompts(self): ...
    def evaluation(self): ...
"""


@pytest.fixture
def only_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for --config-dir with a data set that has no demonstrations."""
    (tmp_path / "only_prompts_data.py").write_text(ONLY_PROMPTS)
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "more" / "data"
    folder.mkdir(parents=True)
    (folder / "only_prompts.yaml").write_text("_target_: only_prompts_data.OnlyPrompts\n")
    return folder.parent


def test_a_key_that_an_experiment_invents_is_refused(run_main, tmp_path):
    mine = tmp_path / "experiment" / "mine.yaml"
    mine.parent.mkdir()
    mine.write_text("# @package _global_\ndata:\n  problms: 3\n")
    code, _, errors = run_main("--config-dir", str(tmp_path), "experiment=mine", "plan=true")
    assert code == 2
    assert "data.problms" in errors


def test_a_view_that_the_data_lacks_names_the_data_sets_that_have_it(run_main, only_prompts):
    code, _, errors = run_main("--config-dir", str(only_prompts), "data=only_prompts", "method=sft", "plan=true")
    assert code == 2
    assert errors.startswith("error: data=only_prompts: has no demonstrations view, which method=sft needs")
    assert "data sets that have it: " in errors and "countdown, countdown_hub" in errors


def test_a_stage_on_the_way_needs_its_view_too(run_main, only_prompts):
    code, _, errors = run_main("--config-dir", str(only_prompts), "data=only_prompts", "method=rloo", "plan=true")
    assert code == 2
    assert "has no demonstrations view, which method=sft needs" in errors


def test_a_view_that_the_data_has_is_accepted(run_main, only_prompts):
    words = ("data=only_prompts", "method=rloo", "reward=countdown", "init=base", "plan=true")
    code, shown, errors = run_main("--config-dir", str(only_prompts), *words)
    assert (code, errors) == (0, "")
    assert "rloo" in shown
