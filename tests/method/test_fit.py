"""What trainers let pass in silence is an error here."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from omegaconf import OmegaConf
from processes import same_weights, weights
from tiny import TINY
from transformers import AutoTokenizer
from trl import SFTTrainer

from qwen_align import hardware, model
from qwen_align.errors import ConfigError
from qwen_align.method import faults, policy, rloo, sft
from qwen_align.method import fit as fit_module
from qwen_align.method.fit import arguments, fit, on_gpu, precision
from qwen_align.reward.countdown import CountdownReward
from qwen_align.stage import interrupt, run, run_folder, worker

PROMPT, ANSWER = [{"role": "user", "content": "Numbers 1 2 target 3"}], [{"role": "assistant", "content": "1 + 2"}]


@pytest.fixture
def config(tmp_path, stages_of):
    return stages_of(*TINY, f"runs_dir={tmp_path}", "method=sft")[0].config


def trainer_of(config, folder, **changes):
    config["method"]["args"] |= changes
    learner, tokenizer = policy.load(config)
    rows = sft.tokenise(Dataset.from_list([{"prompt": PROMPT, "completion": ANSWER}] * 16), tokenizer, 64)
    args = arguments(config, folder, dataset_kwargs={"skip_prepare_dataset": True})
    return SFTTrainer(model=learner, args=args, train_dataset=rows, processing_class=tokenizer)


def test_no_trainable_parameter_is_an_error(config, tmp_path):
    trainer = trainer_of(config, tmp_path)
    trainer.model.requires_grad_(False)
    with pytest.raises(RuntimeError, match="0 of the policy's parameters are trainable"):
        fit(trainer, tmp_path, [])


def test_no_training_step_is_an_error(config, tmp_path):
    trainer = trainer_of(config, tmp_path, max_steps=-1, num_train_epochs=0)
    with pytest.raises(RuntimeError, match="0 training steps"):
        fit(trainer, tmp_path, [])


def test_training_moves_every_parameter(config, tmp_path):
    trainer = trainer_of(config, tmp_path)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    fit(trainer, tmp_path, [PROMPT])
    still = [name for name, value in trainer.model.named_parameters() if value.equal(before[name])]
    assert still == []


def test_a_tokenizer_that_would_be_rebuilt_on_loading_is_an_error(config, tmp_path, monkeypatch):
    trainer = trainer_of(config, tmp_path)
    monkeypatch.setattr(model, "load_tokenizer", AutoTokenizer.from_pretrained)
    with pytest.raises(RuntimeError, match="other token ids"):
        fit(trainer, tmp_path, [PROMPT])


def test_the_stop_token_is_eos_everywhere_after_saving(config, tmp_path):
    fit(trainer_of(config, tmp_path), tmp_path, [PROMPT])
    saved, tokenizer = model.from_run(tmp_path)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.eos_token_id in saved.generation_config.eos_token_id
    assert saved.config.use_cache


def test_an_incomplete_checkpoint_is_skipped_with_a_line(config, tmp_path, capsys):
    torn = tmp_path / "checkpoints" / "checkpoint-3"
    torn.mkdir(parents=True)
    (torn / "trainer_state.json").write_text("{}")
    fit(trainer_of(config, tmp_path), tmp_path, [PROMPT])
    assert "skipping checkpoint-3: it is incomplete" in capsys.readouterr().out


def test_a_resume_after_the_last_step_takes_none_more(config, tmp_path):
    fit(trainer_of(config, tmp_path, max_steps=3), tmp_path, [PROMPT])
    before = weights(tmp_path)
    shutil.rmtree(tmp_path / "model")
    again = fit(trainer_of(config, tmp_path, max_steps=3), tmp_path, [PROMPT])
    assert again["steps"] == 3, "two steps are an epoch, so there is more to read"
    assert same_weights(before, tmp_path)


def test_a_stop_request_ends_after_the_step_with_a_checkpoint(config, tmp_path, monkeypatch):
    trainer = trainer_of(config, tmp_path)
    monkeypatch.setitem(interrupt._state, "asked", True)
    with pytest.raises(interrupt.Interrupted):
        fit(trainer, tmp_path, [PROMPT])
    assert [p.name for p in run_folder.checkpoints(tmp_path)] == ["checkpoint-1"]
    assert not (tmp_path / "model").exists()


def test_a_stop_that_another_process_was_asked_for_ends_this_one_too(config, tmp_path, monkeypatch):
    trainer = trainer_of(config, tmp_path)
    others = SimpleNamespace(**vars(faults) | {"on_any": lambda here, args: True})
    monkeypatch.setattr(fit_module, "faults", others)  # where a stop is asked about, and not a loss
    assert not interrupt.asked()
    with pytest.raises(interrupt.Interrupted):
        fit(trainer, tmp_path, [PROMPT])
    assert [p.name for p in run_folder.checkpoints(tmp_path)] == ["checkpoint-1"]


def test_a_trainer_that_sees_too_few_processes_is_an_error(config, tmp_path):
    config["hardware"] |= {"device": "cpu", "processes": 2}
    with pytest.raises(RuntimeError, match=r"hardware\.processes=2, but the trainer sees 1"):
        arguments(config, tmp_path)


def test_precision_and_batch_reach_trl(config, tmp_path):
    args = arguments(config, tmp_path)
    assert (args.bf16, args.fp16, args.use_cpu) == (False, False, True)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 8
    assert args.output_dir == str(tmp_path / "checkpoints")
    assert args.lr_scheduler_type == "cosine"


def test_the_loss_is_on_the_completion_only(config):
    _, tokenizer = policy.load(config)
    row = sft.tokenise(Dataset.from_list([{"prompt": PROMPT, "completion": ANSWER}]), tokenizer, 64)[0]
    learned = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert tokenizer.decode(learned).split() == ["1", "+", "2", "<|im_end|>"]


def test_long_demonstrations_are_cut_and_counted(config, capsys):
    _, tokenizer = policy.load(config)
    rows = Dataset.from_list([{"prompt": PROMPT, "completion": ANSWER}])
    assert len(sft.tokenise(rows, tokenizer, 12)[0]["input_ids"]) == 12
    assert "1 of 1 demonstrations are longer than max_length=12" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="every prompt fills it"):
        sft.tokenise(rows, tokenizer, 5)


def test_rloo_refuses_reserved_columns_and_missing_ones():
    method = {"prompts_per_step": 1}
    with pytest.raises(ConfigError, match="the column completions"):
        rloo.check_rows(Dataset.from_list([{"prompt": PROMPT, "completions": 1}]), [], method)
    with pytest.raises(ConfigError, match="needs the column nums"):
        rloo.check_rows(Dataset.from_list([{"prompt": PROMPT, "target": 1}]), [CountdownReward()], method)


def test_one_reward_or_several_by_name():
    node = {"_target_": "qwen_align.reward.countdown.CountdownReward"}
    assert [r.name for r in rloo.build_rewards(node)] == ["countdown"]
    assert len(rloo.build_rewards(OmegaConf.to_container(OmegaConf.create({"a": node, "b": node})))) == 2


@pytest.fixture
def gpu(monkeypatch):
    """gpu(GB, bf16): let torch say that it sees one of so many GB; 0 is a driver that does not fit."""

    def pretend(memory: float, bf16: bool = True) -> None:
        monkeypatch.setattr(hardware, "gpus", lambda: ["0"])
        monkeypatch.setattr(hardware, "torch_build", lambda: ("2.13.0", "13.0"))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: memory > 0)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
        known = SimpleNamespace(total_memory=int(memory * 1e9))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: known)

    return pretend


def test_a_gpu_that_torch_cannot_use_is_an_error_if_it_was_asked_for(gpu, capsys):
    gpu(memory=0)
    with pytest.raises(
        ConfigError, match=r"hardware\.device=gpu: torch .* can't use the GPU \(.+\); expected a driver"
    ):
        on_gpu(hardware.Hardware(device="gpu"))
    assert not on_gpu(hardware.Hardware(device="auto"))
    assert "this runs on the CPU: torch" in capsys.readouterr().out


def test_a_stage_that_was_promised_a_gpu_does_not_train_on_the_cpu(gpu, tmp_path, stages_of):
    gpu(memory=0)
    stage = stages_of(*TINY, f"runs_dir={tmp_path}", "method=sft", "hardware=gpu")[0]
    run.prepare(stage, afresh=False)
    assert worker.run_stage(stage.folder) == worker.USER_ERROR
    assert run_folder.read_json(stage.folder / "run.json")["error"].startswith("hardware.device=gpu: torch")


def test_a_gpu_with_less_memory_than_the_settings_count_on_is_an_error(gpu):
    gpu(memory=25.3)
    assert on_gpu(hardware.Hardware(device="gpu", memory_gb=24))
    with pytest.raises(ConfigError, match=r"hardware\.memory_gb=80: this GPU has 25 GB.*hardware=rtx4090"):
        on_gpu(hardware.Hardware(device="gpu", memory_gb=80))


@pytest.mark.parametrize(
    ("option", "memory", "bf16", "expected"),
    [
        ("gpu", 80, True, {"use_cpu": False, "bf16": True, "fp16": False}),
        ("gpu", 16, False, {"use_cpu": False, "bf16": False, "fp16": False}),
        ("h100", 85, True, {"use_cpu": False, "bf16": True, "fp16": False}),
        ("t4", 15.8, False, {"use_cpu": False, "bf16": False, "fp16": True}),
        ("cpu", 80, True, {"use_cpu": True, "bf16": False, "fp16": False}),
    ],
)
def test_precision_follows_from_the_option_and_the_device(gpu, stages_of, option, memory, bf16, expected):
    gpu(memory, bf16)
    assert precision(stages_of("method=sft", f"hardware={option}")[0].config["hardware"]) == expected
