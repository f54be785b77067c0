"""What is private in TRL and used here is still there, and called as it is expected to be."""

import inspect

import pytest
import torch
from trl import DPOTrainer, GRPOTrainer, KTOTrainer, RLOOTrainer
from trl.trainer import utils

from qwen_align.compat import trl


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("trainer", [RLOOTrainer, GRPOTrainer])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_tokenize_prompts", ["self", "prompts"]),
        ("_get_train_sampler", ["self", "dataset"]),
        ("_calculate_rewards", ["self", "inputs", "prompts", "completions", "completion_ids_list"]),
        ("_log_metric", ["self", "name", "value"]),
        ("_get_per_token_logps_and_entropies", ["self", "model", "input_ids", "attention_mask", "logits_to_keep"]),
        ("_generate_single_turn", ["self", "prompt_ids", "images", "multimodal_fields"]),
        ("_prepare_inputs", ["self", "generation_batch"]),
        ("_compute_loss", ["self", "model", "inputs"]),
    ],
)
def test_steps_of_trainers_that_sample_are_where_they_were(trainer, name, expected):
    assert parameters(getattr(trainer, name))[: len(expected)] == expected


@pytest.mark.parametrize("trainer", [RLOOTrainer, GRPOTrainer])
def test_log_probs_are_the_first_that_a_trainer_that_samples_returns(trainer):
    assert "return logps, entropies" in inspect.getsource(trainer._get_per_token_logps_and_entropies)


@pytest.mark.parametrize("trainer", [RLOOTrainer, GRPOTrainer])
def test_tokenised_prompts_come_with_images_and_further_fields(trainer):
    assert "return prompt_ids, images, multimodal_fields" in inspect.getsource(trainer._tokenize_prompts)


@pytest.mark.parametrize("trainer", [RLOOTrainer, GRPOTrainer])
@pytest.mark.parametrize("name", ["self._metrics = {", "self.reward_weights", "self.eos_token_ids", "self.vllm_generation ="])
def test_a_trainer_that_samples_has_these_when_it_is_built(trainer, name):
    assert name in inspect.getsource(trainer.__init__)


@pytest.mark.parametrize("trainer", [DPOTrainer, KTOTrainer])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_prepare_dataset", ["self", "dataset", "processing_class", "args", "dataset_name"]),
        ("_precompute_ref_logps", ["self", "dataset", "name", "batch_size"]),
        ("compute_ref_log_probs", ["self", "model", "inputs"]),
        ("compute_loss", ["self", "model", "inputs"]),
    ],
)
def test_steps_of_trainers_on_preferences_are_where_they_were(trainer, name, expected):
    assert parameters(getattr(trainer, name))[: len(expected)] == expected


@pytest.mark.parametrize("trainer", [DPOTrainer, KTOTrainer])
def test_the_hash_of_a_reference_is_taken_when_a_trainer_is_built(trainer):
    assert "self._precompute_model_hash" in inspect.getsource(trainer.__init__)


@pytest.mark.parametrize(
    ("trainer", "columns"),
    [
        (DPOTrainer, ("ref_chosen_logps", "ref_rejected_logps")),
        (KTOTrainer, ("ref_logps", "ref_KL_logps", "KL_completion_ids")),
    ],
)
def test_columns_have_the_names_that_trl_reads(trainer, columns):
    source = inspect.getsource(inspect.getmodule(trainer))
    assert all(f'"{name}"' in source for name in columns)


def test_a_mixin_that_forgets_a_step_is_told_so():
    for call in (
        lambda: trl.RolloutSteps.prompt_ids(None, []),
        lambda: trl.RolloutSteps.order(None, None),
        lambda: trl.RolloutSteps.rewarded(None, None, []),
        lambda: trl.RolloutSteps.scored(None, None, None),
        lambda: trl.PreferenceSteps.reference_log_probs(None, None, 1),
    ):
        with pytest.raises(NotImplementedError):
            call()


@pytest.mark.parametrize("trainer", [RLOOTrainer, GRPOTrainer])
def test_micro_batches_of_a_generation_are_kept_in_one_list(trainer):
    source = inspect.getsource(trainer._prepare_inputs)
    assert "self._buffered_inputs = [" in source
    assert "self._buffered_inputs[self._step % self.args.steps_per_generation]" in source


def test_old_log_probs_are_read_after_the_new_ones_are_computed():
    source = inspect.getsource(RLOOTrainer._compute_loss)
    assert 0 < source.index("self._get_per_token_logps_and_entropies(") < source.index('inputs["old_logps"]')


def test_whether_the_fused_head_skips_unlabelled_tokens_is_asked_where_it_is_replaced():
    assert "compact = _use_triton(hidden_states.device)" in inspect.getsource(utils.add_fused_lm_head)
    try:
        trl.head_on_labels(True)
        assert utils._use_triton("cpu")
    finally:
        trl.head_on_labels(False)
    assert not utils._use_triton(torch.device("cpu"))
