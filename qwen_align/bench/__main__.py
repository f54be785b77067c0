"""python -m qwen_align.bench suite=NAME [key=value ...]: run a suite of conf/bench/ and write runs/bench/NAME.json and .md."""

import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from qwen_align import bench, run_folder
from qwen_align.config import component, groups
from qwen_align.errors import ConfigError, nearest


def settings_of(overrides: Sequence[str]) -> tuple[str, dict[str, Any], Path]:
    """(suite, its node, the folder for results) of a command line."""
    given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    suite, runs_dir = str(given.pop("suite", "")), Path(given.pop("runs_dir", "runs"))
    if suite not in (known := groups.options("bench")):
        raise ConfigError(f"suite={suite}: expected one of {', '.join(known)}{nearest(suite, known)}")
    node = groups.read("bench", suite)
    settings = component.settings(node)
    for key, value in given.items():
        if key not in settings:
            there = ", ".join(settings) + nearest(key, list(settings))
            raise ConfigError(f"{key}={value}: no such setting; suite={suite} has {there}")
        if isinstance(settings[key], int) and not isinstance(value, int):
            raise ConfigError(f"{key}={value}: expected a whole number")
    return suite, node | given, runs_dir / "bench"


def main() -> int:
    """The exit code: 0 done, 2 the user's mistake, 130 interrupted."""
    try:
        suite, node, folder = settings_of(sys.argv[1:])
        cpu = platform.processor() or platform.machine()
        machine = {"date": time.strftime("%Y-%m-%d"), "cpu": cpu, "cores": os.cpu_count()}
        bench.write(suite, component.construct(node), folder, machine | run_folder.provenance())
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
