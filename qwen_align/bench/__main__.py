"""python -m qwen_align.bench suite=NAME [key=value ...]: run a suite of conf/bench/ and write runs/bench/NAME.json and .md.

A suite is the `run` of a module here, which gives rows; the keys of its YAML can be set.
"""

import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from qwen_align import bench
from qwen_align.config import component, groups
from qwen_align.errors import ConfigError, nearest
from qwen_align.stage import run_folder


def settings_of(overrides: Sequence[str]) -> tuple[str, dict[str, Any], Path]:
    """(suite, its node, the folder for results) of a command line.

    Raises:
        ConfigError: no such suite or setting, or a value of another type than the suite's own.
    """
    given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    suite, runs_dir = str(given.pop("suite", "")), Path(given.pop("runs_dir", "runs"))
    if suite not in (known := groups.options("bench")):
        raise ConfigError(f"suite={suite}: expected one of {', '.join(known)}{nearest(suite, known)}")
    node = groups.read("bench", suite)
    settings = component.settings(node)
    for key, value in given.items():
        if key not in settings:
            raise ConfigError(
                f"{key}={value}: no such setting; suite={suite} has {', '.join(settings)}{nearest(key, list(settings))}"
            )
        if isinstance(settings[key], int) and not isinstance(value, int):
            raise ConfigError(f"{key}={value}: expected a whole number")
    return suite, node | given, runs_dir / "bench"


def machine() -> dict[str, Any]:
    """What the figures were taken with."""
    cpu = platform.processor() or platform.machine()
    return {"date": time.strftime("%Y-%m-%d"), "cpu": cpu, "cores": os.cpu_count(), **run_folder.provenance()}


def main() -> int:
    """The exit code: 0 done, 2 the user's mistake, 130 interrupted."""
    try:
        suite, node, folder = settings_of(sys.argv[1:])
        bench.write(suite, component.construct(node), folder, machine())
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
