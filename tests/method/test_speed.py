"""Each saving of method.speed gives TRL's own loss and gradients on the same completions."""

import random

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from qwen_align.compat.trl import head_on_labels
from qwen_align.method.grpo import GRPO
from qwen_align.method.rloo import RLOO
from qwen_align.model import from_scratch

pytestmark = pytest.mark.slow

SAVINGS = ("decode", "old_log_probs", "no_advantage", "by_length", "shared_prompts", "completion_head")
ALL = dict.fromkeys(SAVINGS, True)
N, LONGEST = 4, 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    policy, tokenizer = from_scratch("Numbers target", 20, **shape, intermediate_size=48)
    path = tmp_path_factory.mktemp("policy")
    for part in (policy, tokenizer):
        part.save_pretrained(path)
    tokenizer.padding_side = "left"
    return path, tokenizer


class Gradients(TrainerCallback):
    """All gradients at each optimizer step."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        parts = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        self.seen.append(torch.cat(parts).clone())


def drawn(prompt_ids, end):
    """Completions that follow from their prompts alone; every second one has ended."""
    rng = random.Random(str(prompt_ids))
    texts = [[rng.randrange(5, 25) for _ in range(rng.randrange(1, LONGEST))] for _ in prompt_ids]
    return [ids + [end] * (i % 2) for i, ids in enumerate(texts)]


def reward(completion_ids, **_):
    """Every third group has no variance."""
    flat = [i // N % 3 == 0 for i in range(len(completion_ids))]
    return [1.0 if same else (sum(ids) % 7) / 3 for same, ids in zip(flat, completion_ids, strict=True)]


def trained(trainer_class, folder, tmp_path, settings, peft=None, **extra):
    """(gradients of each step, the trainer) of two steps on completions that were drawn elsewhere."""
    path, tokenizer = folder
    rng = random.Random(0)
    texts = [" ".join(["Numbers", *(str(rng.randrange(20)) for _ in range(rng.randrange(1, 6)))]) for _ in range(24)]
    rows = Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in texts]})
    settings = {
        "activation_checkpointing": False,
        "beta": 0.0,
        "per_device_train_batch_size": 6,
        "gradient_accumulation_steps": 4,
    } | settings
    config = GRPOConfig if issubclass(trainer_class, GRPOTrainer) else RLOOConfig
    args = config(
        output_dir=str(tmp_path), max_steps=2, learning_rate=0.01, lr_scheduler_type="constant", optim="sgd", max_grad_norm=0.0,
        seed=0, use_cpu=True, bf16=False, report_to=[], save_strategy="no", disable_tqdm=True,
        num_generations=N, max_completion_length=LONGEST, logging_steps=1, **settings,
    )  # fmt: skip
    head_on_labels(False)
    torch.manual_seed(0)
    adapter = LoraConfig(r=2, target_modules="all-linear", **peft) if peft is not None else None
    trainer = trainer_class(
        model=str(path), reward_funcs=[reward], args=args, train_dataset=rows, processing_class=tokenizer,
        peft_config=adapter, **extra,
    )  # fmt: skip
    several = issubclass(trainer_class, GRPOTrainer)
    end = tokenizer.eos_token_id
    trainer._generate_single_turn = lambda ids, *_: (drawn(ids, end), None) if several else drawn(ids, end)
    watch = Gradients()
    trainer.add_callback(watch)
    trainer.train()
    return watch.seen, trainer


def assert_equal(found, expected):
    assert len(found) == len(expected) == 2
    for one, other in zip(found, expected, strict=True):
        assert other.norm() > 0
        assert (one - other).norm() / other.norm() < 1e-6


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    return trained(RLOOTrainer, folder, tmp_path_factory.mktemp("plain"), {})


@pytest.mark.parametrize("name", [*SAVINGS, "all"])
def test_gradients_of_rloo_are_those_of_trl(folder, tmp_path, plain, name):
    speed = ALL if name == "all" else {name: True} | ({"by_length": True} if name == "no_advantage" else {})
    found, trainer = trained(RLOO, folder, tmp_path, {}, speed=speed)
    assert_equal(found, plain[0])
    losses = [[line["loss"] for line in run.state.log_history if "loss" in line] for run in (trainer, plain[1])]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"beta": 0.1},
        {"num_iterations": 2},
        {"steps_per_generation": 8, "gradient_accumulation_steps": 4},
        {"steps_per_generation": 4, "gradient_accumulation_steps": 8, "per_device_train_batch_size": 4},
        {"normalize_advantages": True},
        {"mask_truncated_completions": True},
        {"activation_checkpointing": True},
        {"temperature": 0.7},
    ],
    ids=str,
)
def test_gradients_are_those_of_trl_under(folder, tmp_path, settings):
    settings = dict(settings)
    expected, _ = trained(RLOOTrainer, folder, tmp_path, settings)
    found, _ = trained(RLOO, folder, tmp_path, settings, speed=ALL)
    assert_equal(found, expected)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_gradients_of_an_adapter_are_those_of_trl(folder, tmp_path, beta):
    expected, _ = trained(RLOOTrainer, folder, tmp_path, {"beta": beta}, peft={})
    found, _ = trained(RLOO, folder, tmp_path, {"beta": beta}, peft={}, speed=ALL)
    assert_equal(found, expected)


@pytest.mark.parametrize("settings", [{}, {"beta": 0.1}, {"loss_type": "bnpo"}, {"entropy_coef": 0.01}], ids=str)
def test_gradients_of_grpo_are_those_of_trl(folder, tmp_path, settings):
    expected, _ = trained(GRPOTrainer, folder, tmp_path, settings)
    found, _ = trained(GRPO, folder, tmp_path, settings, speed=ALL)
    assert_equal(found, expected)


def test_dropout_leaves_log_probs_to_trl(folder, tmp_path):
    _, trainer = trained(RLOO, folder, tmp_path, {}, peft={"lora_dropout": 0.1}, speed=ALL)
    assert not trainer.speed.shares
    assert not trainer.speed.skips_old_log_probs


@pytest.mark.parametrize(
    "setting", [{"repetition_penalty": 1.1}, {"min_p": 0.1}, {"generation_kwargs": {"num_beams": 2}}], ids=str
)
def test_sampling_that_the_decode_loop_lacks_is_left_to_trl(folder, tmp_path, setting):
    _, trainer = trained(RLOO, folder, tmp_path, setting, speed=ALL)
    assert not trainer.speed.decode


def test_greedy_completions_are_those_of_trl(folder, tmp_path):
    _, trainer = trained(RLOO, folder, tmp_path, {}, speed=ALL)
    prompts = [ids for n in (2, 7, 4) for ids in [list(range(5, 5 + n))] * N]
    trainer.args.temperature = 0.0
    trainer.generation_config.do_sample = False
    theirs = RLOOTrainer._generate_single_turn(trainer, prompts, None, {})
    assert trainer.complete(prompts) == theirs
