"""Which stages a command needs, what tells two of them apart, and where a stage can start."""

from pathlib import Path

import pytest

from qwen_align.errors import ConfigError
from qwen_align.stage import run_folder


@pytest.fixture
def stages_of(stages_of):
    """stages_of(...) on Countdown, whose reward is a function: a chain without reward models."""
    return lambda *words: stages_of(*([] if any(w.startswith("data=") for w in words) else ["data=countdown"]), *words)


def methods(stages) -> list[str]:
    return [stage.method for stage in stages]


def finished(folder: Path, **manifest) -> Path:
    """A run folder as a finished SFT stage leaves it."""
    given = {"state": "finished", "method": "sft", "fingerprint": "0123456789abcdef", "choices": {}, "parents": {}}
    run_folder.write_json(folder / "run.json", given | manifest)
    (folder / "model").mkdir(exist_ok=True)
    return folder


def test_sft_needs_nothing(stages_of):
    assert methods(stages_of("method=sft")) == ["sft"]


def test_rloo_needs_sft(stages_of):
    sft, rloo = stages_of("method=rloo")
    assert (sft.method, rloo.method) == ("sft", "rloo")
    assert rloo.parents["init"] is sft
    assert rloo.config["init"] == str(sft.folder)


def test_best_of_n_of_the_quickstart_needs_rloo_needs_sft(stages_of):
    stages = stages_of("experiment=quickstart")
    assert methods(stages) == ["sft", "rloo", "best_of_n"]
    assert methods(stages[-1].lineage) == ["sft", "rloo"]
    assert [a["method"] for a in stages[-1].config["ancestors"]] == ["sft", "rloo"]


def test_a_shared_stage_is_planned_as_it_is_alone(stages_of):
    alone = stages_of("experiment=quickstart", "method=sft")
    chain = stages_of("experiment=quickstart")
    assert alone[-1].fingerprint == chain[0].fingerprint
    assert alone[-1].folder == chain[0].folder


def test_a_run_folder_is_named_after_what_it_holds(stages_of, tmp_path):
    stage = stages_of("experiment=quickstart", "method=sft", "runs_dir=mine")[0]
    assert stage.folder.parent == tmp_path / "mine"
    assert stage.folder.name == f"sft-countdown-countdown_tiny-{stage.fingerprint[:8]}"


@pytest.mark.parametrize(
    "words",
    [
        ("method.args.logging_steps=7", "method.args.log_level=info"),
        ("method.args.save_steps=7", "method.args.save_total_limit=1", "checkpoints.keep=1"),
        ("hardware.device=cpu", "hardware.threads=1", "hardware.per_device.sft=2"),
        ("method.args.per_device_train_batch_size=4", "method.args.activation_checkpointing=false"),
        ("evaluation.problems=3", "evaluation.samples=2", "evaluation.temperature=0.7", "generator.batch_size=8"),
        ("tracking=tensorboard", "name=other", "runs_dir=elsewhere", "force=true"),
    ],
    ids=["logging", "saving", "hardware", "memory", "evaluation", "bookkeeping"],
)
def test_what_can_not_change_the_result_keeps_the_fingerprint(stages_of, default_fingerprint, words):
    assert stages_of(*words)[0].fingerprint == default_fingerprint


@pytest.mark.parametrize(
    "word",
    [
        "method.args.learning_rate=1e-3",
        "method.args.adam_beta2=0.98",
        "method.batch_size=32",
        "seed=1",
        "data.seed=1",
        "data.problems=100",
        "data=countdown_hub",
        "model=smollm2_135m",
        "adapter=lora",
        "hardware.precision=bf16",
        "init=org/model",
    ],
)
def test_what_can_change_the_result_changes_the_fingerprint(stages_of, default_fingerprint, word):
    assert stages_of(word)[0].fingerprint != default_fingerprint


def test_a_parents_setting_changes_the_stages_after_it(stages_of):
    before, after = stages_of("method=rloo"), stages_of("method=rloo", "stages.sft.args.learning_rate=1e-3")
    assert before[0].fingerprint != after[0].fingerprint
    assert before[1].fingerprint != after[1].fingerprint


def test_a_childs_setting_leaves_its_parent_alone(stages_of):
    before, after = stages_of("method=rloo"), stages_of("method=rloo", "method.args.beta=0.1")
    assert before[0].fingerprint == after[0].fingerprint
    assert before[1].fingerprint != after[1].fingerprint


def test_the_reward_counts_for_rloo_and_not_for_sft(stages_of):
    before, after = stages_of("method=rloo"), stages_of("method=rloo", "reward.wellformed_wrong=0.2")
    assert before[0].fingerprint == after[0].fingerprint
    assert before[1].fingerprint != after[1].fingerprint


def test_an_experiments_settings_reach_their_stages(stages_of):
    sft, rloo, _ = stages_of("experiment=quickstart")
    assert sft.config["method"]["args"]["learning_rate"] == 2.0e-3
    assert rloo.config["method"]["args"]["learning_rate"] == 5.0e-5


def test_an_experiments_settings_reach_the_asked_for_stage(stages_of):
    rloo = stages_of("experiment=quickstart", "method=rloo")[-1]
    assert rloo.config["method"]["args"]["max_steps"] == 120


