"""What is private in transformers and needed here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers.integrations import deepspeed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer


@contextmanager
def unsharded() -> Iterator[None]:
    """Load a model whole: beside a trainer under ZeRO-3, from_pretrained would split any other model over the processes too."""
    before = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = before


def on_gradient_norm(trainer: "Trainer", see: Callable[[Any], None]) -> None:
    """Call `see` with the norm of each step's gradient, None where the trainer takes none."""
    inner = trainer._get_grad_norm

    def listened(*args: Any, **kwargs: Any) -> Any:
        norm = inner(*args, **kwargs)
        see(norm)
        return norm

    trainer._get_grad_norm = listened  # type: ignore[method-assign]


def attention_of(model: "PreTrainedModel") -> str:
    """The name of the attention that a model computes with: sdpa, eager, flash_attention_2 ..."""
    return str(model.config._attn_implementation)
