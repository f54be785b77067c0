"""Command lines as people mistype them, and unusual ones that are right: one line and exit code 2, or a plan."""

import os
import subprocess
import sys

import pytest

REWARDS = {
    "good.py": "def f(completions, **columns):\n    return [0.0 for _ in completions]\n",
    "raises.py": "raise RuntimeError('boom')\ndef f(completions, **columns):\n    return []\n",
    "lacks.py": "import torch\nimport not_a_module_xyz\ndef f(completions, **columns):\n    return []\n",
    "text.py": "def f(text):\n    return 1.0\n",
    "optional.py": "try:\n    import not_a_module_xyz\nexcept ImportError:\n    pass\ndef f(completions):\n    return []\n",
}
EXPERIMENTS = {
    "tab": "# @package _global_\nmethod:\n\targs: 1\n",
    "twice": "# @package _global_\nseed: 1\nseed: 2\n",
    "no_package": "seed: 3\n",
    "no_group": "# @package _global_\ndefaults:\n  - override /metod: sft\n",
    "no_override": "# @package _global_\ndefaults:\n  - /method: sft\n",
    "right": "# @package _global_\ndefaults:\n  - override /method: sft\nseed: 3\n",
}


@pytest.fixture
def files(in_empty_folder):
    folder = in_empty_folder / "conf_own" / "experiment"
    folder.mkdir(parents=True)
    for name, text in EXPERIMENTS.items():
        (folder / f"{name}.yaml").write_text(text)
    for name, text in REWARDS.items():
        (in_empty_folder / name).write_text(text)
    (in_empty_folder / "torn").mkdir()
    (in_empty_folder / "torn" / "run.json").write_text("{")


MISTAKES = [
    ("method = rloo", "method=rloo"),
    ("--method rloo", "method=rloo"),
    ("--method=rloo", "method=rloo"),
    ("-method=rloo", "method=rloo"),
    ("method:rloo", "method=rloo"),
    ("method/rloo", "method=rloo"),
    ("seed: 1", "seed=1"),
    ("--plan", "plan=true"),
    ("--dry-run", "--help"),
    ("--cfg jobb", "job, hydra, all"),
    ("--config-dir nope", "--config-dir nope"),
    ("--config-dir good.py", "--config-dir good.py"),
    ("method=sft,dpo", "expected -m"),
    ("seed=1,2", "expected -m"),
    ("name=it's", "quoted inside the shell's"),
    ("name=[a", "[ without ]"),
    ("seed=1,", "expected seed=1"),
    ("method=null", "expected one of best_of_n"),
    ("--config-dir conf_own experiment=tab", "tab.yaml"),
    ("--config-dir conf_own experiment=twice", "duplicate key seed"),
    ("--config-dir conf_own experiment=no_package", "# @package _global_"),
    ("--config-dir conf_own experiment=no_group", "did you mean method?"),
    ("--config-dir conf_own experiment=no_override", "override /method: sft"),
    ("method=rloo reward=raises.py:f", "boom"),
    ("method=rloo reward=lacks.py:f", "line 2 imports not_a_module_xyz"),
    ("method=rloo reward=text.py:f", "f(completions, **columns)"),
    ("method=rloo reward=good.py::f", "good.py:f"),
    ("method=rloo init=torn", "init="),
    ("runs_dir=good.py", "is no folder"),
    ("runs_dir=null", "expected a folder"),
]


@pytest.mark.parametrize(("command", "says"), MISTAKES, ids=lambda value: value.replace(" ", "_"))
def test_a_mistyped_command_is_told_what_would_be_right(run_main, files, command, says):
    code, _, errors = run_main(*command.split(), "plan=true")
    assert (code, len(errors.splitlines())) == (2, 1), errors
    assert says in errors


@pytest.mark.parametrize(
    "command",
    [
        "~method.args.beta method=rloo",
        "adapter=null",
        "experiment=null method=sft",
        "method=sft seed=1,2 -m",
        "name=Été",
        "name=a=b",
        "runs_dir=deep/in/été",
        "method=rloo reward=good.py:f",
        "method=rloo reward=optional.py:f",
        "--config-dir=conf_own/ experiment=right",
        "experiment=right -cd conf_own",
    ],
)
def test_an_unusual_command_is_planned(run_main, files, command):
    code, shown, errors = run_main(*command.split(), "plan=true")
    assert (code, errors) == (0, "")
    assert "run folder" in shown


@pytest.mark.parametrize("given", ["method=sft", "-m seed=1,2"])
def test_a_plan_that_nobody_reads_on_ends_without_a_traceback(tmp_path, given):
    command = f"{sys.executable} -m qwen_align {given} plan=true | true"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=os.environ | {"LC_ALL": "C"}, capture_output=True, timeout=60
    )
    assert b"Traceback" not in done.stderr
