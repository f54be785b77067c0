"""python -m qwen_align.bench suite=NAME [key=value ...]: run a suite of conf/bench/ and write runs/bench/NAME.json and .md.

save=FOLDER writes the rows into the baseline of this device there; launch/baselines is where rows are compared with.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from qwen_align import run_folder
from qwen_align.bench import baseline, output
from qwen_align.config import component, groups
from qwen_align.errors import ConfigError, nearest


def settings_of(overrides: Sequence[str]) -> tuple[str, dict[str, Any], Path, Path | None]:
    """(suite, its node, the folder for results, the folder of baselines to write) of a command line."""
    given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    suite, runs_dir = str(given.pop("suite", "")), Path(given.pop("runs_dir", "runs"))
    save = given.pop("save", None)
    if suite not in (known := groups.options("bench")):
        raise ConfigError(f"suite={suite}: expected one of {', '.join(known)}{nearest(suite, known)}")
    node = groups.read("bench", suite)
    settings = component.settings(node)
    for key, value in given.items():
        if key not in settings:
            there = ", ".join(settings) + nearest(key, list(settings))
            raise ConfigError(f"{key}={value}: no such setting; suite={suite} has {there}")
        for kind, expected in ((bool, "true or false"), (int, "a whole number")):
            if type(settings[key]) is kind and type(value) is not kind:
                raise ConfigError(f"{key}={value}: expected {expected}")
    return suite, node | given, runs_dir / "bench", Path(save) if save else None


def main() -> int:
    """The exit code: 0 done, 2 the user's mistake, 130 interrupted."""
    try:
        suite, node, folder, save = settings_of(sys.argv[1:])
        rows, name = component.construct(node), baseline.device()
        about = {"date": time.strftime("%Y-%m-%d"), **run_folder.provenance()}
        before = baseline.read(baseline.FOLDER, name)
        if save:
            print(f"baseline: {baseline.save(save, name, rows, about)}")
        output.write(suite, rows, folder, {"device": name, **about}, before)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
