"""The processes of one stage: which one this is, the status that each leaves, and which one failed first.

Rank 0 alone writes the run folder. Beside it each process keeps `.rankN.json`: its process id, so that it can be asked to stop
past its launcher, and how it ended. A launcher only knows an exit code, and the survivors of a failure fail too.
"""

import json
import os
import socket
from pathlib import Path
from typing import Any

PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # set by launchers
_LOST_PEER = ("gloo/", "NCCL", "DistBackendError", "DistNetworkError", "DistStoreError", "TCPStore")


def place() -> tuple[int, int]:
    """(rank, processes) of this process, (0, 1) if no launcher of ours started it; Slurm's variables become torch's."""
    launcher = os.environ.get("QWEN_ALIGN_LAUNCHER")
    if not launcher:
        return 0, 1
    if launcher == "srun":
        for name, slurms in (("RANK", "SLURM_PROCID"), ("LOCAL_RANK", "SLURM_LOCALID"), ("WORLD_SIZE", "SLURM_NTASKS")):
            os.environ[name] = os.environ[slurms]
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def leave() -> None:
    """Forget the other processes: whatever looks at the environment from here on finds one."""
    for name in (*PLACE[:4], "QWEN_ALIGN_LAUNCHER", "ACCELERATE_USE_DEEPSPEED"):
        os.environ.pop(name, None)


def write_status(folder: Path, rank: int, **more: Any) -> None:
    """Write that this process runs, and how it ended: `ended` (time), `error`, `code`."""
    path = folder / f".rank{rank}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), **more}), encoding="utf-8")
    temporary.replace(path)


def read_statuses(folder: Path) -> dict[int, dict[str, Any]]:
    """rank -> status, of those that began."""
    found = folder.glob(".rank*.json")
    return {int(p.stem.removeprefix(".rank")): json.loads(p.read_text(encoding="utf-8")) for p in found}


def clear_statuses(folder: Path) -> None:
    """Remove the statuses of an earlier launch."""
    for path in folder.glob(".rank*.json"):
        path.unlink()


def first_failure(statuses: dict[int, dict[str, Any]], processes: int) -> tuple[int, str, int] | None:
    """(rank, its error, its exit code) of the process that made the others fail; None if no process began.

    An error of its own comes before silence, and silence (a kill, the memory limit) before an error about a lost peer.
    """
    failed = [rank for _, rank in sorted((s["ended"], rank) for rank, s in statuses.items() if s.get("error"))]
    own = [rank for rank in failed if not any(sign in statuses[rank]["error"] for sign in _LOST_PEER)]
    silent = [rank for rank in range(processes) if not statuses.get(rank, {}).get("ended")]
    if own:
        first = 0 if 0 in own and statuses[0]["error"] == statuses[own[0]]["error"] else own[0]
    elif silent and statuses:
        others = f", or one of {', '.join(map(str, silent[1:]))} before it" if len(silent) > 1 else ""
        return silent[0], f"ended without a word{others}: killed from outside, as a memory limit does", 1
    elif failed:
        first = failed[0]
    else:
        return None
    return first, statuses[first]["error"], statuses[first]["code"]
