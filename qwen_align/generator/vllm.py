"""Completions of a local policy with vLLM's offline engine, on a GPU.

vLLM batches, caches and shares prompts by itself, so everything is handed over at once and nothing is yielded before the
end. Written against its public API (LLM, SamplingParams, prompt_token_ids) and untested here: no machine that this was
written on could run it. The policy is saved to a temporary folder first, so that the weights in memory are the ones that
answer; prompts go in and completions come out as token ids, since a run folder's own tokenizer is the only right one.
Left out: LoRA adapters that are not merged, more than one GPU.
"""

import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from qwen_align.errors import ConfigError
from qwen_align.generator import Completion, Conversation

if TYPE_CHECKING:
    from qwen_align.model import Policy


class Vllm:
    """Samples from the policy that a stage loads.

    Args:
        gpu_memory_utilization: share of the GPU's memory that vLLM may take; the policy itself stays loaded beside it.
        enforce_eager: True starts faster and saves memory, False decodes faster (CUDA graphs).
    """

    needs_policy = True

    def __init__(self, gpu_memory_utilization: float = 0.6, enforce_eager: bool = False) -> None:
        if not 0 < gpu_memory_utilization <= 1:
            raise ConfigError(
                f"generator.gpu_memory_utilization={gpu_memory_utilization}: expected a share above 0, at most 1"
            )
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(
                "generator=vllm: the package vllm is not installed; pip install vllm (it needs a GPU), "
                "or generator=transformers, which runs anywhere"
            )
        self.gpu_memory_utilization, self.enforce_eager = gpu_memory_utilization, enforce_eager
        self._started: tuple[Any, Any] | None = None  # the policy's weights, and the engine that has a copy of them

    def _engine(self, policy: "Policy") -> Any:
        from vllm import LLM

        if self._started is None or self._started[0] is not policy[0]:
            self._started = None  # frees the former engine before the next one takes its share
            with tempfile.TemporaryDirectory() as folder:
                policy[0].save_pretrained(folder)
                engine = LLM(
                    model=folder, skip_tokenizer_init=True, gpu_memory_utilization=self.gpu_memory_utilization,
                    enforce_eager=self.enforce_eager, enable_prefix_caching=True,
                )  # fmt: skip
            self._started = policy[0], engine
        return self._started[1]

    def stream(
        self, prompts: Sequence[Conversation], *, n: int, temperature: float, max_completion_length: int, seed: int,
        title: str, policy: "Policy | None" = None,
    ) -> Iterator[tuple[int, list[Completion]]]:  # fmt: skip
        """(index of the prompt, its n completions) in the prompts' order, once all are there."""
        from vllm import SamplingParams

        from qwen_align.model import prompt_ids

        assert policy is not None, "a local policy has to be loaded"
        weights, tokenizer = policy
        stops: Any = weights.generation_config.eos_token_id
        asked = [{"prompt_token_ids": ids} for ids in prompt_ids(tokenizer, prompts)]
        settings = [
            SamplingParams(
                n=n, temperature=temperature, max_tokens=max_completion_length, seed=seed + index, detokenize=False,
                stop_token_ids=stops if isinstance(stops, list) else [stops],
            )
            for index in range(len(asked))
        ]  # fmt: skip
        for index, answer in enumerate(self._engine(policy).generate(asked, settings)):
            texts = tokenizer.batch_decode([list(o.token_ids) for o in answer.outputs], skip_special_tokens=True)
            lengths = [(len(o.token_ids), o.finish_reason == "stop") for o in answer.outputs]
            yield index, [Completion(text, *length) for text, length in zip(texts, lengths, strict=True)]
