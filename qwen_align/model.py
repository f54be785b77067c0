"""The policy and its tokenizer: from the Hub, a local folder, a run folder, or built from a config.

One contract holds in every stage: ChatML unless the user keeps another template, and the stop token is eos in the tokenizer
and in the generation config (Qwen2.5 Base names only <|endoftext|> there and would never stop). A run folder's tokenizer is
loaded exactly as it was saved: AutoTokenizer would rebuild it from the model type and could split text differently.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jinja2 import TemplateError
from peft import PeftModel
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils import cached_file

from qwen_align import byte_pair
from qwen_align.chat import Messages, whole_ids
from qwen_align.errors import ConfigError, nearest

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_PROBE = [{"role": "user", "content": "Numbers 3 7 14 target 24"}, {"role": "assistant", "content": "(3 + 7) + 14"}]
Policy = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def no_adapter() -> None:
    """Full fine-tuning: no adapter."""


def _not_there(name: str, error: OSError) -> ConfigError:
    wrong = f"cannot be loaded from the Hub, its cache or a folder ({str(error).splitlines()[0]})"
    return ConfigError(f"model.name={name}: {wrong}; offline, model=countdown_tiny needs nothing")


def pretrained_tokenizer(
    name: str,
    revision: str | None = None,
    chat_template: str = "chatml",
    stop_token: str | None = None,
    trust_remote_code: bool = False,
    verbose: bool = True,
) -> PreTrainedTokenizerBase:
    """The tokenizer of `from_pretrained` without the weights; `verbose` says that a chat template is replaced."""
    own = Path(name).expanduser()
    try:
        if _is_saved_plainly(own):
            tokenizer = load_tokenizer(own)
        else:
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
            if not _reads_as_published(tokenizer, name, revision):
                tokenizer = PreTrainedTokenizerFast.from_pretrained(name, revision=revision or "main")
    except OSError as error:
        raise _not_there(name, error) from error
    if chat_template == "chatml":
        if verbose and tokenizer.chat_template and not _renders_equally(tokenizer, CHATML):
            print(f"{name}: plain ChatML replaces its own chat template; model.chat_template=keep keeps it", flush=True)
        tokenizer.chat_template = CHATML
    elif chat_template != "keep":
        tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
    if not tokenizer.chat_template:
        raise ConfigError(f"model.chat_template={chat_template}: {name} has no template of its own; expected chatml or a file")
    _stop_tokenizer_at(tokenizer, stop_token)
    return tokenizer


def from_pretrained(
    name: str,
    revision: str | None = None,
    dtype: str = "float32",
    chat_template: str = "chatml",
    stop_token: str | None = None,
    attn_implementation: str = "sdpa",
    trust_remote_code: bool = False,
) -> Policy:
    """A causal language model and its tokenizer from the Hub or a local folder."""
    if dtype not in ("float32", "bfloat16", "float16", "auto"):
        raise ConfigError(f"model.dtype={dtype}: expected float32, bfloat16, float16 or auto")
    tokenizer = pretrained_tokenizer(name, revision, chat_template, stop_token, trust_remote_code)
    try:
        policy = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, dtype=dtype, attn_implementation=attn_implementation, trust_remote_code=trust_remote_code
        )
    except OSError as error:
        raise _not_there(name, error) from error
    return stop_at(policy, tokenizer, stop_token)


def _reads_as_published(tokenizer: PreTrainedTokenizerBase, name: str, revision: str | None) -> bool:
    """Whether it gives the ids of the tokenizer.json there; AutoTokenizer rebuilds SmolLM2's without its split of digits."""
    path = cached_file(name, "tokenizer.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    if path is None:
        return True
    published = [Tokenizer.from_file(path).encode(text, add_special_tokens=False).ids for text in byte_pair.PROBES]
    return bool(tokenizer(byte_pair.PROBES, add_special_tokens=False, verbose=False)["input_ids"] == published)


def _is_saved_plainly(folder: Path) -> bool:
    """Whether tokenizer.json alone is a folder's tokenizer: AutoTokenizer would rebuild it by the model's type all the same."""
    settings = folder / "tokenizer_config.json"
    saved = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class") if settings.is_file() else None
    return saved in ("TokenizersBackend", "PreTrainedTokenizerFast") and (folder / "tokenizer.json").is_file()


def _renders_equally(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    """Whether another chat template makes the same text of a question, and of a conversation with a system message."""
    question, conversation = _PROBE[:1], [{"role": "system", "content": "Be brief."}, *_PROBE]
    rendered = []
    for chosen in (None, template):
        render = partial(tokenizer.apply_chat_template, chat_template=chosen, tokenize=False)
        try:
            rendered.append((render(question, add_generation_prompt=True), render(conversation)))
        except TemplateError:  # some know no system message
            return False
    return rendered[0] == rendered[1]


def _stop_tokenizer_at(tokenizer: PreTrainedTokenizerBase, stop_token: str | None) -> None:
    """Make `stop_token` the eos of a tokenizer; the former one pads."""
    former = tokenizer.eos_token
    stop_token = stop_token or former
    if stop_token is None or stop_token not in (known := tokenizer.get_vocab()):
        near = nearest(str(stop_token), known)
        raise ConfigError(f"model.stop_token={stop_token}: not a token of this tokenizer{near}")
    tokenizer.eos_token = stop_token
    if tokenizer.pad_token is None or tokenizer.pad_token == stop_token:
        tokenizer.pad_token = former
    tokenizer.padding_side = "left"


def stop_at(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_token: str | None) -> Policy:
    """Make `stop_token` the eos of tokenizer, config and generation config; the former eos still ends a completion."""
    _stop_tokenizer_at(tokenizer, stop_token)
    stop = tokenizer.convert_tokens_to_ids(tokenizer.eos_token)
    policy.config.eos_token_id = stop
    policy.config.pad_token_id = tokenizer.pad_token_id
    old = policy.generation_config.eos_token_id if policy.generation_config else None
    ends = dict.fromkeys([stop, *(old if isinstance(old, list) else [] if old is None else [old])])
    policy.generation_config = GenerationConfig(eos_token_id=list(ends), pad_token_id=tokenizer.pad_token_id)
    return policy, tokenizer


def from_scratch(words: str, numbers: int, **architecture: Any) -> Policy:
    """A small Qwen2 with random weights and a word-level tokenizer: one token a word, one for each of 0..numbers.

    Any other character is <|unk|>; white space only separates.
    """
    from tokenizers import Regex, models, pre_tokenizers

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|unk|>"]
    vocabulary = [*special, "system", "user", "assistant", *words.split(), *map(str, range(numbers + 1))]
    model = models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(vocabulary))}, unk_token="<|unk|>")
    inner = Tokenizer(model)
    splits = {r"\s+|\d+|</?[a-z]+>|[A-Za-z]+|[^\s\dA-Za-z]": "isolated", r"\s+": "removed"}
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), how) for p, how in splits.items()])
    named: dict[str, Any] = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<|unk|>"}
    named["additional_special_tokens"] = ["<|im_start|>"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **named)
    tokenizer.chat_template = CHATML
    rope = {"rope_type": "default", "rope_theta": architecture.pop("rope_theta", 10000.0)}
    config = Qwen2Config(
        vocab_size=len(tokenizer), tie_word_embeddings=True, rope_parameters=rope, bos_token_id=None, **architecture
    )
    return stop_at(Qwen2ForCausalLM(config), tokenizer, "<|im_end|>")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a run folder, exactly as saved, padding on the left for generation."""
    return PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")


def from_run(folder: Path, dtype: str = "float32") -> Policy:
    """The trained policy of a finished run folder."""
    policy = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype)
    return policy, load_tokenizer(folder / "model")


def trainable(policy: torch.nn.Module) -> int:
    """How many parameters training would change."""
    return sum(p.numel() for p in policy.parameters() if p.requires_grad)


def save(
    policy: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path, probes: Sequence[Messages]
) -> None:
    """Save a plain model folder (an adapter is merged in and also kept beside it), and prove that its tokenizer round-trips."""
    if isinstance(policy, PeftModel):
        policy.save_pretrained(str(folder.with_name("adapter")))
        policy = cast(PreTrainedModel, policy.merge_and_unload())
    policy.config.use_cache = True  # trainers leave it off in the saved config
    policy.save_pretrained(str(folder))
    tokenizer.save_pretrained(folder)
    check_round_trip(tokenizer, folder, probes)


def check_round_trip(tokenizer: PreTrainedTokenizerBase, folder: Path, probes: Sequence[Messages]) -> None:
    """RuntimeError unless the tokenizer saved in `folder` gives the ids of the one in memory, and stops where it does."""
    saved = load_tokenizer(folder)
    probes = [_PROBE, *probes]
    if whole_ids(saved, probes) != whole_ids(tokenizer, probes):
        wrong = "gives other token ids than the one in training: scores would be wrong"
        raise RuntimeError(f"the tokenizer saved in {folder} {wrong}")
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    if saved.eos_token_id not in (ends if isinstance(ends, list) else [ends]):
        raise RuntimeError(f"the generation config saved in {folder} does not stop at {saved.eos_token}")
