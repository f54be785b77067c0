"""Where metrics are sent beside the run folder: nowhere, to Weights & Biases or to TensorBoard.

Weights & Biases goes offline when no key is set. Every stage ends its run: two in one process would otherwise share one.
"""

import os
from dataclasses import dataclass
from netrc import NetrcParseError, netrc
from pathlib import Path

from qwen_align.errors import ConfigError


def _has_key() -> bool:
    try:
        return bool(os.environ.get("WANDB_API_KEY") or netrc().authenticators("api.wandb.ai"))
    except (OSError, NetrcParseError):
        return False


@dataclass
class Tracking:
    """What `report_to` gets, and where the tracker's files go."""

    report_to: str = "none"
    project: str = "qwen_align"
    mode: str = "auto"

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "online", "offline"):
            raise ConfigError(f"tracking.mode={self.mode}: expected auto, online or offline")

    def start(self, folder: Path) -> None:
        """Point the tracker at the run folder, before a trainer is built."""
        if self.report_to == "wandb":
            found = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
            os.environ |= {"WANDB_MODE": found if self.mode == "auto" else self.mode, "WANDB_PROJECT": self.project}
            os.environ |= {"WANDB_DIR": str(folder), "WANDB_SILENT": "true"}
        if self.report_to == "tensorboard":
            os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")

    def finish(self, metrics: dict[str, float]) -> None:
        """Hand over what the stage ended with, and end the tracker's run."""
        if self.report_to == "wandb":
            import wandb

            if wandb.run is not None:
                wandb.run.summary.update(metrics)
            wandb.finish()
