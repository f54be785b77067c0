"""Stand-ins of the models: the Hub's file names, tokenizers of the real kind and size, random weights of the real dtype.

A tokenizer knows the words of the rows; the rest of its vocabulary is filled up with tokens that no text holds. To a small
policy these are all the same, and its stop token is likely here and there, so that it ends some answers and not others.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from rehearsal.cache import Size, commit, unpinned
from rehearsal.rows import texts
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

_QWEN_ADDED = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|> "
    "<|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> <tool_call> </tool_call> "
    "<|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
).split()  # ids 151643 to 151664; the last eight are not special to decode()
_QWEN_TEMPLATE = (  # says a system message of its own where the user says none
    "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif %}"
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
_SMOLLM_ADDED = (
    "<|endoftext|> <|im_start|> <|im_end|> <repo_name> <reponame> <file_sep> <filename> <gh_stars> <issue_start> "
    "<issue_comment> <issue_closed> <jupyter_start> <jupyter_text> <jupyter_code> <jupyter_output> <jupyter_script> "
    "<empty_output>"
).split()  # ids 0 to 16
_QWEN = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
    "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
    "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.40.1",
    "use_cache": True, "use_mrope": False, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
_SMOLLM = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0,
    "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.02, "intermediate_size": 1536,
    "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30,
    "num_key_value_heads": 3, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 49152,
}  # fmt: skip
_DEBERTA = {
    "model_type": "deberta-v2", "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 512,
    "relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "pos_att_type": "p2c|c2p", "layer_norm_eps": 1e-7, "max_relative_positions": -1, "position_biased_input": False,
    "num_attention_heads": 12, "num_hidden_layers": 12, "type_vocab_size": 0, "vocab_size": 128100,
}  # fmt: skip
_LARGE = {
    "architectures": ["DebertaV2ForSequenceClassification"], "hidden_size": 1024, "intermediate_size": 4096,
    "num_attention_heads": 16, "num_hidden_layers": 24, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0},
    "pooler_dropout": 0, "pooler_hidden_act": "gelu", "pooler_hidden_size": 1024, "torch_dtype": "float32",
}  # fmt: skip
_DISTILBERT = {
    "activation": "gelu", "architectures": ["DistilBertForMaskedLM"], "attention_dropout": 0.1, "dim": 768, "dropout": 0.1,
    "hidden_dim": 3072, "initializer_range": 0.02, "max_position_embeddings": 512, "model_type": "distilbert",
    "n_heads": 12, "n_layers": 6, "pad_token_id": 0, "qa_dropout": 0.1, "seq_classif_dropout": 0.2,
    "sinusoidal_pos_embds": False, "tie_weights_": True, "transformers_version": "4.10.0.dev0", "vocab_size": 30522,
}  # fmt: skip
_SMALL: dict[str, dict[str, Any]] = {  # by model_type; weights large enough that outputs differ from text to text
    "qwen2": {
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "max_window_layers": 2, "initializer_range": 0.2,
    },
    "llama": {
        "hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 3, "num_key_value_heads": 1,
        "num_hidden_layers": 2, "initializer_range": 0.2,
    },
    "deberta-v2": {
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2,
        "initializer_range": 0.2,
    },
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_heads": 2, "n_layers": 2, "initializer_range": 0.2},
}  # fmt: skip


def _config(real: dict[str, Any], size: Size) -> dict[str, Any]:
    found = real | ({} if size.real else _SMALL[real["model_type"]])
    if size.layers:
        found["n_layers" if "n_layers" in real else "num_hidden_layers"] = size.layers
    if "pooler_hidden_size" in found:
        found["pooler_hidden_size"] = found["hidden_size"]
    return found


def _write(folder: Path, **files: Any) -> None:
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def _weights(kind: str, config: dict[str, Any], dtype: torch.dtype, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of an architecture."""
    torch.manual_seed(seed)
    fields = {key: value for key, value in config.items() if key not in ("model_type", "architectures", "torch_dtype")}
    found = transformers.AutoConfig.for_model(config["model_type"], **fields)
    return getattr(transformers, kind)(found).to(dtype).state_dict()


