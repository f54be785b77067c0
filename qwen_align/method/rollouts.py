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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed
from trl import RLOOConfig

from qwen_align.method.health import Line, recent

WEIGHT = 1.2  # by which factor a completion's importance weight is off

Logprobs = Sequence[Sequence[Sequence[float | None]]]  # (completions, tokens, 1), as vLLM gives them


@contextmanager
def _replaced(module: ModuleType, **by: Any) -> Iterator[None]:
    before = {name: getattr(module, name) for name in by}
    vars(module).update(by)
    try:
        yield
    finally:
        vars(module).update(before)


def _unpacked(layer: Any, remove_weight: bool) -> None:
    layer.cpu_linear = torch.nn.functional.linear


@contextmanager
def engine_like_trainer(args: RLOOConfig) -> Iterator[None]:
    """An engine that a trainer starts meanwhile computes in the trainer's precision; on a CPU it compiles and packs nothing."""
    if not args.use_vllm or args.vllm_mode != "colocate":
        yield
        return
    from trl.generation import vllm_generation
    from vllm.model_executor.layers import utils
    from vllm.platforms import current_platform

    dtype = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
    engine = partial(vllm_generation.LLM, dtype=dtype, enforce_eager=current_platform.is_cpu())
    with _replaced(vllm_generation, LLM=engine), _replaced(utils, dispatch_cpu_unquantized_gemm=_unpacked):
        yield
    # TRL wants one stream of random numbers a group of processes that share an engine.
    set_seed(args.seed + args.process_index // args.vllm_tensor_parallel_size)


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


def drifted(lines: Sequence[Line]) -> str | None:
    """vLLM draws from another distribution than the one that is trained."""
    weight, token = recent(lines, "sampling/importance_weight"), recent(lines, "sampling/logp_difference/mean")
    if weight is None or token is None or weight <= WEIGHT:
        return None
    return (
        f"vLLM's log-probs are {token:.2g} nats a token away from the trainer's, so a completion's importance weight is off by "
        f"a factor of {weight:.2f}, which RLOO takes for 1; set hardware.precision=fp32 or fp16 (bf16 rounds the most), lower "
        "max_completion_length, or set method.args.use_vllm=false"
    )
