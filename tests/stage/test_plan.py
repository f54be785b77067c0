"""Which stages a command needs, and where a stage can start."""

from pathlib import Path

import pytest

from qwen_align import run_folder
from qwen_align.errors import ConfigError


@pytest.fixture
def stages_of(stages_of):
    """stages_of(...) on Countdown, whose reward is a function: a chain without reward models."""
    return lambda *given: stages_of(*([] if any(o.startswith("data=") for o in given) else ["data=countdown"]), *given)


def methods(stages) -> list[str]:
    return [stage.method for stage in stages]


def finished(folder: Path, **manifest) -> Path:
    """A run folder as a finished SFT stage leaves it."""
    known = {"format": run_folder.FORMAT, "state": "finished", "method": "sft", "fingerprint": "0123456789abcdef"}
    run_folder.write_json(folder / "run.json", known | {"choices": {}, "parents": {"init": None}} | manifest)
    (folder / "model").mkdir(exist_ok=True)
    return folder


def test_sft_needs_nothing(stages_of):
    assert methods(stages_of("method=sft")) == ["sft"]


def test_rloo_needs_sft(stages_of):
    sft, rloo = stages_of("method=rloo")
    assert (sft.method, rloo.method) == ("sft", "rloo")
    assert rloo.parents.init is sft
    assert rloo.config["init"] == str(sft.folder)


def test_best_of_n_of_the_quickstart_needs_rloo_needs_sft(stages_of):
    stages = stages_of("experiment=quickstart")
    assert methods(stages) == ["sft", "rloo", "best_of_n"]
    assert methods(stages[-1].lineage) == ["sft", "rloo"]
    assert [a["method"] for a in stages[-1].config["ancestors"]] == ["sft", "rloo"]


def test_a_shared_stage_is_planned_as_it_is_by_itself(stages_of):
    single = stages_of("experiment=quickstart", "method=sft")
    chain = stages_of("experiment=quickstart")
    assert single[-1].fingerprint == chain[0].fingerprint
    assert single[-1].folder == chain[0].folder


def test_a_run_folder_is_named_after_what_it_holds(stages_of, tmp_path):
    stage = stages_of("experiment=quickstart", "method=sft", "runs_dir=mine")[0]
    assert stage.folder.parent == tmp_path / "mine"
    assert stage.folder.name == f"sft-countdown-countdown_tiny-{stage.fingerprint[:8]}"


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
    assert stage.parents.all() == []


def test_init_can_be_a_method(stages_of):
    stages = stages_of("method=evaluate", "init=rloo")
    assert methods(stages) == ["sft", "rloo", "evaluate"]


def test_init_can_be_a_run_folder(stages_of, tmp_path):
    folder = finished(tmp_path / "earlier")
    (stage,) = stages_of("method=rloo", f"init={folder}")
    assert stage.config["init"] == str(folder)
    assert stage.parents.init.fingerprint == "0123456789abcdef"
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
    assert len({stages_of("method=rloo", f"init={folder}")[0].fingerprint for folder in (first, second)}) == 2


@pytest.mark.parametrize("state", ["running", "interrupted", "failed"])
def test_an_unfinished_run_folder_is_no_start(stages_of, tmp_path, state):
    folder = finished(tmp_path / "earlier", state=state)
    with pytest.raises(ConfigError, match=f"that run is {state}; expected a finished one"):
        stages_of("method=rloo", f"init={folder}")


@pytest.mark.parametrize(
    ("key", "overrides"), [("init", ("method=rloo",)), ("reward.folder", ("method=rloo", "reward=deberta_tiny"))]
)
@pytest.mark.parametrize("number", [1, run_folder.FORMAT + 1])
def test_a_run_folder_of_another_format_is_named_with_what_can_still_be_used(stages_of, tmp_path, key, overrides, number):
    folder = finished(tmp_path / "earlier", format=number)
    with pytest.raises(ConfigError) as caught:
        stages_of(*overrides, f"{key}={folder}")
    assert str(caught.value) == (
        f"{key}={folder}: a run folder of format {number}, and this version reads format {run_folder.FORMAT}; its model can "
        f"still be used: {key}={folder}/model"
    )


def test_a_run_that_made_no_policy_is_no_start(stages_of, tmp_path):
    folder = finished(tmp_path / "earlier", method="evaluate")
    with pytest.raises(ConfigError, match=r"that run \(evaluate\) made no policy; expected one of method=dpo"):
        stages_of("method=rloo", f"init={folder}")


def test_init_can_be_a_model_folder(stages_of, tmp_path):
    run_folder.write_json(tmp_path / "a_model" / "config.json", {})
    (stage,) = stages_of("method=sft", "init=a_model")
    assert stage.config["init"] == str(tmp_path / "a_model")
    assert stage.parents.all() == []


def test_init_can_be_a_hub_name(stages_of):
    (stage,) = stages_of("method=sft", "init=org/model")
    assert stage.config["init"] == "org/model"


@pytest.mark.parametrize(("start", "near"), [("rlo", "rloo"), ("bas", "base")])
def test_a_misspelled_init_gets_the_nearest_right_one(stages_of, start, near):
    with pytest.raises(ConfigError, match=rf"init={start}: .*\(did you mean {near}\?\)"):
        stages_of("method=sft", f"init={start}")


@pytest.mark.parametrize("start", ["./no/folder", "a/b/c"])
def test_an_init_that_is_nothing_is_refused(stages_of, start):
    with pytest.raises(ConfigError, match=f"init={start}: expected one of base,"):
        stages_of("method=sft", f"init={start}")


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


def test_a_stages_job_says_whether_it_trains(stages_of):
    sft, _, best_of_n = stages_of("experiment=quickstart")
    assert (sft.job.trains, best_of_n.job.trains) == (True, False)
    assert [a.method for a in best_of_n.job.ancestors] == ["sft", "rloo"]


def test_all_that_a_stage_needs_comes_before_it(stages_of):
    sft, rloo, best_of_n = stages_of("experiment=quickstart")
    assert best_of_n.needed() == [sft, rloo]
