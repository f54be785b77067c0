"""Values of trainers' and adapters' fields that would train on in silence, or fail late, and unusual ones that are right."""

import dataclasses
import enum

import pytest

from qwen_align.config import ranges, schema, source_code
from qwen_align.errors import ConfigError

TRAINERS = [f"trl.{name}Config" for name in ("SFT", "DPO", "KTO", "RLOO", "GRPO", "Reward")]
CLASSES = [*TRAINERS, "peft.LoraConfig"]
ANNOTATIONS = {name: annotation for target in reversed(CLASSES) for name, annotation in schema.fields(target).items()}
NAN, INF = float("nan"), float("inf")
WRONG = [
    ("epsilon", -0.2, "from 0 on"),
    ("epsilon_high", -0.28, "from 0 on"),
    ("beta", -0.04, "from 0 on"),
    ("beta", NAN, "from 0 on"),
    ("beta", "small", "float"),
    ("delta", 0, "above 0"),
    ("label_smoothing_factor", 2, "share"),
    ("label_smoothing_factor", -0.1, "share"),
    ("label_smoothing", 0.9, "0.5"),
    ("reward_clip_range", [1, -1], "rising pair"),
    ("reward_clip_range", [0, 0], "rising pair"),
    ("reward_clip_range", [1], "tuple[float, float]"),
    ("reward_clip_range", [-1, 0, 1], "tuple[float, float]"),
    ("reward_clip_range", ["a", "b"], "tuple[float, float]"),
    ("reward_weights", ["a"], "list[float]"),
    ("reward_weights", [INF], "finite"),
    ("loss_weights", [-1.0], "from 0 on"),
    ("lora_dropout", 2, "below 1"),
    ("lora_dropout", 1, "below 1"),
    ("lora_dropout", -0.1, "from 0"),
    ("r", 0, "from 1 on"),
    ("r", -8, "from 1 on"),
    ("lora_alpha", 0, "from 1 on"),
    ("lora_alpha", -16, "from 1 on"),
    ("rank_pattern", {"q_proj": 0}, "from 1 on"),
    ("alpha_pattern", {"q_proj": -1}, "above 0"),
    ("layers_to_transform", [-1], "from 0 on"),
    ("bias", "some", "lora_only"),
    ("task_type", "CAUSAL", "CAUSAL_LM"),
    ("init_lora_weights", "pissa_niter_many", "pissa"),
    ("vllm_gpu_memory_utilization", 30, "at most 1"),
    ("vllm_gpu_memory_utilization", 0, "above 0"),
    ("vllm_mode", "colocated", "colocate"),
    ("vllm_model_impl", "vlm", "transformers"),
    ("vllm_server_port", 80000, "65535"),
    ("vllm_group_port", 0, "65535"),
    ("vllm_server_timeout", 0, "above 0"),
    ("vllm_tensor_parallel_size", 0, "from 1 on"),
    ("vllm_max_model_length", 0, "from 1 on"),
    ("vllm_importance_sampling_mode", "sequence", "sequence_mask"),
    ("vllm_importance_sampling_clip_max", 0, "above 0"),
    ("train_sampling_strategy", "longest", "group_by_length"),
    ("train_sampling_strategy", "Random", "random"),
    ("adam_beta1", 1.5, "below 1"),
    ("adam_beta2", 1, "below 1"),
    ("adam_epsilon", 0, "above 0"),
    ("max_grad_norm", -1, "not clipped"),
    ("warmup_steps", -5, "share of all"),
    ("warmup_steps", 1.5, "whole number of steps"),
    ("learning_rate", 2e5, "from 0 to 1"),
    ("learning_rate", -1e-6, "from 0 to 1"),
    ("learning_rate", "1e-6x", "float"),
    ("weight_decay", -0.1, "from 0 on"),
    ("num_train_epochs", 0, "above 0"),
    ("num_train_epochs", -1, "above 0"),
    ("max_steps", 0, "num_train_epochs decides"),
    ("max_steps", -2, "num_train_epochs decides"),
    ("dataloader_num_workers", -1, "from 0 on"),
    ("dataloader_prefetch_factor", 0, "from 1 on"),
    ("dataloader_multiprocessing_context", "thread", "spawn"),
    ("temperature", 0, "above 0"),
    ("temperature", -1, "above 0"),
    ("repetition_penalty", 0, "above 0"),
    ("top_p", 0.9, "expected 1"),
    ("optim", "adam", "adamw_torch"),
    ("lr_scheduler_type", "cosin", "cosine"),
    ("save_strategy", "step", "steps"),
    ("eval_strategy", "epochs", "epoch"),
    ("logging_strategy", "never", "steps"),
    ("logging_steps", 0, "share"),
    ("save_steps", -10, "share"),
    ("save_steps", 10.5, "whole number of steps"),
    ("eval_steps", -1, "share"),
    ("save_total_limit", 0, "all are kept"),
    ("neftune_noise_alpha", -5, "from 0 on"),
    ("seed", -1, "from 0"),
    ("seed", 2**32, "4294967295"),
    ("f_divergence_type", "kl", "reverse_kl"),
    ("precompute_ref_batch_size", 0, "from 1 on"),
    ("ref_model_mixup_alpha", 1.5, "share"),
    ("ref_model_sync_steps", 0, "from 1 on"),
    ("ld_alpha", 2, "share"),
    ("discopop_tau", 0, "above 0"),
    ("desirable_weight", -1, "from 0 on"),
    ("top_entropy_quantile", 20, "share"),
    ("packing_strategy", "ffd", "bfd"),
    ("truncation_mode", "start", "keep_start"),
    ("pad_to_multiple_of", 0, "from 1 on"),
    ("pad_to_multiple_of", "eight", "auto"),
    ("torch_compile_backend", "induktor", "inductor"),
    ("torch_compile_mode", "max", "max-autotune"),
    ("per_device_train_batch_size", 0, "from 1 on"),
    ("per_device_eval_batch_size", -1, "from 1 on"),
    ("gradient_accumulation_steps", 0, "from 1 on"),
    ("num_iterations", 0, "from 1 on"),
    ("steps_per_generation", 0, "from 1 on"),
    ("num_generations", 1, "siblings"),
    ("max_completion_length", -1, "from 1 on"),
    ("max_length", 0, "from 1 on"),
    ("torch_empty_cache_steps", 0, "from 1 on"),
    ("ddp_backend", "ncll", "nccl"),
    ("log_level", "verbose", "warning"),
    ("include_for_metrics", ["input"], "inputs"),
    ("cache_implementation", "statik", "static"),
    ("center_rewards_coefficient", -0.01, "from 0 on"),
    ("bf16", "yes", "bool"),
]
RIGHT = [
    *[("epsilon", v) for v in (0, 3e-4, 1, 10)],
    *[("epsilon_high", v) for v in (None, 0.28, 5.0)],
    *[("delta", v) for v in (None, 4.0)],
    *[("reward_clip_range", v) for v in (None, [-1, 1], [-10.0, 10.0], (0, INF))],
    *[("reward_weights", v) for v in (None, [1, -0.5], [0])],
    *[("scale_rewards", v) for v in ("none", "batch", True, False)],
    *[("loss_type", v) for v in ("ipo", ["sigmoid", "sft"])],
    *[("max_grad_norm", v) for v in (0, 0.0, INF, 1000)],
    *[("warmup_steps", v) for v in (0, 0.1, 5, 5.0)],
    *[("eval_steps", v) for v in (None, 0.25, 50)],
    *[("save_steps", v) for v in (0.5, 1, 500)],
    *[("max_steps", v) for v in (-1, 1)],
    *[("num_train_epochs", v) for v in (0.01, 3)],
    *[("save_total_limit", v) for v in (None, 1)],
    *[("learning_rate", v) for v in (0, 1e-8, 1)],
    *[("weight_decay", v) for v in (0, 1.0, 2)],
    *[("label_smoothing", v) for v in (0, 0.5)],
    *[("adam_beta1", v) for v in (0, 0.999)],
    *[("lora_dropout", v) for v in (0, 0.99)],
    *[("r", v) for v in (1, 256)],
    *[("layers_to_transform", v) for v in (None, 0, [0, 3])],
    *[("rank_pattern", v) for v in ({}, {"q_proj": 4})],
    *[("init_lora_weights", v) for v in (True, False, "pissa", "pissa_niter_16")],
    *[("target_modules", v) for v in (None, "all-linear", ["q_proj"])],
    *[("pad_to_multiple_of", v) for v in (None, "auto", 8, "8")],
    *[("torch_compile_backend", v) for v in (None, "inductor", "INDUCTOR", "aot_eager")],
    *[("torch_compile_mode", v) for v in (None, "reduce-overhead")],
    *[("vllm_gpu_memory_utilization", v) for v in (0.05, 1, 1.0)],
    *[("top_entropy_quantile", v) for v in (0.0, 0.2, 1)],
    *[("entropy_coef", v) for v in (0, -0.01, 0.01)],
    *[("dataset_num_proc", v) for v in (None, 0, 4)],
    *[("neftune_noise_alpha", v) for v in (None, 5)],
    *[("seed", v) for v in (0, 2**32 - 1)],
    *[("packing_strategy", v) for v in ("wrapped", "bfd_split")],
    *[("optim", v) for v in ("adafactor", "lion_32bit", "schedule_free_adamw")],
    *[("include_num_input_tokens_seen", v) for v in (True, False, "all", "non_padding")],
    *[("label_smoothing_factor", v) for v in (0, 0.1)],
    *[("include_for_metrics", v) for v in ([], ["inputs", "loss"])],
]


