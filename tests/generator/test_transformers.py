"""Completions come back in the prompts' order, end at the stop token, and repeat with the seed."""

import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from qwen_align import model
from qwen_align.errors import ConfigError
from qwen_align.generator import Sampling, sample
from qwen_align.generator.transformers import Transformers, batches, draw_tokens, truncated


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


def draw(loaded, prompts, batch_size=6, **changes):
    drawn = Sampling(**{"n": 3, "temperature": 1.0, "max_completion_length": 8, "seed": 0} | changes)
    return sample(Transformers(batch_size), prompts, drawn, "test", loaded)


def test_n_completions_a_prompt_within_the_length(loaded):
    found = draw(loaded, prompts_of("Numbers 1 target 2", "Numbers 1 2 3 4 target 5", "target 9"))
    assert [len(pool) for pool in found] == [3, 3, 3]
    assert all(1 <= completion.tokens <= 8 for pool in found for completion in pool)


def test_greedy_answers_do_not_depend_on_batching_or_order(loaded):
    prompts = prompts_of("Numbers 1 target 2", "Numbers 1 2 3 4 target 5", "target 9", "Numbers 20 target 3")
    one_by_one = [draw(loaded, [p], n=1, temperature=0.0, batch_size=1)[0][0].text for p in prompts]
    together = [pool[0].text for pool in draw(loaded, prompts, n=1, temperature=0.0, batch_size=4)]
    assert together == one_by_one


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


def generated(loaded, prompts, **settings):
    """What model.generate answers, token ids up to and with the stop token."""
    policy, tokenizer = loaded
    ids = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, return_dict=True, padding=True, return_tensors="pt"
    )
    rows = policy.generate(**ids, pad_token_id=tokenizer.pad_token_id, **settings)[:, ids["input_ids"].shape[1] :]
    ends = policy.generation_config.eos_token_id
    lengths = [next((i + 1 for i, token in enumerate(row) if token in ends), len(row)) for row in rows.tolist()]
    return [row[:length] for row, length in zip(rows.tolist(), lengths, strict=True)]


@pytest.fixture
def rambling():
    """A policy with weights so large that greedy answers differ, and with stop tokens enough that they end anywhere."""
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, "num_attention_heads": 2}
    policy, tokenizer = model.from_scratch("Numbers target + - ;", 4, num_key_value_heads=1, **size)
    for weights in policy.parameters():
        weights.data.mul_(25) if weights.dim() > 1 else None
    policy.generation_config.eos_token_id = [2, 8, 9, 12]
    return policy, tokenizer


def test_greedy_answers_are_those_of_generate(rambling):
    prompts = prompts_of(*(f"Numbers {' '.join('1234'[: i % 4 + 1])} target {i % 5} {'+ ' * i}" for i in range(16)))
    expected = generated(rambling, prompts, do_sample=False, max_new_tokens=24)
    assert len({len(row) for row in expected}) > 3, "answers of many lengths, so that rows leave the batch"
    for batch_size in (3, 16):
        found = draw(rambling, prompts, n=1, temperature=0.0, max_completion_length=24, batch_size=batch_size)
        texts = rambling[1].batch_decode(expected, skip_special_tokens=True)
        assert [pool[0].text for pool in found] == texts
        assert [pool[0].tokens for pool in found] == [len(row) for row in expected]


def test_all_samples_of_a_greedy_prompt_are_alike(rambling):
    prompts = prompts_of("Numbers 1 target 2", "Numbers 1 2 3 4 target 3 + + +")
    for pool in draw(rambling, prompts, n=4, temperature=0.0, max_completion_length=12):
        assert len(set(pool)) == 1


