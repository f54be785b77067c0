"""Thinking is taken out, and nothing can be read across it."""

import pytest

from qwen_align.verifier.extraction import THOUGHT, without_thinking


@pytest.mark.parametrize(
    ("completion", "spoken"),
    [
        ("plain", "plain"),
        ("a<think>b</think>c", f"a{THOUGHT}c"),
        ("<think>a</think><think>b</think>c", f"{THOUGHT}{THOUGHT}c"),
        ("the prompt opened it</think>a", "a"),
        ("a</think>b<think>c</think>d", f"b{THOUGHT}d"),
        ("a<think>never closed", "a"),
        ("<think>a<think>b</think>c", f"{THOUGHT}c"),
        ("<THINK>a</THINK>", "<THINK>a</THINK>"),
    ],
)
def test_what_is_left_was_said(completion, spoken):
    assert without_thinking(completion) == spoken