def _safetensors(weights: dict[str, torch.Tensor], folder: Path) -> None:
    once = {value.data_ptr(): key for key, value in reversed(weights.items())}  # of tied weights the Hub has one
    kept = {key: weights[key].contiguous() for key in once.values()}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def _trained(splitter: Any, normalizer: Any, pieces: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges) of byte-level BPE on the rows' words."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = splitter
    if normalizer:
        inner.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(texts(), trainers.BpeTrainer(vocab_size=pieces, initial_alphabet=alphabet, show_progress=False))
    found = json.loads(inner.to_str())["model"]
    return found["vocab"], [tuple(merge) for merge in found["merges"]]


def _byte_pairs(
    folder: Path, splitter: Any, normalizer: Any, vocabulary: dict[str, int], merges: list[tuple[str, str]],
    added: list[AddedToken],
) -> None:  # fmt: skip
    """tokenizer.json, vocab.json and merges.txt."""
    inner = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=False))
    inner.pre_tokenizer, inner.decoder = splitter, decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    if normalizer:
        inner.normalizer = normalizer
    inner.add_tokens(added)
    inner.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = "".join(f"{a} {b}\n" for a, b in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}", encoding="utf-8")


def _policy(folder: Path, kind: str, config: dict[str, Any], used: list[int], size: Size) -> None:
    weights = _weights(kind, config, torch.bfloat16)
    if not size.real:
        unused = torch.ones(config["vocab_size"], dtype=torch.bool)
        unused[used] = False
        rows = weights["model.embed_tokens.weight"]  # of the output too
        rows[unused] = 0.0
        rows[~unused] *= 3.0
        rows[used[-1]] *= 4.0  # the stop token's: far above the others in some contexts, far below in the rest
    _safetensors(weights, folder)


