"""vLLM cannot run here: what is left to test is what it says without it, and that no engine is needed to say it."""

import importlib.util

import pytest

from qwen_align.errors import ConfigError
from qwen_align.generator.vllm import Vllm

without_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")


@without_vllm
def test_without_the_package_one_line_says_what_to_install():
    with pytest.raises(ConfigError, match=r"generator=vllm: .*pip install vllm.*generator=transformers") as caught:
        Vllm()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0, 1.5])
def test_a_share_of_memory_out_of_range_is_an_error(share):
    with pytest.raises(ConfigError, match=rf"generator\.gpu_memory_utilization={share}: expected a share"):
        Vllm(gpu_memory_utilization=share)
