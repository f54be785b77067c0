"""vLLM for real, on a CPU: `make test-vllm`. (A folder tests/vllm would be imported in place of the package.)"""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import finish, logged, start

from qwen_align import model
from qwen_align.generator import Completion, Sampling, sample
from qwen_align.generator.vllm import Vllm
from qwen_align.hardware import Hardware
from qwen_align.stage import launch

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="make test-vllm has it")]

COMMON = (
    "experiment=quickstart", "data.problems=4000", "data.evaluation_problems=40", "evaluation.problems=20",
    "evaluation.samples=4", "generator.gpu_memory_utilization=0.3", "generator.enforce_eager=true",
)  # fmt: skip
QUICK = tuple(word for word in COMMON if not word.startswith("generator."))


def run(runs: Path, *words: str) -> Path:
    """The run folder of the one stage of a program that ends as it should."""
    code, said = finish(start(runs, *words))
    assert code == 0, said[-3000:]
    folder = next(runs.glob("*/run.json")).parent
    assert "Traceback" not in said + (folder / "log.txt").read_text()
    return folder


@pytest.fixture(scope="module")
def policy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a quickstart policy that has learned the form of an answer."""
    return run(tmp_path_factory.mktemp("sft"), *QUICK, "method=sft", "method.args.save_steps=1000")


def answers(folder: Path) -> list[str]:
    """Each problem's greedy answer."""
    lines = (folder / "samples.jsonl").read_text().splitlines()
    return [json.loads(line)["greedy"][0] for line in lines]


def test_greedy_answers_are_those_of_transformers(policy_run: Path, tmp_path: Path):
    words = ("method=evaluate", f"init={policy_run}")
    ours = run(tmp_path / "transformers", *QUICK, *words)
    theirs = run(tmp_path / "vllm", *COMMON, *words, "generator=vllm")
    assert len(set(answers(ours))) > 10
    assert answers(theirs) == answers(ours)


@pytest.fixture(scope="module")
def drawn(policy_run: Path) -> Iterator[dict[int, list[list[Completion]]]]:
    """For each of three seeds, four samples of each of eight problems with one prompt."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in launch.environment(Hardware(device="cpu")).items():
            patch.setenv(name, value)
        source, loaded = Vllm(enforce_eager=True), model.from_run(policy_run)
        prompts = [[{"role": "user", "content": "Numbers 3 5 7 target 8"}]] * 8
        yield {s: sample(source, prompts, Sampling(4, 1.0, 28, s), "samples", loaded) for s in (1, 2, 6)}
        assert Vllm._running is not None
        Vllm._running.stop()
        Vllm._running = None


def test_no_two_problems_share_samples(drawn: dict[int, list[list[Completion]]]):
    texts = [completion.text for pool in drawn[1] for completion in pool]
    assert len(set(texts)) == len(texts) == 32


@pytest.mark.parametrize("other", [2, 6])
def test_a_seed_nearby_draws_other_samples(drawn: dict[int, list[list[Completion]]], other: int):
    first, second = ({completion.text for pool in drawn[seed] for completion in pool} for seed in (1, other))
    assert not first & second


@pytest.fixture(scope="module")
def rloo(policy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RLOO with completions by vLLM, measured by vLLM, from a folder that names another stop token, as base models do."""
    start_from = tmp_path_factory.mktemp("policy") / "model"
    shutil.copytree(policy_run / "model", start_from)
    for name, key, value in (
        ("generation_config.json", "eos_token_id", 0),
        ("tokenizer_config.json", "eos_token", "<|endoftext|>"),
    ):
        settings = json.loads((start_from / name).read_text())
        (start_from / name).write_text(json.dumps(settings | {key: value}))
    return run(
        tmp_path_factory.mktemp("rloo"), *COMMON, "method=rloo", f"init={start_from}", "generator=vllm",
        "method.args.use_vllm=true", "method.args.max_steps=3", "method.args.warmup_steps=0",
        "method.args.learning_rate=1e-3", "method.prompts_per_step=8", "method.args.save_steps=3",
    )  # fmt: skip


def test_rollouts_end_at_the_stop_token_of_the_policy(rloo: Path):
    assert max(logged(rloo, "completions/clipped_ratio")) < 0.3
    assert max(logged(rloo, "completions/mean_length")) < 27


def test_rollouts_are_drawn_from_the_weights_that_are_trained(rloo: Path):
    drift = logged(rloo, "sampling/logp_difference/mean")
    assert len(drift) == 3
    assert max(drift) < 1e-4
    assert max(logged(rloo, "sampling/logp_difference/max")) < 1e-2
    assert max(logged(rloo, "sampling/importance_weight")) < 1.01


def test_the_trained_policy_is_measured_behind_the_engine(rloo: Path):
    assert json.loads((rloo / "metrics.json").read_text())["evaluation"]["n"] == 20
