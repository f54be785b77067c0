"""Every YAML in conf/: it composes, and what it says is what its target takes."""

import dataclasses
import inspect
import math
import os
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object

from qwen_align.config import groups

FILES = sorted(groups.CONF.rglob("*.yaml"))
WHOLE = ("experiment", "sweep")  # groups whose options are no components: they choose among those of the others
SUITES = [p for p in FILES if p.parent.name == "bench"]  # of another program; tests/bench/ plans them
COMPONENTS = [p for p in FILES if p not in SUITES and p.relative_to(groups.CONF).parts[0] not in (*WHOLE, "config.yaml")]
MODULES = {  # group -> where its targets live
    "adapter": ("qwen_align.model.", "peft."),
    "bench": ("qwen_align.bench.",),
    "data": ("qwen_align.data.",),
    "generator": ("qwen_align.generator.",),
    "hardware": ("qwen_align.hardware.",),
    "method": ("qwen_align.method.",),
    "model": ("qwen_align.model.",),
    "reward": ("qwen_align.reward.", "trl.rewards."),
    "tracking": ("qwen_align.tracking.",),
}

NEEDED = {  # overrides that an option does not go without
    "method=compare": ["data=countdown", 'method.policies={a: ["method=sft"], b: ["method=rloo"]}'],
    "method=evaluate": ["data=countdown"],
    "method=best_of_n": ["data=countdown"],
    "method=synthesize": ["data=countdown"],
    "data=local": ["method=evaluate", "init=base", "data.verifier=math", "data.evaluation_path=there.jsonl"],
    "data=hh_rlhf": ["method=reward", "reward=deberta"],
    "generator=openai": ["method=synthesize", "data=countdown", "generator.api_key_env=null"],
    "generator=recorded": ["method=evaluate", "data=countdown", "generator.path=there.jsonl"],
    "generator=solver": ["method=synthesize", "data=countdown"],
    "hardware=multinode": ["hardware.hostfile=launch/hostfile.example"],
}


def label(path: Path) -> str:
    return path.relative_to(groups.CONF).with_suffix("").as_posix()


def node_of(path: Path) -> dict:
    """The YAML with the options that it builds on."""
    return groups.read(path.parent.name, path.stem)


def keys_taken(target: str) -> tuple[set[str], set[str]]:
    """(the names that a target takes, those that it can't do without)."""
    found = get_object(target)
    if dataclasses.is_dataclass(found):
        taken = [f for f in dataclasses.fields(found) if f.init]
        required = {f.name for f in taken if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
        return {f.name for f in taken}, required
    parameters = inspect.signature(found).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name for p in named}, {p.name for p in named if p.default is p.empty}


def test_there_is_one_config_and_every_group_has_options():
    assert [p.name for p in groups.CONF.glob("*.yaml")] == ["config.yaml"]
    assert {path.parent.name for path in COMPONENTS} == set(groups.names()) - set(WHOLE)


def test_these_tests_see_every_yaml():
    there = [name for _, _, names in os.walk(groups.CONF) for name in names if name.endswith(".yaml")]
    experiments = [path for path in FILES if path.relative_to(groups.CONF).parts[0] in WHOLE]
    assert len(COMPONENTS) >= 18
    assert len(experiments) >= 1
    assert len(there) == len(COMPONENTS) + len(SUITES) + len(experiments) + 1, "and config.yaml"


@pytest.mark.parametrize("path", [*COMPONENTS, *SUITES], ids=label)
def test_first_line_names_the_target(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("_target_: ")


@pytest.mark.parametrize("path", [*COMPONENTS, *SUITES], ids=label)
def test_target_lives_in_the_module_of_its_group(path):
    target = yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"]
    assert target.startswith(MODULES[path.parent.name])


@pytest.mark.parametrize("path", [p for p in COMPONENTS if p.parent.name == "method"], ids=label)
def test_a_method_is_the_module_of_its_name(path):
    assert node_of(path)["_target_"].rpartition(".")[0] == f"qwen_align.method.{path.stem}"


@pytest.mark.parametrize("path", [*(p for p in COMPONENTS if p.parent.name != "method"), *SUITES], ids=label)
def test_target_takes_the_keys(path):
    node = node_of(path)
    keys = node.keys() - {"_target_"} - set(groups.LAYER if path.parent.name == "reward" else ())
    keys -= {"verifier"} if path.parent.name == "data" and path.stem != "local" else set()  # the layer builds it
    taken, required = keys_taken(node["_target_"])
    found = get_object(node["_target_"])
    free = not inspect.isclass(found) and any(p.kind is p.VAR_KEYWORD for p in inspect.signature(found).parameters.values())
    if free:  # from_scratch hands the rest to the architecture's config
        from transformers import Qwen2Config

        taken = taken | {f.name for f in dataclasses.fields(Qwen2Config)} | {"rope_theta"}
    assert keys <= taken
    assert required <= keys


@pytest.mark.parametrize("path", [p for p in COMPONENTS if p.parent.name == "method"], ids=label)
def test_a_method_takes_job_data_and_folder(path):
    method = get_object(node_of(path)["_target_"])
    assert list(inspect.signature(method).parameters) == ["job", "data", "folder"]


@pytest.mark.parametrize("path", [p for p in COMPONENTS if "args" in node_of(p)], ids=label)
def test_trl_has_every_key_of_args(path):
    args = node_of(path)["args"]
    taken, _ = keys_taken(args["_target_"])
    assert args["_target_"].startswith("trl.")
    assert args.keys() - {"_target_"} <= taken


@pytest.mark.parametrize("path", [p for p in COMPONENTS if p.parent.name == "method"], ids=label)
def test_a_method_asks_for_a_known_view(path):
    assert node_of(path)["view"] in ("demonstrations", "preferences", "prompts", "evaluation")


@pytest.mark.slow
@pytest.mark.parametrize("path", COMPONENTS, ids=label)
def test_option_composes_and_plans(path, stages_of, monkeypatch):
    # A plan for any hardware can be made anywhere.
    monkeypatch.setattr("qwen_align.hardware.gpus", lambda: ["0", "1"])
    monkeypatch.setattr("qwen_align.hardware.torch_build", lambda: ("2.13.0", "13.0"))
    monkeypatch.setattr("qwen_align.generator.vllm.installed", lambda: ("vllm", "0.31.0"))
    for name, value in {"SLURM_JOB_ID": "1", "MASTER_ADDR": "node-1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    (Path.cwd() / "there.jsonl").write_text(
        '{"prompt": "1 + 1?", "answer": "2", "nums": [1, 1], "target": 2, "response": ["2"]}\n'
    )
    needed = NEEDED.get(f"{path.parent.name}={path.stem}", [])
    stages = stages_of(f"{path.parent.name}={path.stem}", *needed)
    assert stages[-1].choices[path.parent.name] == path.stem


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "experiment"], ids=label)
def test_experiment_composes_and_plans(path, stages_of, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "for a plan")
    stages = stages_of(f"experiment={path.stem}")
    assert stages[-1].choices["experiment"] == path.stem


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "sweep"], ids=label)
def test_every_job_of_a_sweep_plans(path, run_main):
    grid = yaml.safe_load(path.read_text(encoding="utf-8"))["hydra"]["sweeper"]["params"]
    jobs = math.prod(len(str(values).split(",")) for values in grid.values())
    code, out, errors = run_main(f"sweep={path.stem}", "plan=true")
    assert (code, errors) == (0, "")
    assert out.count("run folder") == jobs > 1
