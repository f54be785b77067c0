"""Reward models: an encoder with one score as its output, trained on pairs (Bradley-Terry) by method=reward.

The same object names what is to be trained (`base`) and scores what was (`folder`): a run of method=reward, or a public
sequence classifier such as OpenAssistant/reward-model-deberta-v3-large-v2, which loads as it is. Building one is cheap, so the
parent can check the settings; weights are loaded at the first score, without touching the random numbers of training.

Scores of a Bradley-Terry model have no zero of their own; `offset` (method.center_scores) gives them the mean of the training
pairs, which only matters to `clip` and to sums of rewards. What a folder was trained with (architecture, max_length) wins.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qwen_align import run_folder
from qwen_align.errors import ConfigError, nearest
from qwen_align.reward import Conversation, LogMetric, text_of
from qwen_align.reward.encode import ARCHITECTURES, PairEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SETTINGS = "reward.json"  # beside the weights: architecture, max_length, name, offset
_CHOICES = {"architecture": ARCHITECTURES, "dtype": ("auto", "float32", "bfloat16")}


class Loaded(NamedTuple):
    network: "PreTrainedModel"
    pairs: PairEncoder
    offset: float


@dataclass
class RewardModel:
    """A reward model, called in TRL's convention."""

    base: str | dict[str, Any] | None = None  # a Hub name, a folder, package:NAME, or {model_type: ...} for random weights
    architecture: str = "pair"  # prompt and answer in one sequence; siamese: apart
    revision: str | None = None  # of base, or of folder, on the Hub
    max_length: int = 512  # tokens of a sequence; over-long ones are truncated and counted
    folder: str | None = None  # a run of method=reward, a model folder or a Hub name; None: it has to be trained first
    name: str = "reward_model"  # of its metrics; NAME/truncated is the share of texts longer than max_length
    device: str = "auto"  # the GPU if there is one; cpu, cuda or cuda:1
    dtype: str = "auto"  # float32; or bfloat16
    batch_tokens: int = 16384  # at most so many are scored at once, padding included
    _loaded: Loaded | None = field(default=None, init=False, repr=False)
    _truncated: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        for key, allowed in _CHOICES.items():
            if (value := getattr(self, key)) not in allowed:
                near = nearest(str(value), allowed)
                raise ConfigError(f"reward.{key}={value}: expected one of {', '.join(allowed)}{near}")
        if self.device not in ("auto", "cpu", "cuda") and not str(self.device).removeprefix("cuda:").isdecimal():
            raise ConfigError(f"reward.device={self.device}: expected auto, cpu, cuda or cuda:1")
        for key in ("max_length", "batch_tokens"):
            if not isinstance(number := getattr(self, key), int) or number < 16:
                raise ConfigError(f"reward.{key}={number}: expected a whole number of tokens, 16 or more")
        if self.base is None and self.folder is None:
            raise ConfigError(f"reward.base=null: {self.name} has neither a base to be trained from nor a folder to load")
        if isinstance(self.base, dict) and not isinstance(self.base.get("model_type"), str):
            raise ConfigError("reward.base.model_type: is missing; expected one such as deberta-v2 or distilbert")

    @classmethod
    def from_run(cls, folder: str | Path, **settings: Any) -> "RewardModel":
        """The trained reward model of a run folder or of its model/, under the name it was trained with."""
        known = run_folder.read_json(_model_folder(str(folder)) / SETTINGS)
        if not known:
            raise ConfigError(f"reward.folder={folder}: holds no {SETTINGS}; expected a finished run of method=reward")
        trained = {key: known[key] for key in ("architecture", "max_length", "name")}
        return cls(**(trained | settings), folder=str(folder))

    def __call__(
        self, completions: Sequence[Conversation], prompts: Sequence[Conversation], log_metric: LogMetric = None, **_: Any
    ) -> list[float]:
        """One score a completion."""
        values = self.score(prompts, [text_of(completion) for completion in completions])
        if log_metric:
            log_metric(f"{self.name}/truncated", self._truncated)
        return values

    def score(self, prompts: Sequence[Conversation], answers: Sequence[str]) -> list[float]:
        """One score an answer; ConfigError where nothing was trained yet, or what `folder` names can't score."""
        loaded = self.loaded()
        if not answers:
            return []
        from qwen_align.reward.network import scores

        rows = loaded.pairs.encode(prompts, answers)
        self._truncated = sum(row.truncated for row in rows) / len(rows)
        return [value - loaded.offset for value in scores(loaded.network, loaded.pairs, rows, self.batch_tokens)]

    def loaded(self) -> Loaded:
        """The network with its encoder, loaded when asked for first; ConfigError as of `score`."""
        if self._loaded:
            return self._loaded
        if self.folder is None:
            reason = f"the reward model {self.name} has to be trained first (method=reward)"
            raise ConfigError(f"reward.folder=null: {reason}; expected the folder of that run, a model folder or a Hub name")
        import torch

        from qwen_align.reward import network

        place = _model_folder(self.folder)
        known = run_folder.read_json(place / SETTINGS)
        trained = {"architecture": self.architecture, "max_length": self.max_length, "offset": 0.0} | known
        for key in ("architecture", "max_length"):
            if trained[key] != getattr(self, key):
                print(f"{self.name}: was trained with {key}={trained[key]}, so that is what scores", flush=True)
        device = _device(self.device)
        with torch.random.fork_rng():
            source = str(place) if place.is_dir() else self.folder
            built, tokenizer = network.saved(source, trained["architecture"], self.revision, bool(known))
        dtype = torch.bfloat16 if self.dtype == "bfloat16" else torch.float32
        torch.nn.Module.to(built, device=device, dtype=dtype)
        built.eval().requires_grad_(False)
        pairs = network.pair_encoder(built, tokenizer, trained["architecture"], trained["max_length"])
        self._loaded = Loaded(built, pairs, float(trained["offset"]))
        return self._loaded


def _model_folder(folder: str) -> Path:
    """model/ of a run folder, else the folder itself; ConfigError for a run without a model."""
    path = Path(folder).expanduser()
    if (path / "model").is_dir():
        return path / "model"
    if (path / "run.json").is_file():
        state = run_folder.state(path)
        raise ConfigError(f"reward.folder={folder}: that run is {state} and has no model; expected a finished one")
    return path


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"reward.device={name}: this process sees {torch.cuda.device_count()} GPUs; expected auto or cpu")
    return device


def save(model: RewardModel, folder: Path, offset: float = 0.0) -> None:
    """Write what scoring needs beside the weights in `folder`."""
    if not math.isfinite(offset):
        raise RuntimeError(f"the mean score of {model.name} is {offset}; training has diverged")
    known = {"architecture": model.architecture, "max_length": model.max_length, "name": model.name, "offset": offset}
    run_folder.write_text(folder / SETTINGS, json.dumps(known, indent=2) + "\n")
