"""Completions come back in the prompts' order, end at the stop token, and repeat with the seed."""

import pytest
import torch

from qwen_align import model
from qwen_align.generator import sample
from qwen_align.generator.transformers import Transformers


@pytest.fixture(scope="module")
def loaded():
    torch.manual_seed(0)
    size = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    return model.from_scratch("Numbers target + - ;", 20, **size)


def prompts_of(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


def draw(loaded, prompts, **changes):
    settings = {"n": 3, "temperature": 1.0, "max_completion_length": 8, "seed": 0, "title": "test"} | changes
    return sample(Transformers(settings.pop("batch_size", 6)), prompts, policy=loaded, **settings)


def test_n_completions_a_prompt_within_the_length(loaded):
    found = draw(loaded, prompts_of("Numbers 1 target 2", "Numbers 1 2 3 4 target 5", "target 9"))
    assert [len(pool) for pool in found] == [3, 3, 3]
    assert all(1 <= completion.tokens <= 8 for pool in found for completion in pool)


def test_greedy_answers_do_not_depend_on_batching_or_order(loaded):
    prompts = prompts_of("Numbers 1 target 2", "Numbers 1 2 3 4 target 5", "target 9", "Numbers 20 target 3")
    alone = [draw(loaded, [p], n=1, temperature=0.0, batch_size=1)[0][0].text for p in prompts]
    together = [pool[0].text for pool in draw(loaded, prompts, n=1, temperature=0.0, batch_size=4)]
    assert together == alone


def test_the_seed_repeats_a_draw_and_another_changes_it(loaded):
    prompts = prompts_of("Numbers 1 target 2")
    assert draw(loaded, prompts) == draw(loaded, prompts)
    assert draw(loaded, prompts, seed=1) != draw(loaded, prompts)


def test_a_stop_token_ends_a_completion_and_counts(loaded):
    policy, tokenizer = loaded
    stop = tokenizer.eos_token_id
    try:
        policy.generation_config.eos_token_id = list(range(len(tokenizer)))
        found = draw(loaded, prompts_of("Numbers 1 target 2"))[0]
        assert [(c.tokens, c.finished) for c in found] == [(1, True)] * 3
    finally:
        policy.generation_config.eos_token_id = [stop]


def test_a_cut_completion_says_so(loaded):
    policy, tokenizer = loaded
    policy.generation_config.eos_token_id = [len(tokenizer) + 5]
    try:
        assert all(not c.finished and c.tokens == 8 for c in draw(loaded, prompts_of("target 1"))[0])
    finally:
        policy.generation_config.eos_token_id = [tokenizer.eos_token_id]
