"""The program as people call it: what it prints, and how it refuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from qwen_align.config import groups

HEAVY = ("torch", "transformers", "trl", "datasets", "accelerate", "peft", "deepspeed")


def run_process(*argv: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *argv], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=60
    )


def test_help_shows_every_group_with_its_options(run_main):
    code, shown, errors = run_main("--help")
    assert (code, errors) == (0, "")
    assert len(groups.names()) >= 8
    for group in groups.names():
        assert re.search(rf"  {group} +{re.escape(', '.join(groups.options(group)))}\n", shown)


def commands_of_the_help(shown: str) -> list[list[str]]:
    lines = [line.strip() for line in shown.splitlines() if line.strip().startswith("python -m qwen_align ")]
    return [line.partition("   ")[0].split()[3:] for line in lines if "GROUP=OPTION" not in line]


def test_help_has_five_commands_to_copy(run_main):
    _, shown, _ = run_main("--help")
    assert len(commands_of_the_help(shown)) >= 5


def test_the_commands_of_the_help_are_right(run_main):
    _, shown, _ = run_main("--help")
    for command in commands_of_the_help(shown):
        given = [text for text in command if text != "init=runs/FOLDER"]
        code, _, errors = run_main(*given, "plan=true")
        assert (given, code, errors) == (given, 0, "")


def test_cfg_job_prints_yaml(run_main):
    code, shown, errors = run_main("method=rloo", "--cfg", "job")
    assert (code, errors) == (0, "")
    config = yaml.safe_load(shown)
    assert config["method"]["args"]["_target_"] == "trl.RLOOConfig"


def test_the_plan_of_the_quickstart_is_three_stages_in_order(run_main, tmp_path):
    code, shown, errors = run_main("experiment=quickstart", "plan=true")
    assert (code, errors) == (0, "")
    plan, forecast = shown.split("\n\n")
    assert [line.split()[0] for line in plan.splitlines()[2:]] == ["sft", "rloo", "best_of_n"]
    assert [line.split()[0] for line in forecast.splitlines()[2:5]] == ["sft", "rloo", "best_of_n"]
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_plans_every_job(run_main):
    code, shown, errors = run_main("-m", "method=sft", "seed=1,2", "plan=true")
    assert (code, errors) == (0, "")
    folders = [line.split()[-1] for line in shown.splitlines() if line.startswith("sft ")]
    assert len(set(folders)) == 2


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["method=rlo"], "(did you mean rloo?)"),
        (["metod=rloo"], "(did you mean method?)"),
        (["method.args.learning_rat=1"], "(did you mean learning_rate?)"),
        (["stages.rloo.args.num_generation=4"], "(did you mean num_generations?)"),
        (["method=rloo", "method.args.num_generations=four"], "expected int"),
        (["seed=abc"], "expected a whole number"),
        (["workers=0"], "expected a whole number from 1 on"),
        (["+foo=1"], "foo=1: no such key"),
        (["data.problem=3"], "(did you mean data.problems?)"),
        (["hardware.device=tpu"], "expected one of auto, cpu, gpu"),
        (["method.args.num_generations=four"], "num_generations"),
        (["data.count=[3]"], "data.count"),
        (["data.count=[3,x]"], "data.count"),
        (["model"], "model"),
        (["~model"], "model"),
        (["tracking.mode=offlin", "tracking=wandb"], "expected auto, online or offline"),
        (["seed=1,2"], "seed"),
        (["method.args.learning_rate={"], "method.args.learning_rate={"),
        (["runs_dir=${nowhere}"], "nowhere"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_and_exit_code_2(run_main, overrides, says):
    code, shown, errors = run_main(*overrides, "plan=true")
    assert code == 2
    assert shown == ""
    assert len(errors.splitlines()) == 1
    assert errors.startswith("error: ")
    assert says in errors


def test_a_folder_that_can_not_be_written_is_one_line(run_main, tmp_path):
    (tmp_path / "file").touch()
    code, _, errors = run_main("experiment=quickstart", "method=sft", "runs_dir=file")
    assert code == 2
    assert errors.startswith("error: runs_dir=")
    assert len(errors.splitlines()) == 1


def test_a_plan_imports_nothing_heavy(tmp_path):
    script = (
        "import sys; from qwen_align.__main__ import main; sys.argv[1:] = ['experiment=quickstart', 'plan=true'];"
        f"code = main(); print('HEAVY', [m for m in {HEAVY} if m in sys.modules]); sys.exit(code)"
    )
    done = run_process("-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_a_model_of_the_hub_without_a_network_is_one_line(tmp_path):
    given = ("method=rloo", "reward=countdown", "data=countdown", "model=qwen2.5_0.5b")
    done = run_process("-m", "qwen_align", *given, cwd=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: model.name=Qwen/Qwen2.5-0.5B: ")
    assert "model=countdown_tiny experiment=quickstart" in done.stderr
    assert "Traceback" not in done.stdout


def test_a_hub_that_can_not_be_reached_is_one_line(tmp_path):
    environment = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = run_process("-m", "qwen_align", "method=sft", cwd=tmp_path, **environment)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: model.name=Qwen/Qwen2.5-0.5B: ")


def test_the_module_runs_from_another_working_directory(tmp_path):
    done = run_process("-m", "qwen_align", "experiment=quickstart", "plan=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "runs/sft-countdown-countdown_tiny-" in done.stdout


@pytest.mark.parametrize(
    "own",
    [
        ["reward=distilbert_tiny", "adapter=lora", "method=rloo", "adapter.r=4"],
        ["reward=verifier", "method=dpo", "data.pairs=64", "++method.args.beta=0.3"],
        ["reward.batch_tokens=99", "method=reward"],
    ],
)
def test_options_put_on_top_are_composed_as_hydra_does(own, stages_of):
    given = ["experiment=quickstart_instruct", *own]
    stage = stages_of(*given)[-1]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(groups.CONF), version_base="1.3"):
        job = compose("config", given)
    for group in ("model", "data", "reward", "adapter", "generator", "hardware", "evaluation", "seed", "max_completion_length"):
        expected = OmegaConf.to_container(job[group], resolve=True) if OmegaConf.is_config(job[group]) else job[group]
        assert stage.config[group] == expected