@pytest.mark.parametrize(("name", "value", "says"), WRONG, ids=str)
def test_a_value_out_of_range_is_told_what_would_be_right(name, value, says):
    message = schema.problem(name, value, ANNOTATIONS[name]) or "accepted"
    assert message.startswith("expected ") and says in message


@pytest.mark.parametrize(("name", "value"), RIGHT, ids=str)
def test_an_unusual_value_that_is_right_passes(name, value):
    targets = [target for target in CLASSES if name in schema.fields(target)]
    target = "trl.DPOConfig" if name == "loss_type" else targets[0]
    assert schema.problem(name, value, schema.fields(target)[name]) is None


@pytest.mark.parametrize("target", CLASSES)
def test_every_default_of_a_class_passes(target):
    from hydra.utils import get_class

    fields = dataclasses.fields(get_class(target))
    made = {f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory() for f in fields}
    defaults = {name: value.value if isinstance(value, enum.Enum) else value for name, value in made.items()}
    plain = {
        name: value for name, value in defaults.items() if isinstance(value, (bool, int, float, str, list, dict, type(None)))
    }
    assert len(plain) >= len(defaults) - 3
    assert {n: p for n, v in plain.items() if (p := schema.problem(n, v, schema.fields(target)[n]))} == {}


@pytest.mark.parametrize("target", CLASSES)
def test_null_passes_where_the_annotation_has_it(target):
    import ast

    optional = [n for n, a in schema.fields(target).items() if "None" in ast.unparse(a) or "Optional" in ast.unparse(a)]
    assert len(optional) > 10
    assert [n for n in optional if schema.problem(n, None, schema.fields(target)[n])] == []


