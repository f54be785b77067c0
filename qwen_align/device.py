"""What this process computes on: GPU or CPU, and in which precision."""

from functools import cache

import torch

from qwen_align.errors import ConfigError
from qwen_align.hardware import Hardware


@cache
def _no_cuda() -> str:
    """Why torch can't use a GPU that is there; the driver's version, most often."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "no device is visible"


def on_gpu(hardware: Hardware) -> bool:
    """Whether this process computes on a GPU; a ConfigError where torch can't use it or its memory is too small."""
    if not hardware.on_gpu:
        return False
    if not torch.cuda.is_available():
        reason = f"torch {torch.__version__} can't use the GPU ({_no_cuda()})"
        if hardware.device == "gpu":
            raise ConfigError(f"hardware.device=gpu: {reason}; expected a driver that fits, or hardware=cpu")
        print(f"this runs on the CPU: {reason}", flush=True)
        return False
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9
    if hardware.memory_gb and memory < 0.9 * hardware.memory_gb:
        wrong = f"this GPU has {memory:.0f} GB, too little for the rows that hardware.per_device holds at once"
        smaller = "expected the option for a smaller one: hardware=rtx4090, t4 or gpu"
        raise ConfigError(f"hardware.memory_gb={hardware.memory_gb:g}: {wrong}; {smaller}")
    return True


def precision(hardware: Hardware) -> dict[str, bool]:
    """TRL's precision flags for what was asked for; auto is bf16 where the GPU computes in it, else fp32."""
    cpu = not on_gpu(hardware)
    wanted = hardware.precision
    if wanted == "auto":
        wanted = "fp32" if cpu or not torch.cuda.is_bf16_supported(including_emulation=False) else "bf16"
    return {"use_cpu": cpu, "bf16": wanted == "bf16", "fp16": wanted == "fp16"}
