"""The policy that a stage starts from."""

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate

from qwen_align import model
from qwen_align.method.fit import precision


def load(config: dict[str, Any]) -> model.Policy:
    """Build or load what `init` names: base, a finished run folder, a model folder or a Hub name."""
    start = config["init"]
    if start == "base":
        return instantiate(config["model"], _convert_="object")
    if (Path(start) / "run.json").is_file():
        return model.from_run(Path(start))
    return model.from_pretrained(start, chat_template="keep")


def to_device(policy: torch.nn.Module, config: dict[str, Any]) -> torch.nn.Module:
    """Move a policy that no trainer places."""
    flags = precision(config["hardware"])
    return policy.to("cpu" if flags["use_cpu"] else "cuda", torch.bfloat16 if flags["bf16"] else torch.float32)
