"""RLOO's completions by vLLM (`method.args.use_vllm=true`): what TRL 1.16's connection to it leaves out.

- Stop tokens: vLLM reads those of the folder that the policy came from, where a base model names <|endoftext|>. Here the ones
  that the policy is measured with end a completion.
- Precision: vLLM computes a float32 model in bfloat16. Here it computes as the trainer does.
- Random numbers: an engine in this process seeds all generators with 0, so runs with different seeds would draw alike.
- Drift: two programs compute the log-probs of one policy, RLOO takes them for equal, and TRL corrects for it in GRPO alone.
  Runs of this study's family had importance weights of 1.2 to 1.8 on average; here they are logged and warned about.
- A CPU: vLLM packs the weights of linear layers there, out of reach for TRL, which loads new ones at each step (vLLM's own
  reload forgets a tied lm_head, as the drift showed). Here they stay plain.
- The end: an engine in this process has process groups of its own, which have to go before torch's.

Left out: a correction by importance sampling.
"""

import gc
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Logprobs = Sequence[Sequence[Sequence[float | None]]]  # (completions, tokens, 1), as vLLM gives them


class Rollouts:
    """Stands in for TRL's VLLMGeneration in a trainer.

    Args:
        inner: TRL's.
        stops: token ids that end a completion; stop_token_ids in generation_kwargs are added.
    """

    def __init__(self, inner: Any, stops: Sequence[int]) -> None:
        self.inner = inner
        self.drawn: Logprobs | None = None  # of the last completions, until they were compared
        own = inner.generation_kwargs.get("stop_token_ids") or []
        inner.generation_kwargs = inner.generation_kwargs | {"stop_token_ids": sorted({*stops, *own})}
        inner.logprobs = 0  # of the token that was drawn alone

    def sync_weights(self) -> None:
        """As TRL's."""
        self.inner.sync_weights()

    def generate(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """As TRL's."""
        found: tuple[Any, ...] = self.inner.generate(*args, **kwargs)
        self.drawn = found[2]
        return found

    def compare(self, trained: Tensor, mask: Tensor) -> Tensor:
        """`offs` of the last completions and the trainer's log-probs of them, once."""
        assert self.drawn is not None, "nothing was generated since the last comparison"
        drawn, self.drawn = self.drawn, None
        return offs(drawn, trained, mask)

    def close(self) -> None:
        """Stop an engine of this process; torch's process groups, which it shares, are gone with it."""
        if self.inner.mode == "colocate":
            self.inner.llm.llm_engine.engine_core.shutdown()
            self.inner.llm = None
            gc.collect()


def offs(drawn: Logprobs, trained: Tensor, mask: Tensor) -> Tensor:
    """How far the trainer's log-probs (completions, tokens) are from those that the tokens were drawn with.

    Returns, for each completion: summed |difference| over its tokens, their number, the largest, |summed difference|. Tokens
    with mask 0 don't count.
    """
    sampled = torch.full(trained.shape, math.nan)
    for row, tokens in zip(sampled, drawn, strict=True):
        row[: len(tokens)] = torch.tensor([math.nan if value is None else value for (value, *_) in tokens])
    sampled = sampled.to(trained.device).masked_fill(mask == 0, math.nan)
    difference = (trained.float() - sampled).nan_to_num(0.0)
    each = difference.abs()
    return torch.stack([each.sum(1), (~sampled.isnan()).sum(1), each.amax(1), difference.sum(1).abs()], dim=1)


def drift(found: Tensor) -> dict[str, float]:
    """Numbers for the log about `offs` (completions, 4) of all processes; {} where no token counts.

    importance_weight is the factor by which a completion's weight is off, either way (the geometric mean): 1 is none.
    """
    total, tokens, largest, summed = found[found[:, 1] > 0].T
    if not len(tokens):
        return {}
    return {
        "sampling/logp_difference/mean": (total.sum() / tokens.sum()).item(),
        "sampling/logp_difference/max": largest.max().item(),
        "sampling/importance_weight": math.exp(min(summed.mean().item(), 50.0)),
    }
