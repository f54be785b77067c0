"""The numbers about vLLM's completions; tests/vllm_engine has vLLM itself."""

import math
from types import SimpleNamespace

import pytest
import torch

from qwen_align.method import rollouts


def inner(**more):
    """Like TRL's VLLMGeneration, as RLOO makes it."""
    return SimpleNamespace(mode="server", logprobs=None, generation_kwargs={}, **more)


def test_vllm_is_asked_for_the_log_prob_of_what_it_draws():
    theirs = inner(generate=lambda prompts: (None, [[1]], [[[-0.5]]], None))
    ours = rollouts.Rollouts(theirs, [2])
    assert ours.generate([[3]])[1] == [[1]]
    assert theirs.logprobs == 0
    assert ours.drawn == [[[-0.5]]]


def test_the_policy_s_stop_tokens_join_those_of_the_user():
    theirs = inner()
    theirs.generation_kwargs = {"stop_token_ids": [9], "seed": 1}
    rollouts.Rollouts(theirs, [2, 5])
    assert theirs.generation_kwargs == {"stop_token_ids": [2, 5, 9], "seed": 1}


def test_log_probs_are_compared_once_a_generation():
    ours = rollouts.Rollouts(inner(generate=lambda: (None, None, [[[-1.0]]], None)), [2])
    ours.generate()
    ours.compare(torch.tensor([[-1.0]]), torch.tensor([[1]]))
    assert ours.drawn is None


def test_drift_is_over_the_tokens_that_were_drawn():
    drawn = [[[-1.0], [-2.0]], [[-3.0], [None], [-1.0]]]
    trained = torch.tensor([[-1.1, -1.8, -50.0], [-3.0, -7.0, -1.5]])
    found = rollouts.drift(rollouts.offs(drawn, trained, torch.ones(2, 3)))
    assert found["sampling/logp_difference/mean"] == pytest.approx((0.1 + 0.2 + 0.0 + 0.5) / 4)
    assert found["sampling/logp_difference/max"] == pytest.approx(0.5)
    assert found["sampling/importance_weight"] == pytest.approx(math.exp((0.1 + 0.5) / 2))


def test_completions_that_are_not_trained_do_not_count():
    drawn = [[[-1.0]], [[-1.0]]]
    found = rollouts.offs(drawn, torch.tensor([[-1.0], [0.0]]), torch.tensor([[1], [0]]))
    assert rollouts.drift(found)["sampling/logp_difference/max"] == 0.0
    assert rollouts.drift(found[1:]) == {}
