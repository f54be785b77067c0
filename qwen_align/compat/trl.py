"""Steps that TRL's trainers keep private, under public names; a mixin stands before the trainer in a class's bases."""

from typing import TYPE_CHECKING, Any

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

    def note(self, name: str, value: float) -> None:
        """Take a number into the next logged line; every process calls it."""
        self._metrics["train"][name].append(value)

    def note_of_batch(self, name: str, value: float) -> None:
        """Take a number about this process's completions into the next logged line, averaged over processes."""
        self._log_metric(name, value)

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
        found = super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        self.scored(found[0], attention_mask[:, -logits_to_keep:])
        return found
