"""What tells two stages apart: a hash of the settings that can change a result, of the files and of the user's code they name.

Left out of it: how often something is logged or saved, where the run happens, how much is evaluated at its end, and where the
user's code lies.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qwen_align import run_folder
from qwen_align.config import component, groups

_NEUTRAL_ARGS = frozenset(
    "logging_steps logging_strategy logging_first_step save_steps save_strategy save_total_limit report_to run_name project "
    "disable_tqdm log_completions log_level log_level_replica num_completions_to_print log_unique_prompts log_multimodal "
    "per_device_train_batch_size gradient_accumulation_steps activation_checkpointing gradient_checkpointing "
    "dataloader_num_workers dataloader_pin_memory push_to_hub hub_model_id hub_token hub_strategy hub_private_repo".split()
)
_NEUTRAL_METHOD = frozenset(  # `init` has its own place; what is only shown or paid; `policies` stand for what makes them
    "init next checks health elsewhere held_out_every price_per_million_tokens rows named each title metrics claims".split()
)
_NEUTRAL_GENERATOR = frozenset("concurrency retries backoff timeout api_key_env gpu_memory_utilization enforce_eager".split())
_NEUTRAL_REWARD = frozenset("name weight clip device dtype batch_tokens".split())  # how a trained one scores


def trains_reward(method: Mapping[str, Any]) -> bool:
    """Whether a method's settings are about the group `reward` in place of the policy."""
    return method.get("subject") == "reward"


def _file_hashes(node: dict[str, Any]) -> dict[str, str]:
    """key -> hash of every file that a node names: what is in it counts, not only where it lies."""
    named = {key: os.path.expanduser(value) for key, value in groups.flatten(node) if isinstance(value, str)}
    files = {key: name for key, name in named.items() if os.path.isfile(name)}  # Path.is_file raises on a long prompt
    return {key: hashlib.sha256(Path(name).read_bytes()).hexdigest() for key, name in files.items()}


def replaced(value: Any, change: Callable[[str], str]) -> Any:
    """A tree with every text in it changed, and of a target in a file its name alone."""
    if isinstance(value, dict):
        named = {k: v.rpartition(":")[2] for k, v in value.items() if _is_target(k, v) and component.is_file(v)}
        return {key: replaced(inner, change) for key, inner in value.items()} | named
    if isinstance(value, list):
        return [replaced(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value


def _is_target(key: str, value: Any) -> bool:
    return isinstance(value, str) and key.rpartition(".")[2] in ("_target_", "verifier")


def of(config: dict[str, Any], method: str, start: str, made: Mapping[str, str]) -> str:
    """The fingerprint of a stage.

    `start` is the fingerprint of the policy that it starts from, else what names it; `made` are run folders that its settings
    may name, with the fingerprints that count in place of the path.
    """

    def stands_for(text: str) -> str:
        folder = next((f for f in made if text == f or text.startswith(f"{f}/")), None)
        return made[folder] + text.removeprefix(folder) if folder else text

    found = _settings(config) | {"name": method, "start": start}
    # Of the user's own code: none for installed packages and this one
    code = {key: code for key, t in groups.flatten(found) if _is_target(key, t) and (code := component.code_hash(t))}
    found = replaced(found, stands_for)
    files = _file_hashes(found["data"])
    return run_folder.fingerprint(found | ({"files": files} if files else {}) | ({"code": code} if code else {}))


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    method = {k: v for k, v in config["method"].items() if k not in _NEUTRAL_METHOD}
    keys = ("reward", "data", "seed") if trains_reward(method) else ("model", "data", "seed", "max_completion_length")
    chosen = {k: config[k] for k in keys}
    if trains_reward(method):
        chosen["reward"] = {k: v for k, v in chosen["reward"].items() if k not in _NEUTRAL_REWARD}
    if method["kind"] == "sample":
        generator = {k: v for k, v in config["generator"].items() if k not in _NEUTRAL_GENERATOR}
        # What is recorded counts, not where.
        return chosen | {"method": method, "generator": generator | _file_hashes(config["generator"])}
    # per_device is the unit in which steps_per_generation counts, and KTO's KL term is a mean over it
    whole = method["args"].get("steps_per_generation") or method.get("micro_batch_counts")
    counted = {"per_device_train_batch_size"} if whole else set()
    method["args"] = {k: v for k, v in method["args"].items() if k not in _NEUTRAL_ARGS - counted}
    return chosen | {"method": method, "adapter": config["adapter"], "precision": config["hardware"]["precision"]}
