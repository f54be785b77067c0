"""What trainers that sample do with less work than TRL's own way, for the same update; each is a key of method.speed.

Greedy completions, log-probs, loss and gradients are TRL's up to rounding; sampled completions have the same distribution and
other random numbers. Where a setting asks for something that was not tried here, TRL's own way remains.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from transformers import PreTrainedTokenizerBase
from trl.models.utils import unwrap_model_for_generation

from qwen_align.compat.trl import head_on_labels
from qwen_align.generator.transformers import Transformers, draw_tokens, token_ids
from qwen_align.method import micro_batches
from qwen_align.method.shared_prompts import base_model, can_share, has_dropout, share_prompts, zero_stage

if TYPE_CHECKING:
    from qwen_align.method.on_policy import OnPolicy


class Speed:
    """The savings of one trainer.

    Args:
        trainer: built already.
        asked: by name whether each is wanted: decode, old_log_probs, no_advantage, by_length, shared_prompts, completion_head.
    """

    def __init__(self, trainer: "OnPolicy", asked: Mapping[str, bool]) -> None:
        self.trainer, args = trainer, cast(Any, trainer.args)
        on = {name for name, wanted in asked.items() if wanted}
        head_on_labels("completion_head" in on)
        others = args.generation_kwargs or args.cache_implementation or args.min_p or args.repetition_penalty != 1.0
        engine = args.use_vllm or trainer.use_transformers_continuous_batching
        in_step = zero_stage(trainer) == 3 and not args.ds3_gather_for_generation  # every process has to call each layer
        self.decode = "decode" in on and not (engine or others or in_step)
        used_once = trainer.num_iterations == 1 and args.gradient_accumulation_steps % args.steps_per_generation == 0
        same = used_once and trainer.beta == 0 and not args.use_vllm and not has_dropout(base_model(trainer, trainer.model))
        self.skips_old_log_probs = "old_log_probs" in on and same
        self.drops = "no_advantage" in on and not trainer.aux_loss_enabled
        self.cuts = "by_length" in on
        self.shares = "shared_prompts" in on and can_share(trainer)
        if self.shares:
            share_prompts(trainer)

    def complete(self, prompts: list[list[int]]) -> list[list[int]]:
        """Completions of token ids; a prompt that comes as often as a group has samples is computed once."""
        trainer, args, n = self.trainer, cast(Any, self.trainer.args), cast(int, self.trainer.num_generations)
        first = prompts[::n]
        if any(ids != first[i // n] for i, ids in enumerate(prompts)) or len(prompts) % n:
            first, n = prompts, 1
        choose = partial(draw_tokens, temperature=args.temperature, top_p=args.top_p, top_k=args.top_k or 0)
        gather: Any = {"gather_deepspeed3_params": args.ds3_gather_for_generation}
        unwrapped = unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator, **gather)
        with unwrapped as policy, trainer.accelerator.autocast():
            loaded = policy, cast(PreTrainedTokenizerBase, trainer.processing_class)
            longest, ends = args.max_completion_length, trainer.eos_token_ids
            found = {i: rows for i, rows, _ in token_ids(loaded, first, n, choose, longest, ends, Transformers())}
        return [row for index in range(len(first)) for row in found[index]]

    def arrange(self, batches: Sequence[micro_batches.Batch]) -> list[micro_batches.Batch]:
        """The micro-batches of one generation, those of each update among themselves."""
        trainer = self.trainer
        if not self.cuts:
            return list(batches)
        if not trainer.reorders:
            return [micro_batches.cut(batch) for batch in batches]
        arrange = partial(micro_batches.arranged, drop=self.drops, shared=self.shares)
        return micro_batches.each_update(batches, trainer.args.gradient_accumulation_steps, arrange)
