"""GPU or CPU, and in which precision, as the hardware option and the device allow."""

from types import SimpleNamespace

import pytest
import torch
from tiny import TINY

from qwen_align import hardware, run_folder
from qwen_align.device import on_gpu, precision
from qwen_align.errors import ConfigError
from qwen_align.stage import run, worker


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
    with pytest.raises(ConfigError, match=r"hardware\.device=gpu: torch .* can't use the GPU \(.+\); expected a driver"):
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
    assert precision(stages_of("method=sft", f"hardware={option}")[0].job.hardware) == expected