def _flags(text: str, special: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": text, "special": special, **plain}


def qwen(home: Path, name: str, sha: str, size: Size) -> None:
    """Qwen2.5 Base: ends with <|endoftext|>, has a chat template, 271 rows more in its embeddings than tokens."""
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated")
    splitter = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)]
    )
    vocabulary, merges = _trained(splitter, normalizers.NFC(), 1500)
    used = [*range(len(vocabulary)), 151645]
    vocabulary |= {f"<|unused_{i}|>": i for i in range(len(vocabulary), 151643)}
    added = [AddedToken(text, normalized=False, special=i < 14) for i, text in enumerate(_QWEN_ADDED)]
    settings = {
        "add_bos_token": False, "add_prefix_space": False, "bos_token": None, "chat_template": _QWEN_TEMPLATE,
        "added_tokens_decoder": {str(151643 + i): _flags(t.content, t.special) for i, t in enumerate(added)},
        "additional_special_tokens": _QWEN_ADDED[1:14], "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>", "errors": "replace", "model_max_length": 32768, "pad_token": "<|endoftext|>",
        "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    }  # fmt: skip
    generation = {"bos_token_id": 151643, "do_sample": False, "eos_token_id": 151643, "max_new_tokens": 2048}
    config = _config(_QWEN, size)
    with commit(home, "model", name, sha) as folder:
        _byte_pairs(folder, splitter, normalizers.NFC(), vocabulary, merges, added)
        _write(folder, config=config, generation_config=generation, tokenizer_config=settings)
        _policy(folder, "Qwen2ForCausalLM", config, used, size)


def smollm(home: Path, name: str, sha: str, size: Size) -> None:
    """SmolLM2 Base: a Llama that splits numbers into digits, special tokens first, no chat template."""
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    known, merges = _trained(splitter, None, 1000)
    vocabulary = {text: i for i, text in enumerate(_SMOLLM_ADDED)}
    vocabulary |= {text: len(_SMOLLM_ADDED) + i for text, i in known.items()}
    used = [*range(len(_SMOLLM_ADDED), len(vocabulary)), 2]
    vocabulary |= {f"<|unused_{i}|>": i for i in range(len(vocabulary), 49152)}
    settings = {
        "add_prefix_space": False, "added_tokens_decoder": {str(i): _flags(t, True) for i, t in enumerate(_SMOLLM_ADDED)},
        "additional_special_tokens": _SMOLLM_ADDED, "bos_token": "<|endoftext|>", "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>", "model_max_length": 8192, "tokenizer_class": "GPT2Tokenizer",
        "unk_token": "<|endoftext|>", "vocab_size": 49152,
    }  # fmt: skip
    config, added = _config(_SMOLLM, size), [AddedToken(t, normalized=False, special=True) for t in _SMOLLM_ADDED]
    with commit(home, "model", name, sha) as folder:
        _byte_pairs(folder, splitter, None, vocabulary, merges, added)
        _write(folder, config=config, tokenizer_config=settings)
        _write(folder, generation_config={"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 0})
        _policy(folder, "LlamaForCausalLM", config, used, size)


def _sentencepiece(path: Path) -> None:
    """spm.model of DeBERTa-v3's layout: 128,000 unigram pieces, [PAD] [CLS] [SEP] [UNK] first; [MASK] is added behind."""
    from sentencepiece import sentencepiece_model_pb2

    words = Counter(word for text in texts() for word in text.split())
    chars = sorted({char for word in words for char in word})
    scores = dict.fromkeys([*map(chr, range(33, 127)), *chars, "▁"], -8.0)
    scores |= {f"▁{word}": -5.0 - 1 / n for word, n in words.most_common(500)}
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    for piece, kind in {"[PAD]": 3, "[CLS]": 3, "[SEP]": 3, "[UNK]": 2}.items():  # control, unknown
        model.pieces.add(piece=piece, score=0.0, type=kind)
    for piece, score in scores.items():
        model.pieces.add(piece=piece, score=score)
    for i in range(len(model.pieces), 128000):
        model.pieces.add(piece=f"▁[unused{i}]", score=-99.0)
    trainer = model.trainer_spec
    trainer.model_type, trainer.vocab_size = 1, 128000
    trainer.pad_id, trainer.bos_id, trainer.eos_id, trainer.unk_id = 0, 1, 2, 3
    model.normalizer_spec.name, model.normalizer_spec.add_dummy_prefix = "identity", True
    path.write_bytes(model.SerializeToString())


def deberta(home: Path, name: str, sha: str, size: Size) -> None:
    """DeBERTa-v3: main has a half-precision pickle, the pinned commit safetensors beside it, and other weights here."""
    config = _config(_DEBERTA, size)
    for seed, (commit_, main) in enumerate({unpinned(name): True, sha: sha == unpinned(name)}.items()):
        weights = _weights("DebertaV2ForMaskedLM", config | {"legacy": False}, torch.float16, seed)
        with commit(home, "model", name, commit_, main) as folder:
            _write(folder, config=config, tokenizer_config={"do_lower_case": False, "vocab_type": "spm"})
            _sentencepiece(folder / "spm.model")
            torch.save(weights, folder / "pytorch_model.bin")
            if not main:
                _safetensors(weights, folder)


def openassistant(home: Path, name: str, sha: str, size: Size) -> None:
    """A trained reward model: a pickle in fp32, spm.model and the tokenizer.json made from it."""
    config = _config(_DEBERTA | _LARGE, size)
    with commit(home, "model", name, sha) as folder:
        _write(folder, config=config)
        _sentencepiece(folder / "spm.model")
        transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
        torch.save(_weights("DebertaV2ForSequenceClassification", config, torch.float32), folder / "pytorch_model.bin")


def distilbert(home: Path, name: str, sha: str, size: Size) -> None:
    """DistilBERT uncased: 30,522 word pieces with BERT's places for the special ones, weights of masked language modelling."""
    pieces = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = Counter(word for text in texts() for word in text.lower().split())
    letters = [*map(chr, range(33, 65)), *map(chr, range(91, 127))]
    known = [*letters, *(f"##{letter}" for letter in letters), *(word for word, _ in words.most_common(500))]
    pieces = list(dict.fromkeys([*pieces, *known]))
    pieces += [f"[unused{i}]" for i in range(99, 99 + 30522 - len(pieces))]
    config = _config(_DISTILBERT, size)
    with commit(home, "model", name, sha) as folder:
        (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
        reader = transformers.BertTokenizer(vocab=str(folder / "vocab.txt"))
        reader.backend_tokenizer.save(str(folder / "tokenizer.json"))
        _write(folder, config=config, tokenizer_config={"do_lower_case": True, "model_max_length": 512})
        weights = _weights("DistilBertForMaskedLM", config, torch.float32)
        _safetensors(weights, folder)
        torch.save(weights, folder / "pytorch_model.bin")


STAND_INS = {
    "Qwen/Qwen2.5-0.5B": qwen,
    "HuggingFaceTB/SmolLM2-135M": smollm,
    "microsoft/deberta-v3-base": deberta,
    "OpenAssistant/reward-model-deberta-v3-large-v2": openassistant,
    "distilbert/distilbert-base-uncased": distilbert,
}
