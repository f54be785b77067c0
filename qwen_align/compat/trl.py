"""Steps that TRL's trainers keep private, under public names; a mixin stands before the trainer in a class's bases."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor

if TYPE_CHECKING:
    from torch.utils.data import Sampler
    from trl import DPOTrainer, RLOOTrainer
else:
    DPOTrainer = RLOOTrainer = object  # a mixin's own base at run time: KTOTrainer and GRPOTrainer take it too


class PreferenceSteps(DPOTrainer):
    """DPOTrainer or KTOTrainer on rows of token ids, whose reference log-probs are computed by `reference_log_probs`."""

    @property
    def reference_hash(self) -> Any:
        return self._precompute_model_hash

    def reference_log_probs(self, rows: Dataset, batch_size: int) -> Dataset:
        """The rows with the columns that TRL's own way would add; not called under DeepSpeed."""
        raise NotImplementedError

    def score_with_reference(self, rows: list[dict[str, Any]]) -> list[list[float]]:
        """The reference's log-probs of one micro-batch: a list for each column, () of those that TRL leaves out."""
        inputs = self._prepare_inputs(self.data_collator(rows))
        found = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        return [side.tolist() for side in found if side is not None]

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        if self.is_deepspeed_enabled:
            return super()._precompute_ref_logps(dataset, name, batch_size)
        return self.reference_log_probs(dataset, batch_size)


class RolloutSteps(RLOOTrainer):
    """RLOOTrainer or GRPOTrainer, which ask here how prompts are read and ordered and show what was rewarded."""

    def prompt_ids(self, prompts: list[Any]) -> list[list[int]]:
        """Prompts, conversations or texts, as token ids."""
        raise NotImplementedError

    def order(self, sampler: Any) -> "Sampler[int]":
        """The order in which prompts are read, from TRL's own."""
        raise NotImplementedError

    def rewarded(self, rewards: Tensor, completions: list[Any]) -> None:
        """See (completions of all processes, reward functions), NaN for none, and this process's completions."""
        raise NotImplementedError

    def scored(self, log_probs: Tensor, mask: Tensor) -> None:
        """See the log-probs of (completions, tokens) each time they are computed, by whichever model."""
        raise NotImplementedError

    def complete(self, prompt_ids: list[list[int]]) -> list[list[int]] | None:
        """Completions of prompts, the stop token included; None leaves them to TRL."""
        return None

    def arrange(self, batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The micro-batches that are trained, from those of one generation; as many."""
        return list(batches)

    @property
    def old_log_probs_are_new(self) -> bool:
        """Whether each completion is trained once, with the weights that drew it."""
        return False

    def note(self, name: str, value: float) -> None:
        """Take a number into the next logged line; every process calls it."""
        self._metrics["train"][name].append(value)

    def note_of_batch(self, name: str, value: float) -> None:
        """Take a number about this process's completions into the next logged line, averaged over processes."""
        self._log_metric(name, value)

    def _training(self) -> bool:
        return bool(self.model is not None and self.model.training)

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        return self.prompt_ids(prompts), None, {}

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return self.order(super()._get_train_sampler(dataset))

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        found: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self.rewarded(found, completions)
        return found

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        new, updating = self.old_log_probs_are_new and self._training(), torch.is_grad_enabled()
        if new and not updating:
            return torch.zeros_like(input_ids[:, -logits_to_keep:], dtype=torch.float32), None, None
        found = super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        mask = attention_mask[:, -logits_to_keep:]
        self.scored(found[0], mask)
        if new:  # TRL reads it after this call
            self._trained["old_logps"] = (found[0].detach() * mask).sum(1)
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._trained = inputs
        loss: Tensor = super()._compute_loss(model, inputs)
        return loss

    def _generate_single_turn(self, prompt_ids: Any, images: Any, multimodal_fields: Any, *args: Any, **kwargs: Any) -> Any:
        found = None if images or multimodal_fields or not self._training() else self.complete(prompt_ids)
        if found is None:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **kwargs)
        return (found, None) if args or kwargs else found  # GRPO's own takes num_generations and gives vLLM's log-probs too

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before or not self._training():
            return inputs
        self._buffered_inputs = self.arrange(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]


def head_on_labels(on: bool) -> None:
    """Whether TRL's fused head computes the tokens that have a label alone, as it does on CUDA, or all of them."""
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    def always(device: torch.device) -> bool:
        return True

    utils._use_triton = always if on else chunked_logprob._use_triton
