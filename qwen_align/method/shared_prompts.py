"""Log-probs of answers with each prompt computed once: a group's samples, or the chosen and the rejected answer of a pair.

TRL gives the policy prompt and answer together, row by row, so a prompt of 200 tokens with 8 answers is computed 8 times. Here
the distinct prompts go through the model first; their keys and values, with their gradients, serve all rows that share them.
What comes out is what TRL's own fused head gives, up to rounding. It lies in the model's forward, where that head is, so all of
TRL's losses, the reference model, adapters and data-parallel wrappers pass through it.

Left out, and computed as before: layers without a whole cache (sliding windows, state spaces), activation checkpointing, ZeRO-3
(each process must call the same layers in the same order), images, FlashAttention (not tried).
"""

from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Dropout
from transformers import DynamicCache, PreTrainedModel, Trainer
from transformers.cache_utils import DynamicLayer

from qwen_align.compat.transformers import attention_of

_FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")  # of TRL's output, one number a token
_GIVEN = {"input_ids", "attention_mask", "labels", "fused_lm_head", "use_cache"}


def can_share(trainer: Trainer) -> bool:
    """Whether every layer of the policy keeps all keys and values, with an attention that was tried, the same on each pass."""
    policy = base_model(trainer, trainer.model)
    plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=policy.config).layers)
    tried = attention_of(policy) in ("sdpa", "eager") and zero_stage(trainer) != 3
    return plain and tried and not has_dropout(policy)


def zero_stage(trainer: Trainer) -> int:
    """DeepSpeed's, 0 without it."""
    return int(getattr(trainer.accelerator.state.deepspeed_plugin, "zero_stage", 0))


def base_model(trainer: Trainer, model: Any) -> Any:
    """The model itself, behind wrappers and adapters."""
    model = trainer.accelerator.unwrap_model(model)
    return model.get_base_model() if hasattr(model, "peft_config") else model


def has_dropout(model: PreTrainedModel) -> bool:
    """Whether two passes over the same rows differ by chance."""
    return any(isinstance(part, Dropout) and part.p > 0 for part in model.modules()) or any(
        getattr(model.config, name, 0) for name in ("attention_dropout", "attn_pdrop")
    )


class Split:
    """Rows (rows, tokens) as the prompt's tokens but the last, and what follows them: where labels begin, a prompt ends.

    `distinct` are row numbers, one for each different prompt; `owner` (rows,) says which of them is a row's.
    """

    def __init__(self, ids: Tensor, mask: Tensor, labels: Tensor) -> None:
        self.ids = ids
        self.start, self.count = mask.int().argmax(1), mask.sum(1)  # first token, number of tokens
        labelled = labels != -100
        first = torch.where(labelled.any(1), labelled.int().argmax(1), self.start + self.count)
        self.shared = first - self.start - 1  # tokens of the prompt but the last
        whole = torch.arange(ids.shape[1], device=ids.device)
        inside = (whole >= self.start[:, None]) & (whole < (self.start + self.count)[:, None])
        self.regular = bool((inside == mask.bool()).all()) and bool((self.shared > 0).all())
        if not self.regular:
            return
        self.places = inside & (whole > (self.start + self.shared)[:, None])
        back = torch.arange(-int(self.shared.max()), 0, device=ids.device)
        columns = self.start[:, None] + self.shared[:, None] + back
        self.prompt_mask = (columns >= self.start[:, None]).long()
        self.prompts = ids.gather(1, columns.clamp(min=0)).masked_fill(self.prompt_mask == 0, 0)
        keys = self.prompts.masked_fill(self.prompt_mask == 0, -1)
        _, self.owner = torch.unique(keys, dim=0, return_inverse=True)
        rows = torch.arange(len(ids), device=ids.device)
        self.distinct = rows.new_full((int(self.owner.max()) + 1,), len(ids)).scatter_reduce(0, self.owner, rows, "amin")
        forward = torch.arange(int((self.count - self.shared).max()), device=ids.device)
        self.columns = self.start[:, None] + self.shared[:, None] + forward
        self.answer_mask = (forward < (self.count - self.shared)[:, None]).long()
        self.positions = self.shared[:, None] + forward

    def tokens(self) -> int:
        """How many the model computes, padding included."""
        return len(self.distinct) * self.prompts.shape[1] + self.columns.numel()

    def answers(self, of: Tensor, otherwise: int) -> Tensor:
        """What follows the prompts of a (rows, tokens) tensor, the prompt's last token first."""
        found = of.gather(1, self.columns.clamp(max=of.shape[1] - 1))
        return found.masked_fill(self.answer_mask == 0, otherwise)

    def put_back(self, values: Tensor) -> Tensor:
        """Numbers about answers, without their first token, where TRL expects them: (rows, tokens - 1), 0 elsewhere."""
        kept = values[self.answer_mask[:, 1:].bool()]
        return values.new_zeros(self.ids.shape).masked_scatter(self.places, kept)[:, 1:]


def share_prompts(trainer: Trainer) -> None:
    """Let the trainer's policy and reference model compute each distinct prompt of a micro-batch once."""
    for model in (trainer.model, getattr(trainer, "ref_model", None)):
        if model is not None:
            share_prompts_of(base_model(trainer, model))


def share_prompts_of(model: PreTrainedModel) -> None:
    """Let `model(..., labels=labels, fused_lm_head=True)` of TRL's fused head compute each distinct prompt once."""
    inner = model.forward

    @wraps(type(model).forward)  # `generate` looks at its parameters
    def forward(self: PreTrainedModel, *args: Any, **given: Any) -> Any:
        ids, mask = given.get("input_ids"), given.get("attention_mask")
        tried = given.get("fused_lm_head") and not args and not set(given) - _GIVEN
        if not tried or ids is None or mask is None or len(ids) < 2 or (self.training and self.is_activation_checkpointing):
            return inner(*args, **given)
        split = Split(ids, mask, given["labels"])
        if not split.regular or split.tokens() >= ids.numel():
            return inner(**given)
        cache, prompt_mask = DynamicCache(config=self.config), split.prompt_mask[split.distinct]
        positions, prompts = (prompt_mask.cumsum(1) - 1).clamp(min=0), split.prompts[split.distinct]
        nothing = torch.full_like(prompts, -100)
        same = {"past_key_values": cache, "fused_lm_head": True}
        inner(input_ids=prompts, attention_mask=prompt_mask, position_ids=positions, labels=nothing, **same)
        cache.batch_select_indices(split.owner)
        found = inner(
            input_ids=split.answers(ids, 0),
            attention_mask=torch.cat([split.prompt_mask, split.answer_mask], 1),
            position_ids=split.positions,
            labels=split.answers(given["labels"], -100),
            **same,
        )
        fields = {name: getattr(found, name) for name in _FIELDS}
        fields = {name: value if value is None else split.put_back(value) for name, value in fields.items()}
        return type(found)(loss=found.loss, label_mask=given["labels"][:, 1:] != -100, **fields)

    model.forward = MethodType(forward, model)