def test_every_name_in_the_tables_is_a_field():
    assert {*ranges._BOUND_OF, *ranges._CHOICES, *ranges.ALSO, "reward_clip_range"} <= ANNOTATIONS.keys()


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("trl.DPOConfig", "f_divergence_type"),
        ("trl.SFTConfig", "packing_strategy"),
        ("trl.SFTConfig", "truncation_mode"),
        ("trl.GRPOConfig", "vllm_importance_sampling_mode"),
    ],
)
def test_choices_are_those_that_trl_compares_with(target, name):
    assert set(source_code.compared_with(target, name)) <= set(ranges._CHOICES[name].split())


def test_choices_of_training_arguments_are_its_own():
    from hydra.utils import get_class

    own = {f.name: f.metadata.get("choices") for f in dataclasses.fields(get_class("transformers.TrainingArguments"))}
    for name in ("log_level", "log_level_replica", "ddp_backend", "train_sampling_strategy"):
        assert set(own[name]) == set(ranges._CHOICES[name].split()), name


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("method=rloo method.args.epsilon=-0.2", "method.args.epsilon=-0.2"),
        ("method=rloo stages.sft.args.adam_beta1=1.5", "stages.sft.args.adam_beta1=1.5"),
        ("adapter=lora adapter.lora_dropout=2", "adapter.lora_dropout=2"),
        ("method.args.loss_type=nlll", "method.args.loss_type=nlll"),
        ("method=kto data=hh_rlhf init=base method.args.loss_type=ktoo", "method.args.loss_type=ktoo"),
    ],
)
def test_the_line_begins_with_the_key_and_the_value(stages_of, words, key):
    with pytest.raises(ConfigError) as caught:
        stages_of(*words.split())
    assert str(caught.value).startswith(f"{key}: expected ") and "\n" not in str(caught.value)


def test_one_loss_of_dpo_needs_no_list(stages_of):
    assert stages_of("method=dpo", "data=hh_rlhf", "init=base", "method.args.loss_type=ipo")


@pytest.mark.parametrize("scale", ["true", "false", "batch"])
def test_scale_rewards_may_be_a_truth_value_or_a_name(stages_of, scale):
    assert stages_of("method=grpo", f"method.args.scale_rewards={scale}")
