"""Where TRL starts an engine of vLLM; tests/vllm_engine has vLLM itself."""

import ast
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from qwen_align.compat.vllm import engine_like_trainer


@pytest.mark.parametrize("args", [{"use_vllm": False}, {"use_vllm": True, "vllm_mode": "server"}], ids=["none", "a server"])
def test_without_an_engine_in_this_process_nothing_is_replaced(args):
    with engine_like_trainer(SimpleNamespace(**args)):
        pass


def test_trl_starts_its_engine_by_the_name_that_is_replaced():
    spec = importlib.util.find_spec("trl.generation.vllm_generation")
    calls = [node for node in ast.walk(ast.parse(Path(spec.origin).read_text())) if isinstance(node, ast.Call)]
    assert [node for node in calls if ast.unparse(node.func) == "LLM"]
