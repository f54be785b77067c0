"""The recipes of the study and of its family: what a command makes of them, and each of their stages in miniature."""

import random
from pathlib import Path

import pytest
from conftest import planned
from tiny import TINY_MODEL, under
from trained import finished

from qwen_align import run_folder
from qwen_align.config import rules

pytestmark = pytest.mark.slow

STAGES = {
    "study_countdown": ["sft", "rloo (countdown)", "compare"],
    "cs224r": ["sft", "dpo", "rloo (countdown)", "compare"],
    "study_instruct": [
        *("sft", "dpo", "reward (deberta)", "rloo (deberta)", "reward (distilbert)", "rloo (distilbert)"),
        *("reward (siamese_distilbert)", "rloo (siamese_distilbert)", "compare (openassistant)"),
    ],
}
COUNTDOWN = ("study_countdown", "cs224r")
DEMONSTRATIONS = 980  # of 1,000, without those that are held out


@pytest.fixture(scope="module")
def plans() -> dict:
    """experiment -> method -> its stage; of several the last."""
    return {name: {stage.method: stage for stage in planned(f"experiment={name}")} for name in STAGES}


def args_of(plans: dict, experiment: str, method: str) -> dict:
    return plans[experiment][method].config["method"]["args"]


@pytest.mark.parametrize("experiment", STAGES)
def test_stages_and_their_order(run_main, experiment):
    code, out, errors = run_main(f"experiment={experiment}", "plan=true")
    assert (code, errors) == (0, "")
    assert [line.partition("  ")[0] for line in out.splitlines() if "runs/" in line] == STAGES[experiment]


@pytest.mark.parametrize("experiment", STAGES)
def test_every_policy_comes_from_the_same_sft(plans, experiment):
    policies = dict(plans[experiment]["compare"].parents.policies)
    sft = policies.pop("sft")
    assert len(policies) >= 1
    assert all(stage.parents.init.folder == sft.folder for stage in policies.values())


@pytest.mark.parametrize("experiment", COUNTDOWN)
def test_sft_on_countdown_takes_the_updates_of_the_published_recipe(plans, experiment):
    method, args = plans[experiment]["sft"].config["method"], args_of(plans, experiment, "sft")
    per_device, accumulation = rules.batch(method, 1)
    assert per_device * accumulation == 64
    assert args["num_train_epochs"] * DEMONSTRATIONS / 64 == pytest.approx(94, abs=3)
    given = ("learning_rate", "warmup_steps", "weight_decay", "max_grad_norm", "max_length")
    assert [args[key] for key in given] == [5e-5, 0.05, 0.01, 1.0, 512 + 1024]


@pytest.mark.parametrize("experiment", STAGES)
def test_rloo_draws_1024_completions_a_step_from_the_whole_distribution(plans, experiment):
    method, args = plans[experiment]["rloo"].config["method"], args_of(plans, experiment, "rloo")
    per_device, accumulation = rules.batch(method, 1)
    assert per_device * accumulation == method["prompts_per_step"] * args["num_generations"] == 1024
    assert (args["max_steps"], args["max_completion_length"], args["temperature"]) == (100, 1024, 1.0)
    assert not {"top_p", "top_k", "min_p"} & args.keys()
    assert args["lr_scheduler_type"] == "constant"


@pytest.mark.parametrize("experiment", COUNTDOWN)
def test_rloo_on_countdown_has_the_published_rate(plans, experiment):
    args = args_of(plans, experiment, "rloo")
    given = ("learning_rate", "beta", "weight_decay", "max_grad_norm")
    assert [args[key] for key in given] == [1e-5, 0.001, 1e-4, 1.0]
    wanted = plans[experiment]["rloo"].config["data"]["problems"]
    assert wanted >= 100 * 128, "no prompt comes twice"


def test_the_course_prefers_with_ipo(plans):
    args = args_of(plans, "cs224r", "dpo")
    given = ("loss_type", "learning_rate", "num_train_epochs", "warmup_steps", "max_length")
    assert [args[key] for key in given] == [["ipo"], 5e-6, 1, 0.05, 512 + 1024]
    assert plans["cs224r"]["dpo"].config["data"]["preferences_name"] == "asingh15/countdown_tasks_3to4-dpo"
    assert 1 / (2 * args["beta"]) * 300 == pytest.approx(5), "nats a pair of 300 tokens; TRL's ipo averages over them"


