"""What TRL's engine of vLLM can't be told by arguments."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import torch
from transformers import set_seed


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
def engine_like_trainer(args: Any) -> Iterator[None]:
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
