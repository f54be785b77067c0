"""python -m qwen_align.bench suite=NAME [key=value ...]: run a suite of conf/bench/ and write runs/bench/NAME.json and .md.

A suite is speed (a function that gives rows) or tables (rows trained through the entrypoint); the keys of its YAML can be set,
and for tables any further word goes to every job: evaluation.problems=50.
"""

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from qwen_align import bench
from qwen_align.bench.tables import Suite
from qwen_align.config import check, groups
from qwen_align.errors import ConfigError, nearest
from qwen_align.stage import run_folder
from qwen_align.stage.launch import INTERRUPTED
from qwen_align.stage.run import StageFailed


def settings_of(words: list[str]) -> tuple[str, dict[str, Any], list[str], dict[str, Any]]:
    """(suite, its node, words for every job, what is ours) of a command line.

    Raises:
        ConfigError: no such suite or setting, or a value of another type than the suite's own.
    """
    if wrong := next((word for word in words if "=" not in word), None):
        raise ConfigError(f"{wrong}: expected words like suite=verifier")
    said = {key: value for key, _, value in (word.partition("=") for word in words)}
    ours = {"suite": said.pop("suite", ""), "runs_dir": said.pop("runs_dir", "runs"), "plan": said.pop("plan", "false")}
    suite, suites = ours["suite"], groups.options("bench")
    if suite not in suites:
        raise ConfigError(f"suite={suite}: expected one of {', '.join(suites)}{nearest(suite, suites)}")
    node = groups.read("bench", suite)
    own = {key: value for key, value in said.items() if key in node and key not in ("tables", "_target_")}
    added = [word for word in words if word.partition("=")[0] not in {*own, *ours}]
    if added and "tables" not in node:
        known = [key for key in node if key != "_target_"]
        raise ConfigError(
            f"{added[0]}: no such setting; suite={suite} has {', '.join(known)}{nearest(added[0], known)}"
        )
    for key, text in own.items():
        value = yaml.safe_load(text)
        if isinstance(node[key], int) and not isinstance(value, int):
            raise ConfigError(f"{key}={text}: expected a whole number")
        node[key] = value
    return suite, node, added, ours


def _run(words: list[str]) -> None:
    suite, node, added, ours = settings_of(words)
    folder = Path(ours["runs_dir"]) / "bench"
    if "tables" not in node:
        if ours["plan"] != "false":
            raise ConfigError(f"plan={ours['plan']}: suite={suite} only measures speed, there is nothing to plan")
        bench.write(suite, check.construct(node), folder, machine())
        return
    tables: Suite = check.construct(node)
    added = [*added, f"runs_dir={ours['runs_dir']}"]
    if ours["plan"] == "true":
        tables.plan(added)
        return
    began = time.time()
    found = tables.run(added, folder)
    bench.write_tables(
        suite, found, folder, machine() | {"seconds": round(time.time() - began, 1), "words": added[:-1]}
    )


def machine() -> dict[str, Any]:
    """What the figures were taken with."""
    cpu = platform.processor() or platform.machine()
    return {"date": time.strftime("%Y-%m-%d"), "cpu": cpu, "cores": os.cpu_count(), **run_folder.provenance()}


def main() -> int:
    """The exit code: 0 done, 1 a row failed, 2 the user's mistake, 130 interrupted."""
    try:
        _run(sys.argv[1:])
    except (ConfigError, StageFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code if isinstance(error, StageFailed) else 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
