"""What trainers let pass in silence is an error here."""

import shutil
from types import SimpleNamespace

import pytest
from datasets import Dataset
from processes import same_weights, weights
from tiny import TINY
from transformers import AutoTokenizer
from trl import SFTTrainer

from qwen_align import interrupt, model, run_folder
from qwen_align.config import job
from qwen_align.errors import ConfigError
from qwen_align.method import callbacks, faults, policy, sft
from qwen_align.method.fit import arguments, fit

pytestmark = pytest.mark.slow

PROMPT, ANSWER = [{"role": "user", "content": "Numbers 1 2 target 3"}], [{"role": "assistant", "content": "1 + 2"}]


@pytest.fixture
def config(tmp_path, stages_of):
    return stages_of(*TINY, f"runs_dir={tmp_path}", "method=sft")[0].config


def trainer_of(config, folder, **changes):
    config["method"]["args"] |= changes
    learner, tokenizer = policy.load(job.read("sft", config))
    rows = sft.tokenise(Dataset.from_list([{"prompt": PROMPT, "completion": ANSWER}] * 16), tokenizer, 64)
    args = arguments(job.read("sft", config), folder, dataset_kwargs={"skip_prepare_dataset": True})
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
    monkeypatch.setattr(callbacks, "faults", others)  # where a stop is asked about, and not a loss
    assert not interrupt.asked()
    with pytest.raises(interrupt.Interrupted):
        fit(trainer, tmp_path, [PROMPT])
    assert [p.name for p in run_folder.checkpoints(tmp_path)] == ["checkpoint-1"]


def test_a_trainer_that_sees_too_few_processes_is_an_error(config, tmp_path):
    config["hardware"] |= {"device": "cpu", "processes": 2}
    with pytest.raises(RuntimeError, match=r"hardware\.processes=2, but the trainer sees 1"):
        arguments(job.read("sft", config), tmp_path)


def test_precision_and_batch_reach_trl(config, tmp_path):
    args = arguments(job.read("sft", config), tmp_path)
    assert (args.bf16, args.fp16, args.use_cpu) == (False, False, True)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 8
    assert args.output_dir == str(tmp_path / "checkpoints")
    assert args.lr_scheduler_type == "cosine"


def test_what_trl_itself_refuses_is_one_line(config, tmp_path):
    config["method"]["args"]["load_best_model_at_end"] = True  # without an eval_strategy
    with pytest.raises(ConfigError, match=r"method\.args: .*--load_best_model_at_end requires"):
        arguments(job.read("sft", config), tmp_path)


def test_a_users_own_config_class_is_taken(config, tmp_path):
    (tmp_path / "mine.py").write_text("import trl\n\n\nclass Mine(trl.SFTConfig):\n    pass\n")
    config["method"]["args"]["_target_"] = f"{tmp_path}/mine.py:Mine"
    assert type(arguments(job.read("sft", config), tmp_path)).__name__ == "Mine"