def test_the_study_prefers_with_dpo(plans):
    args = args_of(plans, "study_instruct", "dpo")
    assert [args[k] for k in ("loss_type", "learning_rate", "beta", "num_train_epochs")] == [["sigmoid"], 1e-6, 0.1, 3]
    sft = args_of(plans, "study_instruct", "sft")
    assert [sft[k] for k in ("learning_rate", "num_train_epochs", "max_length")] == [2e-5, 3, 1280]


def test_the_studys_judge_trained_no_policy(plans):
    stages = plans["study_instruct"]
    assert stages["compare"].config["method"]["reward"]["folder"] == "OpenAssistant/reward-model-deberta-v3-large-v2"
    assert stages["rloo"].config["method"]["reward"]["base"] is not None


def test_every_stage_of_the_course_is_measured_by_its_protocol(plans):
    protocol = {"problems": 50, "samples": 16, "temperature": 0.6, "top_p": 0.95, "top_k": 20}
    stages = plans["cs224r"]
    for method in ("sft", "dpo", "rloo"):
        assert stages[method].config["evaluation"] == protocol
    assert protocol.items() <= stages["compare"].config["method"].items()
    assert {stage.config["max_completion_length"] for stage in stages.values()} == {1024}
    assert {stage.config["data"]["evaluation_split"] for stage in stages.values()} == {"test"}


def test_all_stages_of_the_course_ask_in_the_same_words(plans):
    wordings = {(s.config["data"]["prompt"], s.config["data"]["prompts_name"]) for s in plans["cs224r"].values()}
    assert wordings == {(None, "asingh15/countdown_tasks_3to4")}


QUESTION = "A conversation between User and Assistant.\nUser: Using the numbers [{}], create an equation that equals {}."


def small_course(folder: Path) -> list[str]:
    """Folders shaped like the course's sets, and the overrides that name them."""
    import datasets

    rng = random.Random(0)
    problems = {tuple(rng.randint(1, 20) for _ in range(3)) for _ in range(80)}
    asked = [(list(nums), sum(nums), QUESTION.format(" ".join(map(str, nums)), sum(nums))) for nums in sorted(problems)]
    ready = "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    given = [{"nums": nums, "target": target, "prompt": ready.format(text)} for nums, target, text in asked]
    right, wrong = "<think>{0}</think><answer>{0}</answer>", "<answer>1</answer>"
    answered = [(text, right.format(" + ".join(map(str, nums)))) for nums, _, text in asked]
    sets = {
        "problems/train-00000-of-00001.parquet": given[8:],
        "problems/test-00000-of-00001.parquet": given[:8],
        "demonstrations/train.parquet": [{"query": text, "completion": answer} for text, answer in answered],
        "pairs/train.parquet": [{"query": t, "response_ws": a, "response_ls": wrong} for t, a in answered],
    }
    for name, rows in sets.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(folder / name)
    names = {"prompts": "problems", "demonstrations": "demonstrations", "preferences": "pairs"}
    return [f"data.{key}_name={folder / name}" for key, name in names.items()]


SMALL = (
    *("model=countdown_tiny", *TINY_MODEL, "hardware=cpu", "max_completion_length=12"),
    *under("evaluation", "problems=4 samples=2"),
    *under("stages.sft", "batch_size=4 args.max_steps=2"),
    *under("stages.rloo", "prompts_per_step=4 args.max_steps=2 args.save_steps=1 args.num_generations=2"),
)
OWN = {
    "cs224r": under("stages.dpo", "args.max_steps=2 batch_size=4"),
    "study_countdown": (*under("stages.compare", "problems=4 samples=2"), "data.held_out=0.3"),
}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", COUNTDOWN)
def test_an_experiment_runs_in_miniature(tmp_path, monkeypatch, experiment):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    overrides = [*small_course(tmp_path), *SMALL, *OWN[experiment]]
    stages = planned(f"experiment={experiment}", f"runs_dir={tmp_path / 'runs'}", *overrides)
    for stage in stages:
        finished(stage)
    metrics = {stage.method: run_folder.read_json(stage.folder / "metrics.json") for stage in stages}
    assert {name: found["train"]["steps"] for name, found in metrics.items() if "train" in found} == dict.fromkeys(
        [stage.method for stage in stages[:-1]], 2
    )
    policies = metrics["compare"]["policies"]
    assert {found["n"] for found in policies.values()} == {4}
    if experiment == "cs224r":
        assert {name: found["pass_mark"] for name, found in policies.items()} == {"sft": 0.3, "ipo": 0.4, "rloo": 0.5}
