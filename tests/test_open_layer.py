"""What a user brings along as plain functions, typed as the README types it: rewards, judges, verifiers."""

import json
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from tiny import TINY

from qwen_align import __main__ as program
from qwen_align import run_folder
from qwen_align.config import groups

pytestmark = pytest.mark.slow

REWARD = '''
def short(completions, most=200, **kwargs):
    """1 for a short answer, 0 for a long one."""
    return [float(len(completion[0]["content"]) < most) for completion in completions]
'''
VERIFIER = """
def verify(completion, target, **row):
    return str(target) in (completion or "")
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """The folder of a policy that was trained for a moment, and with it the user's files."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_conf" / "reward").mkdir(parents=True)
    (folder / "my_conf" / "rewards.py").write_text(REWARD)
    (folder / "my_conf" / "reward" / "short.yaml").write_text(
        "_target_: rewards.py:short\nmost: 40\nname: short\nweight: 0.5\nclip: null\n"
    )
    (folder / "mine.py").write_text(VERIFIER)
    return folder


@pytest.fixture
def run(start, monkeypatch, capfd):
    """run("method=rloo", ...): (exit code, output) of the program, in the user's folder."""

    def call(*overrides: str) -> tuple[int, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(groups, "extra", [])
        monkeypatch.chdir(start)
        monkeypatch.setattr(sys, "argv", ["qwen_align", *overrides])
        code = program.main()
        out, errors = capfd.readouterr()
        return code, out + errors

    return call


def last(start: Path, method: str) -> Path:
    return max((start / "runs").glob(f"{method}-*/run.json"), key=lambda p: p.stat().st_mtime).parent


def logged(folder: Path) -> set[str]:
    return {key for line in run_folder.read_jsonl(folder / "metrics.jsonl") for key in line}


def test_a_reward_of_trl_trains(run, start):
    code, said = run(*TINY, "name=null", "method=rloo", "reward._target_=trl.rewards.think_format_reward")
    assert code == 0, said
    assert "rewards/think_format_reward/mean" in logged(last(start, "rloo"))


def test_a_factory_of_trl_trains_on_token_ids(run, start):
    factory = "reward._target_=trl.rewards.get_soft_overlong_punishment"
    code, said = run(*TINY, "name=null", "method=rloo", factory, "+reward.max_completion_len=28", "+reward.soft_punish_cache=8")
    assert code == 0, said


LIBRARIES = """
def known(completions, **kwargs):
    import matplotlib.figure, pandas, scipy.optimize, scipy.stats, sympy, wandb.sdk.wandb_settings
    low = scipy.optimize.minimize_scalar(lambda x: (x - 2) ** 2).x
    assert abs(low - 2) < 1e-6 and sympy.Integer(2) + 1 == 3 and wandb.Settings(mode="offline").mode == "offline"
    frame = pandas.DataFrame({"length": [float(len(completion[0]["content"])) for completion in completions]})
    assert matplotlib.figure.Figure() and scipy.stats.norm.cdf(0.0) == 0.5
    return list(frame["length"] * 0.01)
"""


def test_a_users_reward_imports_what_a_stage_defers(run, start):
    (start / "libraries.py").write_text(LIBRARIES)
    code, said = run(*TINY, "name=null", "method=rloo", "init=base", "reward._target_=libraries.py:known")
    assert code == 0, said
    assert "rewards/known/mean" in logged(last(start, "rloo"))


def test_a_users_function_and_yaml_drive_rloo(run, start):
    code, said = run("--config-dir", "my_conf", *TINY, "name=null", "method=rloo", "reward=short")
    assert code == 0, said
    assert "rewards/short/mean" in logged(last(start, "rloo"))


def test_a_users_function_chooses_in_best_of_n(run, start):
    code, said = run(
        "--config-dir", "my_conf", *TINY, "name=null", "reward=short", "init=sft", "method.select=reward",
        "method.ancestors=false",
    )  # fmt: skip
    assert code == 0, said
    metrics = run_folder.read_json(last(start, "best_of_n") / "metrics.json")
    assert metrics["headline"]["name"].startswith("reward@")


def test_a_users_function_judges_in_compare(run, start):
    policies = 'method.policies={sft: ["method=sft"], again: ["method=sft", "seed=2"]}'
    code, said = run(
        "--config-dir", "my_conf", *TINY, "name=null", "method=compare", "reward=short", "method.reward=${reward}",
        "method.problems=10", "method.samples=2", policies,
    )  # fmt: skip
    assert code == 0, said
    metrics = run_folder.read_json(last(start, "compare") / "metrics.json")
    assert 0.0 <= metrics["policies"]["sft"]["short"]["mean"] <= 1.0


def test_a_function_named_on_the_command_line_is_a_reward(run, start):
    code, said = run(*TINY, "name=null", "method=rloo", "reward=my_conf/rewards.py:short")
    assert code == 0, said
    assert "rewards/short/mean" in logged(last(start, "rloo"))


def test_a_users_verifier_judges_their_own_rows(run, start):
    rows = [{"prompt": f"Numbers 1 2 target {n}", "target": n} for n in range(3, 9)]
    (start / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    taught = [{"prompt": f"Numbers 3 4 target {row['target']}", "completion": f"It is {row['target']}"} for row in rows]
    (start / "taught.jsonl").write_text("".join(json.dumps(row) + "\n" for row in taught))
    code, said = run(
        "model=countdown_tiny", "data=local", "method=evaluate", "init=sft", "data.demonstrations_path=taught.jsonl",
        "data.evaluation_path=mine.jsonl", "data.verifier=mine.py:verify", "stages.sft.args.max_steps=2",
        "stages.sft.batch_size=2", "max_completion_length=8", "hardware=cpu", "evaluation.samples=2",
    )  # fmt: skip
    assert code == 0, said
    summary = run_folder.read_json(last(start, "evaluate") / "metrics.json")["evaluation"]
    assert summary["n"] == 6 and "greedy" in summary
