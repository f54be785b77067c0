"""The spine of a stage: read the resolved config, build the data, call the method, write its metrics.

    python -m qwen_align.worker RUN_FOLDER

The parent starts this; it never composes. A worker whose parent dies is told to stop.
"""

import ctypes
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from qwen_align import check, interrupt, run_folder
from qwen_align.errors import ConfigError
from qwen_align.launch import INTERRUPTED, USER_ERROR

_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def work(folder: Path) -> dict[str, Any]:
    """Do what config.yaml says; returns what metrics.json holds."""
    import torch
    from hydra.utils import get_method, instantiate
    from omegaconf import OmegaConf
    from transformers import set_seed

    config: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=True)  # type: ignore[assignment]
    config["method_name"] = run_folder.read_json(folder / "run.json")["method"]
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading and saving; training and sampling keep theirs
    set_seed(config["seed"])
    on_gpu = check.construct(config["hardware"]).on_gpu and torch.cuda.is_available()
    run_folder.update(folder, device=torch.cuda.get_device_name() if on_gpu else "cpu", threads=torch.get_num_threads())
    data = instantiate(config["data"], _convert_="object")
    tracking = instantiate(config["tracking"])
    tracking.start(folder)
    metrics: dict[str, Any] = {}
    try:
        metrics = get_method(config["method"]["_target_"])(config, data, folder)
    finally:
        tracking.finish({k: v for k, v in metrics.get("headline", {}).items() if isinstance(v, float)})
    return metrics


def run_stage(folder: Path) -> int:
    """Run one stage and record how it ended; the exit code tells the parent."""
    run_folder.update(folder, state="running", pid=os.getpid(), started=round(time.time()), world_size=1, error=None)
    try:
        metrics = work(folder)
        run_folder.write_json(folder / "metrics.json", metrics)
    except interrupt.Interrupted:
        run_folder.update(folder, state="interrupted")
        return INTERRUPTED
    except ConfigError as error:
        run_folder.update(folder, state="failed", error=str(error))
        return USER_ERROR
    except Exception as error:
        traceback.print_exc()
        run_folder.update(
            folder, state="failed", error=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
        return 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # kilobytes on Linux
    run_folder.update(folder, state="finished", finished=round(time.time()), peak_memory_mb=peak)
    return 0


def main() -> int:
    """A process of its own: listen to signals, end with the parent."""
    interrupt.install()
    _end_with_parent()
    warnings.filterwarnings("ignore", category=FutureWarning)
    return run_stage(Path(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
