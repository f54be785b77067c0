"""Hardware settings: what is refused before anything starts, and what launch/ holds."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from qwen_align import hardware
from qwen_align.config import groups
from qwen_align.errors import ConfigError
from qwen_align.hardware import Hardware

LAUNCH = Path(__file__).parent.parent / "launch"
ZERO = sorted(LAUNCH.glob("zero*.json"))


@pytest.fixture
def with_cuda(monkeypatch):
    monkeypatch.setattr(hardware, "torch_build", lambda: ("2.13.0", "13.0"))


@pytest.fixture
def without_cuda(monkeypatch):
    monkeypatch.setattr(hardware, "torch_build", lambda: ("2.13.0+cpu", None))


@pytest.fixture
def four_gpus(monkeypatch, with_cuda):
    monkeypatch.setattr(hardware, "gpus", lambda: ["0", "1", "2", "3"])


@pytest.fixture
def devices(monkeypatch, tmp_path):
    """A folder that stands for /dev."""
    monkeypatch.setattr(hardware, "DEVICES", tmp_path / "dev")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "dev").mkdir()
    return tmp_path / "dev"


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(hardware, "gpus", lambda: [])


@pytest.mark.parametrize("setting", [{"device": "tpu"}, {"precision": "fp8"}, {"processes": 0}, {"launcher": "mpirun"}])
def test_a_wrong_setting_names_its_key(setting):
    (key,) = setting
    with pytest.raises(ConfigError, match=rf"hardware\.{key}="):
        Hardware(**setting)


def test_a_gpu_that_is_not_there_is_an_error_at_once(no_gpu):
    with pytest.raises(ConfigError, match="no NVIDIA device"):
        Hardware(device="gpu")
    assert not Hardware(device="auto").on_gpu


def test_more_processes_than_gpus_is_an_error_at_once(four_gpus):
    assert Hardware(device="gpu", processes=4).distributed
    with pytest.raises(ConfigError, match=r"hardware\.processes=5: .*expected at most 4"):
        Hardware(device="auto", processes=5)


def test_processes_on_the_cpu_need_no_gpu(no_gpu):
    assert Hardware(device="cpu", processes=2).distributed


def test_visible_devices_are_counted(monkeypatch, devices):
    for name in ("nvidia0", "nvidia5", "nvidiactl", "nvidia-uvm"):
        (devices / name).touch()
    assert hardware.gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert hardware.gpus() == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert hardware.gpus() == []


def test_wsl2_has_one_gpu_behind_another_device_file(monkeypatch, devices):
    assert hardware.gpus() == []
    (devices / "dxg").touch()
    assert hardware.gpus() == ["0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not hardware.has_gpu()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None", "13.0"),
        ("cuda = '12.1'", "12.1"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None", None),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4'", None),
    ],
    ids=["CUDA", "CUDA without a type", "CPU", "ROCm"],
)
def test_torch_is_asked_for_its_cuda_by_its_files(monkeypatch, tmp_path, source, expected):
    (tmp_path / "version.py").write_text(f"from typing import Optional\n__version__ = '2.13.0'\n{source}\n")
    origin = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: origin)
    assert hardware.torch_build.__wrapped__() == ("2.13.0", expected)


def test_the_installed_torch_is_read_as_it_says_itself_and_not_imported():
    script = (
        "import sys; from qwen_align import hardware; found = hardware.torch_build(); assert 'torch' not in sys.modules\n"
        "import torch; assert found == (torch.__version__, torch.version.cuda), found"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_gpu_with_a_torch_that_has_no_cuda_is_an_error_that_names_the_command(devices, without_cuda):
    (devices / "nvidia0").touch()
    with pytest.raises(ConfigError, match=r"device=gpu: .*2\.13\.0\+cpu is built without CUDA; .*pip install torch==2\.13\.0"):
        Hardware(device="gpu")


@pytest.mark.parametrize("name", ["nvidia0", "dxg"])
def test_auto_runs_on_the_cpu_with_a_torch_that_has_no_cuda_and_says_why(devices, without_cuda, name):
    assert Hardware(device="auto").idle_gpu is None
    (devices / name).touch()
    assert not Hardware(device="auto").on_gpu
    assert "built without CUDA" in (Hardware(device="auto").idle_gpu or "")
    assert Hardware(device="cpu").idle_gpu is None


def test_auto_uses_a_gpu_with_a_torch_that_has_cuda(devices, with_cuda):
    (devices / "dxg").touch()
    assert Hardware(device="auto").on_gpu
    assert Hardware(device="auto").idle_gpu is None


@pytest.fixture
def triton(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))


@pytest.mark.parametrize("found", ["gcc", "clang", "CC"])
def test_triton_takes_any_c_compiler(four_gpus, triton, monkeypatch, found):
    monkeypatch.setattr(hardware.shutil, "which", lambda tool, path: f"/usr/bin/{tool}" if tool == found else None)
    if found == "CC":
        monkeypatch.setenv("CC", "/opt/cc")
    Hardware(device="gpu").check_compiler()


def test_triton_without_a_c_compiler_is_an_error_before_a_loss_is_computed(four_gpus, triton, monkeypatch):
    monkeypatch.setattr(hardware.shutil, "which", lambda tool, path: None)
    with pytest.raises(ConfigError, match=r"device=gpu: .*a C compiler is missing; .*apt install gcc python3-dev"):
        Hardware(device="gpu").check_compiler()
    Hardware(device="cpu").check_compiler()
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: None)
    Hardware(device="gpu").check_compiler()


def test_triton_without_pythons_headers_is_an_error_too(four_gpus, triton, monkeypatch, tmp_path):
    monkeypatch.setattr(hardware.shutil, "which", lambda tool, path: f"/usr/bin/{tool}")
    monkeypatch.setattr(hardware.sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"Python\.h is missing"):
        Hardware(device="gpu").check_compiler()


@pytest.mark.parametrize("setting", [{"per_device": {"sft": 0}}, {"memory_gb": 0}])
def test_what_no_device_holds_is_an_error(setting):
    with pytest.raises(ConfigError, match=r"hardware\.(per_device\.sft|memory_gb)=0: expected a"):
        Hardware(**setting)


@pytest.mark.parametrize("missing", ["c++", "ninja"])
def test_zero_on_the_cpu_without_a_compiler_is_an_error_at_once(monkeypatch, missing):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(hardware.shutil, "which", lambda tool, path: None if tool == missing else f"/usr/bin/{tool}")
    with pytest.raises(ConfigError, match=rf"{missing.replace('+', '.')} is missing; .*hardware=cpu_ddp"):
        Hardware(device="cpu", processes=2, deepspeed="launch/zero2.json")
    Hardware(device="cpu", processes=2)


def test_offload_compiles_on_a_gpu_too(four_gpus, monkeypatch):
    monkeypatch.setattr(hardware.shutil, "which", lambda tool, path: None)
    Hardware(device="gpu", processes=2, deepspeed="launch/zero3.json")
    with pytest.raises(ConfigError, match="is missing"):
        Hardware(device="gpu", processes=2, deepspeed="launch/zero3_offload.json")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"zero_optimization": {"stage": 7}}'])
def test_a_deepspeed_file_that_is_none_is_an_error(tmp_path, content):
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(ConfigError, match=r"hardware\.deepspeed="):
        Hardware(device="cpu", deepspeed=str(tmp_path / "mine.json"))
    with pytest.raises(ConfigError, match=r"hardware\.deepspeed=none\.json: no such file"):
        Hardware(device="cpu", deepspeed="none.json")


def test_a_users_own_deepspeed_file_is_read_from_where_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text('{"zero_optimization": {"stage": 1}}')
    assert Hardware(device="cpu", deepspeed="mine.json").zero_stage == 1


def test_a_hostfile_must_be_there_and_have_as_many_slots(tmp_path, no_gpu):
    hosts = tmp_path / "hosts"
    with pytest.raises(ConfigError, match=r"hardware\.hostfile=.*no such file"):
        Hardware(device="gpu", processes=16, hostfile=str(hosts))
    hosts.write_text("# two machines\nnode-1 slots=8\n\nnode-2 slots=8\n")
    assert not Hardware(device="gpu", processes=16, hostfile=str(hosts)).local
    with pytest.raises(ConfigError, match=r"hardware\.processes=8: .*16 slots"):
        Hardware(device="gpu", processes=8, hostfile=str(hosts))
    hosts.write_text("node-1 8\n")
    with pytest.raises(ConfigError, match="'node-1 8' is not like"):
        Hardware(device="gpu", processes=8, hostfile=str(hosts))


def test_the_example_hostfile_is_one():
    assert hardware.slots(LAUNCH / "hostfile.example") == groups.read("hardware", "multinode")["processes"]


def test_srun_outside_a_slurm_job_names_the_script(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ConfigError, match=r"SLURM_JOB_ID is not set.*sbatch launch/slurm\.sbatch"):
        Hardware(device="gpu", processes=2, launcher="srun")


def test_a_slurm_job_with_another_number_of_tasks_is_an_error(monkeypatch):
    for name, value in {"SLURM_JOB_ID": "1", "MASTER_ADDR": "node-1", "MASTER_PORT": "2", "SLURM_NTASKS": "4"}.items():
        monkeypatch.setenv(name, value)
    assert Hardware(device="gpu", processes=4, launcher="srun").distributed
    with pytest.raises(ConfigError, match=r"hardware\.processes=2: the Slurm job has 4 tasks"):
        Hardware(device="gpu", processes=2, launcher="srun")


def test_a_stage_that_is_not_spread_keeps_the_device(four_gpus):
    single = Hardware(device="gpu", processes=4, deepspeed="launch/zero2.json").in_one_process()
    assert (single.device, single.processes, single.distributed) == ("gpu", 1, False)


@pytest.mark.parametrize("path", ZERO, ids=lambda path: path.stem)
def test_a_deepspeed_file_leaves_batch_and_precision_to_the_method(path):
    content = json.loads(path.read_text())
    assert content["zero_optimization"]["stage"] == int(path.stem[4])
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        assert content[key] == "auto"
    assert content["bf16"] == content["fp16"] == {"enabled": "auto"}


def test_every_deepspeed_file_of_an_option_is_there():
    named = {groups.read("hardware", option).get("deepspeed") for option in groups.options("hardware")} - {None}
    assert named == {f"launch/{path.name}" for path in ZERO}


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("cpu", (1, None)),
        ("cpu_ddp", (2, None)),
        ("cpu_zero2", (2, 2)),
        ("cpu_zero3", (2, 3)),
        ("gpus_ddp", (2, None)),
        ("zero1", (2, 1)),
        ("zero3_offload", (2, 3)),
    ],
)
def test_an_option_says_how_many_processes_and_which_stage(four_gpus, option, expected):
    node = {key: value for key, value in groups.read("hardware", option).items() if key != "_target_"}
    built = Hardware(**node)
    assert (built.processes, built.zero_stage) == expected


def test_the_shell_of_the_slurm_and_sky_files_parses(tmp_path):
    sky = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    scripts = {"slurm": (LAUNCH / "slurm.sbatch").read_text(), "setup": sky["setup"], "run": sky["run"]}
    for name, script in scripts.items():
        (tmp_path / name).write_text(script)
        subprocess.run(["bash", "-n", str(tmp_path / name)], check=True)
    assert "-m qwen_align hardware=slurm" in scripts["slurm"]
    assert "-m qwen_align $where" in scripts["run"]
