"""Where a stage runs: the device, how many processes, who starts them, and the DeepSpeed configuration.

ZeRO (arXiv 1910.02054) splits the optimizer's state (1), the gradients (2) and the weights (3) over the processes; without it
each process holds everything and only gradients are averaged (DDP). Only training is spread: a stage that samples runs in one
process. What fits in a device's memory at once is set here too (`per_device`, `activation_checkpointing`): conf/method/ reads
it from here. Left out: FSDP, pipeline and tensor parallelism (models of this size need none), other GPUs.
"""

import importlib.util
import json
import os
import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from qwen_align.config import groups
from qwen_align.errors import ConfigError

DEVICES = Path("/dev")
_CHOICES = {"device": ("auto", "cpu", "gpu"), "precision": ("auto", "fp32", "bf16", "fp16"), "launcher": ("deepspeed", "srun")}


def gpus() -> list[str]:
    """The visible NVIDIA devices by their names in CUDA_VISIBLE_DEVICES; WSL2 has one file for all, which counts as one."""
    count = len(list(DEVICES.glob("nvidia[0-9]*"))) or int((DEVICES / "dxg").exists())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))) if count else ""
    return [name for name in visible.split(",") if name not in ("", "-1")]


def has_gpu() -> bool:
    return bool(gpus())


@lru_cache
def torch_build() -> tuple[str, str | None]:
    """(version, CUDA version or None) of the installed torch, from its version.py: importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return "none", None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    found = dict(re.findall(r"^(\w+)(?::.*)? = ['\"](.*)['\"]", text, re.M))
    return found["__version__"], found.get("cuda")


def without_cuda() -> str:
    """What is wrong with a torch that can't use the GPU that is here, and the command that helps."""
    version = torch_build()[0]
    command = f"pip uninstall -y torch && pip install torch=={version.partition('+')[0]}"
    return f"the installed torch {version} is built without CUDA; `{command}` installs the one with it"


def search_path() -> str:
    """PATH with this Python's own folder first, where ninja lies in a virtual environment that is not activated."""
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))


def find(name: str) -> Path:
    """A file as the user names it, or beside conf/, where launch/ lies."""
    own = Path(name).expanduser()
    return own.resolve() if own.is_file() else groups.CONF.parent / name


def slots(hostfile: Path) -> int:
    """How many processes a hostfile has room for; a line is `HOST slots=N`, # begins a comment."""
    total = 0
    for line in hostfile.read_text(encoding="utf-8").splitlines():
        if content := line.partition("#")[0].strip():
            if not (found := re.fullmatch(r"\S+\s+slots=(\d+)", content)):
                raise ConfigError(f"hardware.hostfile={hostfile}: the line {line!r} is not like `node-1 slots=8`")
            total += int(found[1])
    return total


