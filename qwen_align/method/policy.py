"""The policy that a stage starts from.

A model that `init` names is loaded as the group `model` says, under its own name: a base model would keep <|endoftext|> as its
stop token otherwise, and never stop. A group that builds a model from scratch says nothing about one that exists, so such a
model stays as it is, and stops where its own chat template ends an answer.
"""

from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_method, instantiate
from transformers import PreTrainedTokenizerBase

from qwen_align import model
from qwen_align.errors import ConfigError
from qwen_align.method.fit import precision

_ANSWER = "forty-two"


def load(config: dict[str, Any]) -> model.Policy:
    """Build or load what `init` names: base, a finished run folder, a model folder or a Hub name.

    Raises:
        ConfigError: what `init` names cannot be loaded with the settings of the group `model`.
    """
    start, group = config["init"], config["model"]
    if start == "base":
        return instantiate(group, _convert_="object")
    if (Path(start) / "run.json").is_file():
        return model.from_run(Path(start))
    settings = {key: value for key, value in group.items() if key != "_target_"} | {"name": start}
    try:
        if "name" not in group:
            return _as_it_is(start)
        # A revision is one of the group's own model.
        return get_method(group["_target_"])(**settings | ({"revision": None} if "revision" in group else {}))
    except ConfigError as error:
        raise ConfigError(f"init={start}: {error}") from error


def load_tokenizer(config: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer of the policy that `load` gives, before its weights are in memory.

    Processes that tokenise are copies of this one. No random number of the policy's own weights is drawn.
    """
    start, group = config["init"], config["model"]
    if (Path(start) / "run.json").is_file():
        return model.load_tokenizer(Path(start) / "model")
    if get_method(group["_target_"]) is model.from_pretrained:
        named = {"name": group["name"], "revision": group.get("revision")} if start == "base" else {"name": start}
        kept = ("chat_template", "stop_token", "trust_remote_code")
        return model.pretrained_tokenizer(**named, **{key: group[key] for key in kept if key in group}, verbose=False)
    with torch.random.fork_rng():
        return load(config)[1]


def _as_it_is(name: str) -> model.Policy:
    policy, tokenizer = model.from_pretrained(name, chat_template="keep")
    return model.stop_at(policy, tokenizer, end_of_answer(tokenizer))


def end_of_answer(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The special token that the tokenizer's chat template puts behind an answer; None where there is none."""
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    after = str(tokenizer.apply_chat_template(talk, tokenize=False)).rpartition(_ANSWER)[2]
    special = tokenizer.get_added_vocab()
    return next((token for token in tokenizer.tokenize(after) if token in special), None)


def to_device(policy: torch.nn.Module, config: dict[str, Any]) -> torch.nn.Module:
    """Move a policy that no trainer places."""
    flags = precision(config["hardware"])
    return policy.to("cpu" if flags["use_cpu"] else "cuda", torch.bfloat16 if flags["bf16"] else torch.float32)
