"""Ranges and choices of the fields that TRL's trainers, transformers and PEFT take without a look, by field name.

A bound is what the field's help text or the code that uses it says, in TRL 1.16: `trl/trainer/*_config.py`, the trainers beside
them, `transformers/training_args.py`, `peft/tuners/lora/config.py`. Outside of it a run trains on in silence (epsilon=-0.2,
lora_dropout=1, save_total_limit=0) or ends in a traceback after the model was loaded. Left out: switches and free text, values
that fit only together, which the class tells, and `loss_type`, whose names `rules.known_names` reads from each trainer.
"""

from collections.abc import Callable, Mapping
from typing import Any

_WHOLE = (
    "the trainer's log-probs are those of the whole distribution, so sampling from a part of it biases the gradient; "
    "evaluation.top_p and evaluation.top_k are free"
)
# What would be right, the test, the fields; each number of a list or of a dict's values is tested.
_BOUNDS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    (f"1: {_WHOLE}", lambda v: v == 1, "top_p"),
    (f"0: {_WHOLE}", lambda v: v == 0, "top_k min_p"),
    ("a whole number from 2 on: an advantage needs siblings to compare with", lambda v: v >= 2, "num_generations"),
    (
        "a whole number from 1 on",
        lambda v: v >= 1,
        "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps eval_accumulation_steps "
        "torch_empty_cache_steps dataloader_prefetch_factor ddp_bucket_cap_mb ddp_timeout precompute_ref_batch_size "
        "pad_to_multiple_of ref_model_sync_steps max_length max_completion_length num_generations_eval generation_batch_size "
        "num_iterations steps_per_generation vllm_max_model_length vllm_tensor_parallel_size r lora_alpha "
        "qalora_group_size rank_pattern",
    ),
    ("a whole number from 1 on, or null: all are kept", lambda v: v >= 1, "save_total_limit"),
    ("a whole number from 1 on, or -1: num_train_epochs decides", lambda v: v == -1 or v >= 1, "max_steps"),
    ("a whole number from -1 on", lambda v: v >= -1, "local_rank"),
    ("a port, a whole number from 1 to 65535", lambda v: 1 <= v <= 65535, "vllm_server_port vllm_group_port"),
    ("a whole number from 0 to 4294967295", lambda v: 0 <= v < 2**32, "seed"),
    (
        "a whole number from 0 on",
        lambda v: v >= 0,
        "data_seed dataloader_num_workers dataset_num_proc num_completions_to_print max_tool_calling_iterations "
        "layers_to_transform trainable_token_indices alora_invocation_tokens layer_replication",
    ),
    (
        "a number from 0 on",
        lambda v: v >= 0,
        "beta weight_decay eval_delay neftune_noise_alpha router_aux_loss_coef loss_weights desirable_weight "
        "undesirable_weight epsilon epsilon_high vespo_k_pos vespo_k_neg vespo_lambda_pos vespo_lambda_neg "
        "entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target vllm_importance_sampling_clip_min "
        "center_rewards_coefficient",
    ),
    ("a number from 0 on; 0: gradients are not clipped", lambda v: v >= 0, "max_grad_norm"),
    ("a number from 0 to 1", lambda v: 0 <= v <= 1, "learning_rate"),
    (
        "a number above 0",
        lambda v: v > 0,
        "num_train_epochs adam_epsilon temperature repetition_penalty discopop_tau delta sapo_temperature_neg "
        "sapo_temperature_pos off_policy_mask_threshold vllm_importance_sampling_clip_max vllm_importance_sampling_cap "
        "vllm_server_timeout alpha_pattern",
    ),
    ("a share from 0 to 1", lambda v: 0 <= v <= 1, "ld_alpha top_entropy_quantile ref_model_mixup_alpha"),
    ("a share above 0 and at most 1", lambda v: 0 < v <= 1, "vllm_gpu_memory_utilization"),
    ("a share from 0 to below 1", lambda v: 0 <= v < 1, "adam_beta1 adam_beta2 label_smoothing_factor lora_dropout"),
    ("a share of wrong labels, from 0 to 0.5", lambda v: 0 <= v <= 0.5, "label_smoothing"),
    (
        "a whole number of steps from 1 on, or a share of all above 0",
        lambda v: 0 < v < 1 or _whole(v),
        "logging_steps save_steps",
    ),
    (
        "a whole number of steps, or a share of all from 0 to below 1",
        lambda v: 0 <= v < 1 or _whole(v),
        "warmup_steps eval_steps",
    ),
    ("a finite number", lambda v: abs(v) < float("inf"), "entropy_coef reward_weights f_alpha_divergence_coef"),
)
_LEVELS = "detail debug info warning error critical passive"
_CHOICES: dict[str, str] = {  # besides those that a field's annotation lists
    "vllm_mode": "server colocate",
    "vllm_model_impl": "vllm transformers auto",
    "truncation_mode": "keep_start keep_end",
    "packing_strategy": "bfd bfd_split wrapped bfd-requeue",
    "pad_to_multiple_of": "auto none null",
    "f_divergence_type": "reverse_kl forward_kl js_divergence alpha_divergence",
    "vllm_importance_sampling_mode": "token_truncate token_mask sequence_truncate sequence_mask",
    "train_sampling_strategy": "random sequential group_by_length batch_rebalance",
    "include_num_input_tokens_seen": "all non_padding no",
    "include_for_metrics": "inputs loss",
    "log_level": _LEVELS,
    "log_level_replica": _LEVELS,
    "torch_compile_mode": "default reduce-overhead max-autotune max-autotune-no-cudagraphs lite",
    "ddp_backend": "nccl gloo mpi xccl hccl cncl mccl",
    "dataloader_multiprocessing_context": "fork spawn forkserver",
    "torch_compile_backend": "inductor eager aot_eager cudagraphs aot_ts_nvfuser nvprims_nvfuser ofi fx2trt onnxrt tensorrt "
    "aot_torchxla_trace_once torchxla_trace_once tvm hpu_backend neuron no",
    "cache_implementation": "static offloaded_static dynamic offloaded quantized sliding_window hybrid hybrid_chunked "
    "offloaded_hybrid offloaded_hybrid_chunked paged",
    "task_type": "CAUSAL_LM SEQ_CLS SEQ_2_SEQ_LM TOKEN_CLS QUESTION_ANS FEATURE_EXTRACTION",
}
_BOUND_OF = {name: (expected, test) for expected, test, names in _BOUNDS for name in names.split()}
# A value that the class takes beside what its annotation says.
ALSO: dict[str, Callable[[Any], bool]] = {
    "scale_rewards": lambda v: isinstance(v, bool),
    "loss_type": lambda v: isinstance(v, str),
    "init_lora_weights": lambda v: isinstance(v, str) and v.startswith("pissa_niter_") and v[12:].isdigit(),
}


def _whole(value: float) -> bool:
    return value >= 1 and value % 1 == 0


def _numbers(value: Any) -> list[Any]:
    """The numbers of a value: itself, or those of a list or of a dict's values, at any depth."""
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else None
    if inside is not None:
        return [number for item in inside for number in _numbers(item)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def expected(name: str, value: Any) -> str | None:
    """What would be right in place of a field's value, where it is out of range or none of the choices; or None."""
    if name in _BOUND_OF and not all(map(_BOUND_OF[name][1], _numbers(value))):
        return _BOUND_OF[name][0]
    if name == "reward_clip_range" and value and not value[0] < value[1]:
        return "a rising pair such as [-1,1]"
    known = _CHOICES.get(name, "").split()
    words = value if isinstance(value, (list, tuple)) else [value]
    if name == "torch_compile_backend":  # accelerate takes both cases
        words = [str(word).lower() for word in words if word is not None]
    if known and any(isinstance(word, str) and word not in known and not word.isdigit() for word in words):
        return f"one of {', '.join(known)}"
    return None