@dataclass
class Hardware:
    """Where a stage runs."""

    device: str = "auto"
    processes: int = 1
    precision: str = "auto"
    threads: int | None = None
    deepspeed: str | None = None
    launcher: str = "deepspeed"
    hostfile: str | None = None
    memory_gb: float | None = None
    tflops: float | None = None
    per_device: dict[str, int] = field(default_factory=dict)
    activation_checkpointing: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, allowed in _CHOICES.items():
            if (value := getattr(self, key)) not in allowed:
                raise ConfigError(f"hardware.{key}={value}: expected one of {', '.join(allowed)}")
        counts = {"processes": self.processes} | {f"per_device.{method}": rows for method, rows in self.per_device.items()}
        for key, count in counts.items():
            if count < 1:
                raise ConfigError(f"hardware.{key}={count}: expected a whole number from 1 on")
        for key, number in (("memory_gb", self.memory_gb), ("tflops", self.tflops)):
            if number is not None and number <= 0:
                raise ConfigError(f"hardware.{key}={number}: expected a number above 0, or null")
        self._check_devices()
        self._check_launcher()
        if self.deepspeed is not None:
            self._check_deepspeed()

    @property
    def on_gpu(self) -> bool:
        return self.device == "gpu" or (self.device == "auto" and has_gpu() and torch_build()[1] is not None)

    @property
    def idle_gpu(self) -> str | None:
        """Why a GPU that is here is not used; None where none is, or the user wants it so."""
        idle = self.device == "auto" and has_gpu() and not self.on_gpu
        return f"a GPU is visible, but {without_cuda()}" if idle else None

    @property
    def distributed(self) -> bool:
        """Whether a launcher starts the processes; DeepSpeed wants one even for a single process."""
        return self.processes > 1 or self.deepspeed is not None

    @property
    def local(self) -> bool:
        """Whether all processes run on this machine."""
        return self.hostfile is None and self.launcher == "deepspeed"

    @property
    def zero_stage(self) -> int | None:
        return self.configuration()["zero_optimization"]["stage"] if self.deepspeed else None

    def in_one_process(self) -> "Hardware":
        return replace(self, processes=1, deepspeed=None, launcher="deepspeed", hostfile=None)

    def configuration(self) -> Any:
        """DeepSpeed's configuration, as TRL takes it; None for plain DDP."""
        return json.loads(find(self.deepspeed).read_text(encoding="utf-8")) if self.deepspeed else None

    def _check_devices(self) -> None:
        if not self.local:
            return
        if self.device == "gpu" and not has_gpu():
            raise ConfigError("hardware.device=gpu: no NVIDIA device is visible here; hardware=cpu or hardware=auto works")
        if self.device == "gpu" and torch_build()[1] is None:
            raise ConfigError(f"hardware.device=gpu: {without_cuda()}; hardware=cpu works with what is there")
        if self.on_gpu and self.processes > (most := len(gpus())):
            wrong = f"each needs a GPU of its own, of {most} here"
            raise ConfigError(f"hardware.processes={self.processes}: {wrong}; expected at most {most}")

    def _check_launcher(self) -> None:
        if self.launcher == "srun":
            if missing := [name for name in ("SLURM_JOB_ID", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
                raise ConfigError(f"hardware.launcher=srun: {missing[0]} is not set; run `sbatch launch/slurm.sbatch WORDS`")
            if (tasks := os.environ.get("SLURM_NTASKS", str(self.processes))) != str(self.processes):
                raise ConfigError(f"hardware.processes={self.processes}: the Slurm job has {tasks} tasks; expected {tasks}")
        if self.hostfile is None:
            return
        if not (path := find(self.hostfile)).is_file():
            raise ConfigError(f"hardware.hostfile={self.hostfile}: no such file; launch/hostfile.example shows what goes in")
        if self.launcher == "srun":
            raise ConfigError(f"hardware.hostfile={self.hostfile}: Slurm places the processes itself; expected null")
        if (room := slots(path)) != self.processes:
            raise ConfigError(f"hardware.processes={self.processes}: {self.hostfile} has {room} slots; expected {room}")

    def _check_deepspeed(self) -> None:
        if not find(str(self.deepspeed)).is_file():
            raise ConfigError(f"hardware.deepspeed={self.deepspeed}: no such file; launch/zero2.json is one")
        try:
            zero = self.configuration()["zero_optimization"]
            stage = zero["stage"]
        except (ValueError, KeyError, TypeError) as error:
            wrong = f"not JSON with zero_optimization.stage ({error}); launch/zero2.json is"
            raise ConfigError(f"hardware.deepspeed={self.deepspeed}: {wrong}") from error
        if stage not in (0, 1, 2, 3):
            raise ConfigError(f"hardware.deepspeed={self.deepspeed}: zero_optimization.stage is {stage}; expected 1, 2 or 3")
        compiles = not self.on_gpu or any("offload" in key for key in zero)
        for tool in (os.environ.get("CXX", "c++"), "ninja") if compiles else ():
            if shutil.which(tool, path=search_path()) is None:
                wrong = f"DeepSpeed compiles a part of itself here and {tool} is missing"
                right = "g++ and ninja (apt install g++ ninja-build), or hardware=cpu_ddp, which compiles nothing"
                raise ConfigError(f"hardware.deepspeed={self.deepspeed}: {wrong}; expected {right}")

    def check_compiler(self) -> None:
        """Raise ConfigError where the first step of sft, dpo or rloo would fail on a GPU, for want of a compiler.

        TRL's loss is a Triton kernel there (trl/kernels/chunked_logprob.py), built with Python.h (triton/runtime/build.py).
        """
        if not (self.on_gpu and self.local) or importlib.util.find_spec("triton") is None:
            return
        scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
        header = Path(sysconfig.get_paths(scheme)["include"]) / "Python.h"
        compilers = [os.environ.get("CC"), *(shutil.which(name, path=search_path()) for name in ("gcc", "clang"))]
        missing = "a C compiler" if not any(compilers) else "" if header.is_file() else str(header)
        if missing:
            wrong = f"TRL's loss compiles Triton kernels on a GPU, and {missing} is missing"
            right = "gcc and Python's headers (apt install gcc python3-dev), or no Triton (pip uninstall triton)"
            raise ConfigError(f"hardware.device={self.device}: {wrong}; expected {right}")
