"""A prompt that is computed once gives the log-probs, entropies and gradients that TRL's fused head gives row by row."""

import copy

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from qwen_align.compat.trl import head_on_labels
from qwen_align.method.shared_prompts import Split, share_prompts_of
from qwen_align.model import from_scratch

PROMPT, ANSWER, VOCABULARY = 7, 6, 30


@pytest.fixture(scope="module")
def models():
    """TRL's way, and the same weights with shared prompts."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    plain = from_scratch("Numbers target", 20, **shape, intermediate_size=48)[0].train()
    shared = copy.deepcopy(plain)
    for model in (plain, shared):
        add_fused_lm_head(model, temperature=0.8, outputs=("log_probs", "entropy", "is_top1"))
    share_prompts_of(shared)
    yield plain, shared
    head_on_labels(False)


def rows(left: bool, samples: int = 4, prompts: int = 5):
    """ids, mask and labels of prompts with several answers; padded as RLOO's (left) or as DPO's, in halves."""
    chance = torch.Generator().manual_seed(3)
    draw = lambda low, high, *size: torch.randint(low, high, size, generator=chance)  # noqa: E731
    asked = [draw(0, VOCABULARY, int(draw(2, PROMPT + 1, 1))) for _ in range(prompts)]
    found = []
    for i in range(samples * prompts):
        prompt, answer = asked[i // samples if left else i % prompts], draw(0, VOCABULARY, int(draw(1, ANSWER + 1, 1)))
        before = PROMPT - len(prompt) if left else 0
        after = PROMPT + ANSWER - before - len(prompt) - len(answer)
        ids = torch.cat([torch.zeros(before, dtype=torch.long), prompt, answer, torch.zeros(after, dtype=torch.long)])
        mask = torch.tensor([0] * before + [1] * (len(prompt) + len(answer)) + [0] * after)
        labels = torch.where((torch.arange(len(ids)) >= before + len(prompt)) & (mask == 1), ids, -100)
        found.append((ids, mask, labels))
    return tuple(torch.stack(part) for part in zip(*found, strict=True))


def outputs(model, ids, mask, labels):
    """What the head says, and the gradient of a weighted sum of it."""
    model.zero_grad()
    found = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True, use_cache=False)
    weights = torch.linspace(-1, 1, len(ids))
    (found.log_probs.sum(1) * weights).sum().backward()
    return found, torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("left", [True, False], ids=["as RLOO pads", "as DPO pads"])
@pytest.mark.parametrize("on_labels", [True, False], ids=["head on labels", "head on all"])
def test_log_probs_and_gradients_are_those_of_trl(models, left, on_labels):
    given = rows(left)
    assert Split(*given).tokens() < given[0].numel(), "or nothing would be shared"
    head_on_labels(on_labels)
    (plain, expected), (shared, found) = (outputs(model, *given) for model in models)
    for name in ("log_probs", "entropy"):
        torch.testing.assert_close(getattr(shared, name), getattr(plain, name), atol=2e-6, rtol=1e-6)
    assert torch.equal(shared.is_top1.bool(), plain.is_top1.bool())
    assert torch.equal(shared.label_mask, plain.label_mask)
    assert (found - expected).norm() / expected.norm() < 1e-6


def test_a_row_without_labels_changes_nothing(models):
    ids, mask, labels = rows(left=True)
    labels[3], mask[3, PROMPT:] = -100, 0
    (plain, expected), (shared, found) = (outputs(model, ids, mask, labels) for model in models)
    assert shared.log_probs[3].abs().max() == 0
    torch.testing.assert_close(shared.log_probs, plain.log_probs, atol=2e-6, rtol=1e-6)
    assert (found - expected).norm() / expected.norm() < 1e-6


def test_prompts_are_told_apart_by_tokens_and_length():
    ids = torch.tensor([[5, 5, 6, 9], [0, 5, 6, 9], [5, 5, 6, 8]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]])
    labels = torch.where(torch.arange(4) == 3, ids, -100)
    owner = Split(ids, mask, labels).owner
    assert owner[0] == owner[2] != owner[1]


@pytest.mark.parametrize(
    ("mask", "labels"),
    [
        ([[1, 0, 1, 1], [1, 1, 1, 1]], [[-100, -100, 1, 1], [-100, -100, 1, 1]]),
        ([[0, 1, 1, 1], [1, 1, 1, 1]], [[-100, -100, 1, 1], [-100, -100, 1, 1]]),
    ],
    ids=["a hole", "a prompt of one token"],
)
def test_what_has_no_prompt_in_front_of_an_answer_is_left_to_trl(mask, labels):
    assert not Split(torch.ones(2, 4, dtype=torch.long), torch.tensor(mask), torch.tensor(labels)).regular


def test_ordinary_calls_are_untouched(models):
    ids, mask, _ = rows(left=False)
    found = [model(input_ids=ids, attention_mask=mask).logits for model in models]
    assert torch.equal(*found)