def test_a_method_keeps_what_the_experiment_leaves_unsaid(stages_of):
    rloo = stages_of("experiment=quickstart", "method=rloo")[-1]
    assert rloo.config["method"]["args"]["lr_scheduler_type"] == "constant_with_warmup"


def test_the_command_line_wins_over_the_experiment(stages_of):
    rloo = stages_of("experiment=quickstart", "method=rloo", "method.args.learning_rate=1e-6")[-1]
    assert rloo.config["method"]["args"]["learning_rate"] == 1e-6


def test_the_command_line_wins_over_the_experiment_on_the_way(stages_of):
    sft = stages_of("experiment=quickstart", "stages.sft.args.learning_rate=1e-6")[0]
    assert sft.config["method"]["args"]["learning_rate"] == 1e-6


def test_a_setting_of_the_asked_for_method_stays_out_of_the_stages_on_the_way(stages_of):
    sft, rloo = stages_of("method=rloo", "method.args.learning_rate=3e-6")
    assert sft.config["method"]["args"]["learning_rate"] == 2.0e-5
    assert rloo.config["method"]["args"]["learning_rate"] == 3e-6


def test_a_stages_config_holds_nothing_of_the_plan(stages_of):
    for stage in stages_of("experiment=quickstart"):
        assert not stage.config.keys() & {"stages", "plan", "force", "experiment"}


def test_init_base_drops_the_stage_before(stages_of):
    (stage,) = stages_of("method=rloo", "init=base")
    assert stage.config["init"] == "base"
    assert stage.parents == {}


def test_init_can_be_a_method(stages_of):
    stages = stages_of("method=evaluate", "init=rloo")
    assert methods(stages) == ["sft", "rloo", "evaluate"]


def test_init_can_be_a_run_folder(stages_of, tmp_path):
    folder = finished(tmp_path / "earlier")
    (stage,) = stages_of("method=rloo", f"init={folder}")
    assert stage.config["init"] == str(folder)
    assert stage.parents["init"].fingerprint == "0123456789abcdef"
    assert stage.config["ancestors"] == [{"method": "sft", "folder": str(folder)}]


def test_a_run_folder_brings_its_own_ancestors(stages_of, tmp_path):
    first = finished(tmp_path / "first")
    second = finished(tmp_path / "second", method="rloo", parents={"init": str(first)})
    (stage,) = stages_of("method=best_of_n", f"init={second}")
    assert methods(stage.lineage) == ["sft", "rloo"]


def test_init_can_be_a_relative_folder(stages_of, tmp_path):
    finished(tmp_path / "runs" / "earlier")
    (stage,) = stages_of("method=rloo", "init=runs/earlier")
    assert stage.config["init"] == str(tmp_path / "runs" / "earlier")


def test_a_finished_run_with_another_fingerprint_is_another_start(stages_of, tmp_path):
    first, second = finished(tmp_path / "a"), finished(tmp_path / "b", fingerprint="fedcba9876543210")
    marks = {stages_of("method=rloo", f"init={folder}")[0].fingerprint for folder in (first, second)}
    assert len(marks) == 2


@pytest.mark.parametrize("state", ["running", "interrupted", "failed"])
def test_an_unfinished_run_folder_is_no_start(stages_of, tmp_path, state):
    folder = finished(tmp_path / "earlier", state=state)
    with pytest.raises(ConfigError, match=f"that run is {state}; expected a finished one"):
        stages_of("method=rloo", f"init={folder}")


def test_init_can_be_a_model_folder(stages_of, tmp_path):
    run_folder.write_json(tmp_path / "a_model" / "config.json", {})
    (stage,) = stages_of("method=sft", "init=a_model")
    assert stage.config["init"] == str(tmp_path / "a_model")
    assert stage.parents == {}


def test_init_can_be_a_hub_name(stages_of):
    (stage,) = stages_of("method=sft", "init=org/model")
    assert stage.config["init"] == "org/model"


@pytest.mark.parametrize(("word", "near"), [("rlo", "rloo"), ("bas", "base")])
def test_a_misspelled_init_gets_the_nearest_right_one(stages_of, word, near):
    with pytest.raises(ConfigError, match=rf"init={word}: .*\(did you mean {near}\?\)"):
        stages_of("method=sft", f"init={word}")


@pytest.mark.parametrize("word", ["./no/folder", "a/b/c"])
def test_an_init_that_is_nothing_is_refused(stages_of, word):
    with pytest.raises(ConfigError, match=f"init={word}: expected one of base,"):
        stages_of("method=sft", f"init={word}")


def test_a_stage_can_not_start_from_itself(stages_of):
    with pytest.raises(ConfigError, match="stages would need each other: sft -> sft"):
        stages_of("method=sft", "init=sft")


def test_stages_that_need_each_other_are_an_error(stages_of):
    with pytest.raises(ConfigError, match="stages would need each other: rloo -> sft -> rloo"):
        stages_of("method=rloo", "stages.sft.init=rloo")


def test_a_stages_state_is_what_its_folder_says(stages_of):
    (stage,) = stages_of("method=sft")
    assert stage.state == "missing"
    finished(stage.folder)
    assert stage.state == "finished"
