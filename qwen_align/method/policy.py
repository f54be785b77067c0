"""The policy that a stage starts from.

A model that `init` names is loaded as the group `model` says, under its own name: a base model would keep <|endoftext|> as its
stop token otherwise, and never stop. A group that builds a model from scratch says nothing about one that exists, so such a
model stays as it is, and stops where its own chat template ends an answer.
"""

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from qwen_align import model
from qwen_align.config import component
from qwen_align.config.job import Job, plain
from qwen_align.device import precision
from qwen_align.errors import ConfigError

_ANSWER = "forty-two"


def load(job: Job) -> model.Policy:
    """Build or load what `init` names: base, a finished run folder, a model folder or a Hub name.

    Raises:
        ConfigError: what `init` names cannot be loaded with the settings of the group `model`.
    """
    start, group = job.init, plain(job.model)
    if start == "base":
        policy: model.Policy = component.construct(group, "model")
        return policy
    if (Path(start) / "run.json").is_file():
        return model.from_run(Path(start))
    revision = {"revision": None} if "revision" in group else {}  # the group's is one of its own model
    try:
        if "name" not in group:
            return _as_it_is(start)
        loaded: model.Policy = component.construct(group | {"name": start} | revision, "model")
        return loaded
    except ConfigError as error:
        raise ConfigError(f"init={start}: {error}") from error


def load_tokenizer(job: Job) -> PreTrainedTokenizerBase:
    """The tokenizer of the policy that `load` gives, before its weights are in memory.

    Processes that tokenise are copies of this one. No random number of the policy's own weights is drawn.
    """
    start, group = job.init, plain(job.model)
    if (Path(start) / "run.json").is_file():
        return model.load_tokenizer(Path(start) / "model")
    if component.locate(group["_target_"]) is model.from_pretrained:
        named = {"name": group["name"], "revision": group.get("revision")} if start == "base" else {"name": start}
        kept = ("chat_template", "stop_token", "trust_remote_code")
        return model.pretrained_tokenizer(**named, **{key: group[key] for key in kept if key in group}, verbose=False)
    with torch.random.fork_rng():
        return load(job)[1]


def _as_it_is(name: str) -> model.Policy:
    policy, tokenizer = model.from_pretrained(name, chat_template="keep")
    return model.stop_at(policy, tokenizer, end_of_answer(tokenizer))


def end_of_answer(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The special token that the tokenizer's chat template puts behind an answer; None where there is none."""
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    after = str(tokenizer.apply_chat_template(talk, tokenize=False)).rpartition(_ANSWER)[2]
    special = tokenizer.get_added_vocab()
    return next((token for token in tokenizer.tokenize(after) if token in special), None)


def to_device(policy: torch.nn.Module, job: Job) -> torch.nn.Module:
    """Move a policy that no trainer places."""
    flags = precision(job.hardware)
    return policy.to("cpu" if flags["use_cpu"] else "cuda", torch.bfloat16 if flags["bf16"] else torch.float32)
