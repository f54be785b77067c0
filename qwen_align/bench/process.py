"""A process that trains until it is told to stop, and says of each step how long it took.

python -m qwen_align.bench.process FD CASES

CASES is a JSON file with a list: {"folder": ...} is a stage as the entrypoint's worker runs it, {"plain": ...} the script in
plain.py. Lines of JSON about each case go to the file descriptor FD; a line on stdin ends a case. One process does several
cases because its imports cost more than they do.
"""

import json
import os
import select
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwen_align.compat import imports
from qwen_align.stage import worker


def run_case(case: dict[str, Any], emit: Callable[[dict[str, Any]], None], asked: Callable[[], bool]) -> None:
    """Train until `asked`; RuntimeError where the run ends by itself."""
    from qwen_align.bench import budget
    from qwen_align.method import reference
    from qwen_align.method.fit import free_memory

    folder = Path(case.get("folder", ""))
    if "folder" in case:  # a process before this one may have left them
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        (folder / reference.FILE).unlink(missing_ok=True)
    emit({"peak_flops": budget.peak_flops()})
    free_memory()
    budget.reset_peak_memory()
    with budget.measuring(emit, asked):
        try:
            if "folder" in case:
                worker.run_stage(folder)
            else:
                from qwen_align.bench import plain

                plain.trainer_of(**case["plain"]).train()
        except budget.Done:
            return
    raise RuntimeError("the run ended before its steps were measured")


def main() -> None:
    """All cases, one after the other."""
    out, cases = os.fdopen(int(sys.argv[1]), "w"), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))

    def emit(line: dict[str, Any]) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    def asked() -> bool:
        if select.select([0], [], [], 0)[0]:
            os.read(0, 1)
            return True
        return False

    if "folder" in cases[0]:
        imports.defer()  # as the worker does before anything else
    for case in cases:
        run_case(case, emit, asked)


if __name__ == "__main__":
    main()
