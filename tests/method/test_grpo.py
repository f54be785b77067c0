"""GRPO: prompts, rewards and logs as in RLOO, its own fields, and an exact resume."""

import pytest
from processes import resumes_exactly
from tiny import TINY
from trained import finished

from qwen_align import run_folder
from qwen_align.errors import ConfigError

pytestmark = pytest.mark.slow


def spread(completions, **columns):
    """A reward that differs within most groups."""
    return [len(completion[-1]["content"]) / 100 for completion in completions]


@pytest.fixture
def stage(tmp_path, stages_of):
    """stage(*overrides): one GRPO stage from a random policy."""

    def one(*more):
        overrides = [*TINY, "method=grpo", "init=base", f"runs_dir={tmp_path}", "data.problems=64"]
        overrides += ["method.args.num_generations=4", "method.prompts_per_step=16", "method.args.max_steps=7"]
        overrides += [
            "method.args.save_steps=5",
            "method.args.activation_checkpointing=false",
            "method.args.learning_rate=1e-3",
        ]
        found = stages_of(*overrides, *more)[-1]
        found.config["method"]["reward"] = {"_target_": f"{__name__}.spread"}
        return found

    return one


def steps(one):
    return [line for line in run_folder.read_jsonl(finished(one) / "metrics.jsonl") if "reward" in line]


@pytest.mark.parametrize(
    "overrides",
    [(), ("method.args.entropy_coef=0.01", "method.args.use_adaptive_entropy=true", "method.args.entropy_target=0.5")],
    ids=["plain", "with its own entropy coefficient"],
)
def test_a_resume_after_the_first_epoch_is_exact(stage, overrides):
    one = stage(*overrides)
    lines = steps(one)
    assert len(lines) == 7
    assert all(line["grad_norm"] > 0 for line in lines), "or nothing would have been learned"
    assert resumes_exactly(one.folder, "checkpoint-5"), "four steps are an epoch"


def test_it_logs_what_all_that_sample_log(stage):
    one = stage("method.args.max_steps=1", "method.held_out_every=1")
    first = steps(one)[0]
    assert {"groups_without_variance", "held_out", "completions/several_answers", "rewards/spread/mean"} <= first.keys()
    assert "warnings" in run_folder.read_json(one.folder / "metrics.json")["train"]


@pytest.mark.parametrize(
    "overrides",
    [
        ("method.args.loss_type=dr_grpo", "method.args.scale_rewards=none"),
        ("method.args.loss_type=grpo", "method.args.importance_sampling_level=sequence"),
        ("method.args.loss_type=cispo", "method.args.entropy_coef=0.01"),
    ],
    ids=["Dr. GRPO", "GSPO", "CISPO with an entropy term"],
)
def test_variants_are_trls_fields(stage, overrides):
    assert len(steps(stage("method.args.max_steps=1", *overrides))) == 1


@pytest.mark.parametrize(
    ("override", "nearest"),
    [("loss_type=dapoo", "dapo"), ("scale_rewards=batches", "batch"), ("importance_sampling_level=tokens", "token")],
)
def test_a_name_that_trl_notices_late_is_refused_first(stage, override, nearest):
    with pytest.raises(ConfigError, match=rf"method.args.{override}: expected one of .*\(did you mean {nearest}\?\)"):
        stage(f"method.args.{override}")


def test_a_save_between_generations_is_refused(stage):
    with pytest.raises(ConfigError, match=r"method\.args\.save_steps=5: a run can only resume exactly where"):
        stage("method.args.num_iterations=2")