def test_samples_have_the_distribution_of_generate(rambling):
    prompts = prompts_of("Numbers 1 target 2", "target 4")
    settings = {"do_sample": True, "temperature": 2.0, "top_k": 0, "top_p": 1.0, "num_return_sequences": 1500}
    expected = generated(rambling, prompts, max_new_tokens=3, **settings)
    found = draw(rambling, prompts, n=1500, temperature=2.0, max_completion_length=3)
    for index, pool in enumerate(found):
        theirs = [len(row) for row in expected[index * 1500 : (index + 1) * 1500]]
        for length in (1, 2, 3):
            ours = sum(c.tokens == length for c in pool) / 1500
            assert ours == pytest.approx(theirs.count(length) / 1500, abs=0.06)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_token_is_drawn_with_its_probability(temperature):
    torch.manual_seed(0)
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, float("-inf")])
    counts = torch.bincount(draw_tokens(logits.repeat(40_000, 1), temperature), minlength=5) / 40_000
    assert torch.allclose(counts, torch.softmax(logits / temperature, 0), atol=0.01)


def by_generate(scores, top_p, top_k):
    """What transformers' generate makes of scores: it filters by top-k before top-p."""
    warpers = ([TopKLogitsWarper(top_k)] if top_k else []) + ([TopPLogitsWarper(top_p)] if top_p < 1 else [])
    for warper in warpers:
        scores = warper(None, scores)
    return scores


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
@pytest.mark.parametrize(("top_p", "top_k"), [(0.95, 20), (0.5, 0), (0.95, 0), (1e-6, 0), (1.0, 1), (1.0, 7), (0.9, 900)])
def test_the_tokens_that_stay_are_those_of_generate(top_p, top_k, temperature):
    torch.manual_seed(0)
    scores = torch.cat([torch.randn(40, 800) * 3, torch.randn(40, 800) / 10]) / temperature
    scores[::7, ::3] = float("-inf")
    assert torch.equal(truncated(scores, top_p, top_k), by_generate(scores, top_p, top_k))


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 5), (0.8, 0), (0.8, 30)])
def test_of_equally_likely_tokens_as_many_stay_as_with_generate(top_p, top_k):
    torch.manual_seed(0)
    scores = torch.randn(60, 500).bfloat16().float().round(decimals=1)
    found, expected = (torch.sort(f(scores, top_p, top_k)).values for f in (truncated, by_generate))
    assert torch.equal(found, expected)


def test_a_token_is_drawn_with_its_probability_among_those_that_stay():
    torch.manual_seed(0)
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -9.0])
    counts = torch.bincount(draw_tokens(logits.repeat(40_000, 1), 0.6, top_p=0.95, top_k=3), minlength=5) / 40_000
    expected = torch.softmax(by_generate(logits[None] / 0.6, 0.95, 3), -1)[0]
    assert (expected > 0).tolist() == [True, True, False, False, False]
    assert torch.allclose(counts, expected, atol=0.01)


def test_top_k_of_one_is_the_greedy_answer(rambling):
    prompts = prompts_of("Numbers 1 target 2", "Numbers 1 2 3 4 target 3 + + +")
    greedy = draw(rambling, prompts, n=1, temperature=0.0, max_completion_length=12)
    assert draw(rambling, prompts, n=1, temperature=1.0, top_k=1, max_completion_length=12) == greedy


def test_batches_hold_prompts_of_like_length_within_both_budgets():
    lengths = [5, 90, 7, 30, 6, 31, 29, 88]
    found = list(batches(lengths, n=2, longest=10, batch_size=6, batch_tokens=400))
    assert sorted(i for batch in found for i in batch) == list(range(8)), "each prompt once"
    assert [[lengths[i] for i in batch] for batch in found] == [[90, 88], [31, 30, 29], [7, 6, 5]]
    assert all(2 * len(b) <= 6 and 2 * len(b) * (max(lengths[i] for i in b) + 10) <= 400 for b in found)


def test_a_prompt_larger_than_the_budget_is_a_batch_of_its_own():
    assert list(batches([50, 60], n=4, longest=10, batch_size=2, batch_tokens=10)) == [[1], [0]]


@pytest.mark.parametrize("key", ["batch_size", "batch_tokens"])
def test_a_budget_below_one_is_an_error(key):
    with pytest.raises(ConfigError, match=rf"generator\.{key}=0: expected a whole number from 1 on"):
        Transformers(**{key: 0})
