"""A method that sleeps or holds memory, as `asked.json` in its run folder says."""

import json
import os
import time
from pathlib import Path
from typing import Any


def work(job: Any, data: Any, folder: Path) -> dict[str, Any]:
    asked = json.loads((folder / "asked.json").read_text())
    held = bytearray(os.urandom(2**20)) * asked.get("megabytes", 0)
    (folder / "began").write_text(str(os.getppid()))
    time.sleep(asked.get("seconds", 0))
    return {"held": len(held)}
