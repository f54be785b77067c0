"""How large a network is, from its config alone: parameters, what autograd keeps of a token, keys and values.

Decoders of Qwen's and Llama's kind, and encoders of BERT's. What autograd keeps was counted on real layers, in fp32 and under
bf16 autocast, DeBERTa's at 512 tokens (a test counts again). Left out: experts, convolutions, decoders that are not gated.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen_align.hub import files

_DECODERS = frozenset("qwen2 qwen3 llama mistral gemma gemma2 gemma3_text smollm3 phi3 olmo2 granite".split())
_NAMES = {  # ours -> what configs call it
    "hidden": ("hidden_size", "dim", "n_embd"),
    "layers": ("num_hidden_layers", "n_layers", "n_layer"),
    "inner": ("intermediate_size", "hidden_dim"),
    "heads": ("num_attention_heads", "n_heads", "n_head"),
    "vocabulary": ("vocab_size",),
}
_BERT = {"hidden": 768, "layers": 12, "inner": 3072, "heads": 12, "vocabulary": 30522}  # where a config does not say


@dataclass(frozen=True)
class Architecture:
    kind: str
    hidden: int
    layers: int
    inner: int
    heads: int
    vocabulary: int
    key_value_heads: int
    tied: bool

    @property
    def decoder(self) -> bool:
        return self.kind in _DECODERS

    @property
    def matrices(self) -> int:
        """Parameters of the layers."""
        attention = 2 * self.hidden**2 + 2 * self.hidden * self.hidden * self.key_value_heads // self.heads
        return self.layers * (attention + (3 if self.decoder else 2) * self.hidden * self.inner)

    @property
    def parameters(self) -> int:
        """All of them, but for biases and norms: a thousandth."""
        return self.matrices + self.vocabulary * self.hidden * (1 if self.tied or not self.decoder else 2)

    def kept(self, tokens: int, half: bool, checkpointing: bool) -> int:
        """Bytes that a forward pass keeps for the backward one, of one row of so many tokens."""
        if self.decoder:
            unit, inner, pair = (34, 8, 2) if half else (40, 16, 4)
            layer = tokens * (unit * self.hidden + inner * self.inner + pair * tokens)
        elif self.kind == "deberta-v2":
            layer = tokens * (142 if half else 172) * self.hidden
        else:
            layer = tokens * (64 * self.hidden + 4 * tokens)
        if checkpointing:  # the inputs of all layers, and one layer that is computed again
            return self.layers * tokens * 4 * self.hidden + layer
        return self.layers * layer

    def cached(self, width: int) -> int:
        """Bytes of a token's keys and values, `width` bytes each number."""
        return 2 * self.layers * self.key_value_heads * self.hidden // self.heads * width


def of(config: dict[str, Any]) -> Architecture:
    """The sizes that a model's config names."""
    has_defaults = config.get("model_type") in ("bert", "distilbert")
    sizes = {
        ours: next((int(config[name]) for name in names if name in config), _BERT[ours] if has_defaults else 0)
        for ours, names in _NAMES.items()
    }
    if config.get("model_type") == "distilbert" and "n_layers" not in config:
        sizes["layers"] = 6
    if not all(sizes.values()):
        raise ValueError(f"a config of {config.get('model_type')} without {[k for k, v in sizes.items() if not v]}")
    groups = int(config.get("num_key_value_heads") or sizes["heads"])
    tied = bool(config.get("tie_word_embeddings", config.get("model_type") == "gemma"))
    return Architecture(kind=str(config.get("model_type", "")), tied=tied, key_value_heads=groups, **sizes)


def named(name: str, revision: str | None = None) -> Architecture | None:
    """That of a folder or of a model in the Hub's cache; None where its config is not at hand or of another kind."""
    own = Path(name).expanduser()
    folder = own if own.is_dir() else files.snapshot(name, "model", revision)
    try:
        return of(json.loads((folder / "config.json").read_text(encoding="utf-8"))) if folder else None
    except (FileNotFoundError, ValueError):
        return None


@dataclass(frozen=True)
class Training:
    policy: Architecture
    rows: int  # of a micro-batch
    texts: int  # of a row: two of a pair
    tokens: int  # of the longest row
    checkpointing: bool
    trained: int  # parameters
    reference: bool
    rewards: tuple[Architecture, ...]
    rollout: int  # completions that are drawn at once
    half: bool
    process: float
    processes: int
    zero: int

    @property
    def scorers(self) -> int:
        """Of the reference and the reward models."""
        return 4 * self.policy.parameters * self.reference + sum(4 * reward.parameters for reward in self.rewards)

    @property
    def saving(self) -> float:
        """Main memory while the model is written: as bytes of the file, and merged where it was an adapter."""
        optimizer = 8 * self.trained / (self.processes if self.zero else 1)
        return self.process + 12 * self.policy.parameters + optimizer + self.scorers

    @property
    def memory(self) -> float:
        """Of the device, at the most, in a step or while completions are drawn."""
        size, split = self.policy.parameters, self.processes
        weights = 4 * size / (split if self.zero >= 3 else 1)
        gradients = 4 * self.trained / (split if self.zero >= 2 else 1)
        means = 8 * self.trained / (split if self.zero >= 1 else 1)
        copies = 2 * self.policy.matrices if self.half else 0
        largest = 4 * self.policy.vocabulary * self.policy.hidden
        whole = self.trained == size
        texts = self.rows * self.texts
        # The logits that TRL's loss holds at once, at most
        logits = min(texts * self.tokens, 4096) * min(self.policy.vocabulary, 32768)
        tile = (2 if self.half else 32) * logits if self.policy.decoder else 0
        kept = texts * self.policy.kept(self.tokens, self.half, self.checkpointing)
        # The vocabulary is the largest tensor: its gradient comes in two parts, and AdamW makes two of its size.
        step = gradients + max(kept + tile + largest * whole, 2 * largest * whole)
        drawing = self.rollout * (self.tokens * self.policy.cached(4) + 3 * 4 * self.policy.vocabulary)
        return self.process + weights + means + self.scorers + copies + max(step, drawing)
