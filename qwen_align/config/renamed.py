"""Names that older releases of TRL, transformers and their tutorials have, and what is set here instead.

Sources: the rename table at the end of TRL's docs/source/rloo_trainer.md, its MIGRATION.md, and the migration guide of
transformers 5. Edit distance finds nothing for `rloo_k`. Left out: misspellings, which `errors.nearest` is for.
"""

from collections.abc import Mapping

# The field it is now: the names that it had. A name may be in several lines; the first that a class has counts.
_FIELDS_TEXT = """
beta: kl_coef init_kl_coef kl_coefficient kl_penalty_coef kl_weight kl_beta dpo_beta
num_generations: rloo_k k group_size num_samples num_return_sequences n_samples num_sample_generations
max_completion_length: response_length max_new_tokens max_tokens completion_length max_response_length max_length
max_length: max_seq_length max_seq_len seq_length sequence_len cutoff_len model_max_length block_size max_completion_length
eval_strategy: evaluation_strategy do_eval_steps
epsilon: cliprange clip_range clip_eps clip_epsilon cliprange_low clip_ratio
epsilon_high: cliprange_high clip_ratio_high
num_iterations: num_ppo_epochs ppo_epochs mu
learning_rate: lr learn_rate init_lr step_size
num_train_epochs: epochs num_epochs n_epochs max_epochs epoch
max_steps: num_steps total_steps train_steps max_train_steps
gradient_accumulation_steps: grad_accum accumulation_steps grad_accumulation_steps gradient_accumulation
lr_scheduler_type: lr_scheduler scheduler scheduler_type
lr_scheduler_kwargs: scheduler_kwargs
optim: optimizer optimizer_type
max_grad_norm: grad_clip gradient_clip clip_grad_norm gradient_clip_val grad_norm_clip
weight_decay: wd
warmup_steps: num_warmup_steps
logging_steps: log_every log_interval log_steps
eval_steps: eval_every eval_interval
save_steps: save_every save_interval checkpoint_steps
per_device_eval_batch_size: eval_batch_size per_gpu_eval_batch_size
normalize_advantages: whiten_advantages advantage_whitening
activation_checkpointing: gradient_checkpoint use_gradient_checkpointing
label_smoothing_factor: label_smoothing
temperature: sampling_temperature
vllm_gpu_memory_utilization: gpu_memory_utilization vllm_gpu_memory
vllm_tensor_parallel_size: tensor_parallel_size
vllm_max_model_length: vllm_max_model_len max_model_len
vllm_server_base_url: vllm_url vllm_server_url
vllm_importance_sampling_clip_max: vllm_importance_sampling_cap
sync_ref_model: sync_reference_model
ref_model_mixup_alpha: ref_mixup_alpha
precompute_ref_log_probs: precompute_reference_log_probs
center_rewards_coefficient: center_rewards
packing_strategy: packing_mode
f_alpha_divergence_coef: alpha_divergence_coef
assistant_only_loss: train_on_assistant_only assistant_loss_only
completion_only_loss: train_on_completions_only train_on_responses_only completions_only
lora_alpha: lora_scaling
r: lora_r lora_rank rank
lora_dropout: lora_drop
target_modules: lora_target_modules lora_target
modules_to_save: lora_modules_to_save
use_dora: dora
use_rslora: rslora
"""
# Old names | what is said of them.
_HINTS_TEXT = """
warmup_ratio | set warmup_steps=0.1 for a tenth: below 1 it is a share of all steps
max_prompt_length | method.max_prompt_tokens of rloo and grpo leaves longer prompts out; sft and dpo cut at max_length
max_target_length truncate_prompt | set max_length, which cuts prompt and answer together
load_in_4bit | weights aren't quantised here; adapter=lora saves memory, hardware=h100 and the like set the precision
load_in_8bit use_qlora | weights aren't quantised here; adapter=lora saves memory, hardware=h100 and the like set the precision
qlora quantization | weights aren't quantised here; adapter=lora saves memory, hardware=h100 and the like set the precision
quantization_config | weights aren't quantised here; adapter=lora saves memory, hardware=h100 and the like set the precision
no_cuda use_cuda use_gpu cuda device device_map n_gpu num_gpus | set hardware=OPTION, such as hardware=cpu
num_processes nproc_per_node world_size | set hardware.processes
tokenizer processing_class tokenizer_name tokenizer_name_or_path | the tokenizer is the model's: set model=OPTION
chat_template | the template is the model's: set model=OPTION
missing_eos_penalty | set mask_truncated_completions=true: cut completions leave the loss; the penalty lowered their reward
whiten_rewards | set normalize_advantages=true of rloo or scale_rewards of grpo, which scale advantages, not rewards
group_by_length length_grouping | set train_sampling_strategy=group_by_length
batch_size train_batch_size | set method.batch_size, or method.prompts_per_step of rloo and grpo; accumulation follows from it
minibatch_size | set method.batch_size, or method.prompts_per_step of rloo and grpo; accumulation follows from it
mini_batch_size | set method.batch_size, or method.prompts_per_step of rloo and grpo; accumulation follows from it
per_gpu_train_batch_size | set method.batch_size, or method.prompts_per_step of rloo and grpo; accumulation follows from it
local_batch_size | set method.batch_size, or method.prompts_per_step of rloo and grpo; accumulation follows from it
total_episodes num_total_batches num_episodes | set max_steps: a step has prompts_per_step x num_generations completions
episodes | set max_steps: a step has prompts_per_step x num_generations completions
local_rollout_forward_batch_size | set per_device_train_batch_size, which is what is in memory at once
logging_dir overwrite_output_dir output_dir run_dir save_dir | runs go to runs_dir, one folder each
push_to_hub_model_id push_to_hub_organization push_to_hub_token hub_model hub_repo | nothing is uploaded from here
save_safetensors | weights are always saved as safetensors
half_precision_backend fp16_backend fp16_opt_level mixed_precision use_bf16 amp | set hardware.precision
torch_dtype dtype | set model.dtype
attn_implementation use_flash_attention_2 use_flash_attn flash_attention | set model.attn_implementation where the model has it
adafactor | set optim=adafactor
torchdynamo | set torch_compile_backend
jit_mode_eval use_ipex tpu_num_cores past_index ray_scope | it was removed from transformers
include_tokens_per_second | it was removed from transformers; include_num_input_tokens_seen=all counts tokens
include_inputs_for_metrics | set include_for_metrics=[inputs]
eval_packing_strategy num_of_sequences chars_per_token | it was removed from TRL; set packing, packing_strategy and max_length
dataset_name dataset train_file dataset_path data_path | set data=OPTION, or data=local with data.demonstrations_path=FILE
train_data | set data=OPTION, or data=local with data.demonstrations_path=FILE
dataset_text_field formatting_func text_column | set data.columns of data=local, such as data.columns.prompt=question
prompt_column | set data.columns of data=local, such as data.columns.prompt=question
peft_config use_peft lora use_lora peft | set adapter=lora and its fields, such as adapter.r=16
bias_type lora_bias_type | set adapter.bias
model_name_or_path model_name base_model pretrained_model_name_or_path model_id sft_model_path | set model=OPTION or model.name
ref_model reference_model ref_model_name_or_path ref_adapter_name | the reference is where the policy starts: set init
reference_free | set method.args.loss_type; every loss here is measured against the reference
reward_model_path reward_model reward_model_name reward_funcs | set reward=OPTION, such as reward=deberta, or FILE.py:NAME
reward_func | set reward=OPTION, such as reward=deberta, or FILE.py:NAME
reward_weight | set reward.weight, or reward.NAME.weight of one of several
stop_token stop_token_id eos_token_id | set model.stop_token
token_level_kl | it was removed from TRL: the KL term is a sum over the sequence
vf_coef cliprange_value gamma lam value_model | there is no value model here: rloo compares the completions of a prompt
value_loss_coef | there is no value model here: rloo compares the completions of a prompt
generate_during_eval | measured by the data's verifier: set method.held_out_every, or method=evaluate
is_encoder_decoder label_pad_token_id padding_value | it was removed from TRL
rpo_alpha | set loss_type=[sigmoid,sft] and loss_weights=[1,ALPHA]
use_logits_to_keep | it was removed from TRL: the loss never holds all logits
wandb_project wandb use_wandb tensorboard | set tracking=OPTION, such as tracking=wandb
resume | runs resume by themselves
ds_config zero_stage deepspeed_config | set hardware=OPTION, such as hardware=zero2, or hardware.deepspeed=FILE
"""
_FIELDS: dict[str, list[str]] = {}
for _line in _FIELDS_TEXT.split("\n")[1:-1]:
    for _old in _line.partition(":")[2].split():
        _FIELDS.setdefault(_old, []).append(_line.partition(":")[0])
_HINTS: dict[str, str] = {}
for _line in _HINTS_TEXT.split("\n")[1:-1]:
    _HINTS |= dict.fromkeys(_line.partition(" | ")[0].split(), _line.partition(" | ")[2])


def hint(name: str, places: Mapping[str, str]) -> str:
    """'; set method.args.beta' in place of an old name, or what is said of it, or nothing; `places`: field -> its whole key."""
    new = next((places[field] for field in _FIELDS.get(name, ()) if field in places), None)
    return f"; set {new}" if new else f"; {_HINTS[name]}" if name in _HINTS else ""
