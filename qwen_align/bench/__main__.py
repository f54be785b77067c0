"""python -m qwen_align.bench suite=NAME [key=value ...]: run a suite and write runs/bench/NAME.json and .md."""

import importlib
import os
import platform
import sys
import time
from pathlib import Path

from qwen_align import bench, run_folder
from qwen_align.errors import ConfigError, nearest

SUITES = ("verifier", "generation", "reward", "overhead")


def main() -> int:
    """The exit code: 0 done, 2 the user's mistake."""
    try:
        settings = dict(word.split("=", 1) for word in sys.argv[1:])
        suite, folder = settings.pop("suite", ""), Path(settings.pop("runs_dir", "runs")) / "bench"
        if suite not in SUITES:
            raise ConfigError(f"suite={suite}: expected one of {', '.join(SUITES)}{nearest(suite, SUITES)}")
        rows = importlib.import_module(f"qwen_align.bench.{suite}").run(settings)
    except ValueError as error:
        text = str(error) if isinstance(error, ConfigError) else "expected words like suite=verifier"
        print(f"error: {text}", file=sys.stderr)
        return 2
    machine = {
        "date": time.strftime("%Y-%m-%d"), "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        **run_folder.provenance(),
    }  # fmt: skip
    bench.write(suite, rows, folder, machine)
    return 0


if __name__ == "__main__":
    sys.exit(main())
