"""What is said in place of a name that TRL or transformers had, or that other libraries have."""

import re

import pytest

from qwen_align.config import groups, overrides, renamed, schema
from qwen_align.errors import ConfigError

TRAINERS = [f"trl.{name}Config" for name in ("SFT", "DPO", "KTO", "RLOO", "GRPO", "Reward")]
FIELDS = {name for target in [*TRAINERS, "peft.LoraConfig"] for name in schema.fields(target)}


def refused(stages_of, words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        stages_of(*words.split())
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("method=rloo method.args.kl_coef=0.05", "set method.args.beta"),
        ("method=rloo method.args.init_kl_coef=0.05", "set method.args.beta"),
        ("method=rloo method.args.rloo_k=4", "set method.args.num_generations"),
        ("method=rloo stages.rloo.args.rloo_k=4", "set stages.rloo.args.num_generations"),
        ("method=grpo method.args.group_size=4", "set method.args.num_generations"),
        ("method=rloo method.args.response_length=64", "set method.args.max_completion_length"),
        ("method=rloo method.args.max_new_tokens=64", "set method.args.max_completion_length"),
        ("method=rloo method.args.max_length=64", "set method.args.max_completion_length"),
        ("method=sft method.args.max_completion_length=64", "set method.args.max_length"),
        ("method=rloo method.args.cliprange=0.2", "set method.args.epsilon"),
        ("method=rloo method.args.num_ppo_epochs=2", "set method.args.num_iterations"),
        ("method=rloo method.args.max_prompt_length=64", "method.max_prompt_tokens"),
        ("method=dpo data=hh_rlhf method.args.max_prompt_length=64", "cut at max_length"),
        ("method=rloo method.args.whiten_rewards=true", "normalize_advantages"),
        (
            "method=rloo method.args.missing_eos_penalty=1.0",
            "mask_truncated_completions=true: cut completions leave the loss; the penalty",
        ),
        ("method=rloo method.args.total_episodes=1000", "set max_steps"),
        ("method=rloo method.args.mini_batch_size=4", "method.prompts_per_step"),
        ("method=rloo method.args.local_rollout_forward_batch_size=4", "per_device_train_batch_size"),
        ("method=rloo method.args.token_level_kl=true", "removed from TRL"),
        ("method=rloo method.args.vf_coef=0.1", "no value model"),
        ("method=rloo method.args.stop_token=eos", "model.stop_token"),
        ("method=rloo method.args.reward_model_path=rm", "set reward=OPTION"),
        ("method=rloo method.args.sft_model_path=m", "model.name"),
        ("method.args.max_seq_length=64", "set method.args.max_length"),
        ("method.args.evaluation_strategy=steps", "set method.args.eval_strategy"),
        ("method.args.warmup_ratio=0.1", "warmup_steps=0.1"),
        ("method.args.load_in_4bit=true", "adapter=lora"),
        ("method.args.no_cuda=true", "hardware=cpu"),
        ("method.args.tokenizer=gpt2", "model=OPTION"),
        ("method.args.group_by_length=true", "train_sampling_strategy=group_by_length"),
        ("method.args.logging_dir=logs", "runs_dir"),
        ("method.args.overwrite_output_dir=true", "runs_dir"),
        ("method.args.formatting_func=f", "data.columns"),
        ("method.args.peft_config=lora", "adapter=lora"),
        ("method.args.lora_r=8", "set adapter.r"),
        ("method.args.lora_alpha=16", "adapter"),
        ("method.args.lr=1e-4", "set method.args.learning_rate"),
        ("method.args.epochs=2", "set method.args.num_train_epochs"),
        ("method.args.batch_size=8", "set method.batch_size"),
        ("method.args.torch_dtype=bfloat16", "model.dtype"),
        ("method.args.bf16_full=true", "bf16"),
        ("method.args.label_smoothing=0.1", "set method.args.label_smoothing_factor"),
        ("method.args.packing_mode=bfd", "packing_strategy"),
        ("method.args.save_safetensors=true", "always saved as safetensors"),
        ("method=dpo data=hh_rlhf method.args.rpo_alpha=1.0", "loss_type=[sigmoid,sft]"),
        ("method=dpo data=hh_rlhf method.args.ref_model=m", "set init"),
        ("lr=1e-4", "set method.args.learning_rate"),
        ("learning_rate=1e-4", "set method.args.learning_rate"),
        ("num_generations=8", "set method.args.num_generations"),
        ("method.learning_rate=1e-4", "set method.args.learning_rate"),
        ("kl_coef=0.1", "set method.args.beta"),
        ("epochs=2", "set method.args.num_train_epochs"),
        ("batch_size=8", "set method.batch_size"),
        ("lora_alpha=16", "set adapter.lora_alpha"),
        ("lora_r=16", "set adapter.r"),
        ("adapter=lora adapter.lora_r=16", "set adapter.r"),
        ("adapter=lora adapter.rank=16", "set adapter.r"),
        ("load_in_8bit=true", "adapter=lora"),
        ("model_name_or_path=gpt2", "model.name"),
        ("dataset_name=trl-lib/tldr", "data=local"),
        ("model.torch_dtype=float32", "set model.dtype"),
        ("model.tokenizer=gpt2", "model=OPTION"),
        ("hardware.num_processes=2", "set hardware.processes"),
        ("use_wandb=true", "tracking=wandb"),
    ],
)
def test_an_old_name_is_told_what_is_set_instead(stages_of, words, says):
    message = refused(stages_of, words)
    assert says in message
    assert message.startswith(words.split()[-1].partition("=")[0]) and "\n" not in message


def test_what_is_proposed_is_a_field_of_some_class():
    assert {line.partition(":")[0] for line in renamed._FIELDS_TEXT.strip().split("\n")} <= FIELDS


def test_what_a_sentence_names_exists():
    known = overrides._known_keys() | {f"hardware={option}": 0 for option in groups.options("hardware")}
    named = set(re.findall(r"\b(?:method|model|hardware|reward)\.[a-z_]+", " ".join(renamed._HINTS.values())))
    assert named - known.keys() - {"method.args", "reward.weight"} == set()


def test_a_field_that_a_class_has_is_never_called_old():
    in_place = {"output_dir", "dataset_text_field"}  # output_dir has its home elsewhere; SFTConfig alone has the other
    assert set(renamed._HINTS) & FIELDS == in_place


def test_a_misspelling_still_gets_its_neighbour(stages_of):
    assert "(did you mean learning_rate?)" in refused(stages_of, "method.args.learnig_rate=1")
