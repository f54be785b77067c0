"""What h100.yaml, rtx4090.yaml and t4.yaml in conf/hardware/ say fits, against the forecast's arithmetic. No GPU takes part."""

import re
from typing import Any

import pytest

from qwen_align.config import groups
from qwen_align.stage import memory

QWEN = memory.of({
    "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_hidden_layers": 24,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
})  # fmt: skip
DEBERTA = memory.of({
    "model_type": "deberta-v2", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "vocab_size": 128100,
})  # fmt: skip
CARDS = ("h100", "rtx4090", "t4")


def reckoned(card: str, method: str, **changes: Any) -> float:
    """GB at once when all rows are as long as they may be."""
    node, rolls = groups.read("hardware", card), method == "rloo"
    network = DEBERTA if method == "reward" else QWEN
    settings: dict[str, Any] = {
        "policy": network, "texts": 2 if method in ("dpo", "reward") else 1, "trained": network.parameters,
        "rows": node["per_device"][method],
        "tokens": {"sft": 1024, "dpo": 1024, "rloo": 2048, "reward": 512}[method], "reference": rolls,
        "checkpointing": node["activation_checkpointing"][method], "rewards": (DEBERTA,) if rolls else (), "rollout": 0,
        "half": True, "process": 0.6e9, "processes": 1, "zero": 0,
    }  # fmt: skip
    return memory.Training(**settings | changes).memory / 1e9


@pytest.mark.parametrize("method", ["sft", "dpo", "rloo", "reward"])
@pytest.mark.parametrize("card", CARDS)
def test_what_a_card_is_given_fits_with_a_tenth_to_spare_and_is_what_its_comment_says(card, method):
    needed = reckoned(card, method)
    assert needed < 0.9 * groups.read("hardware", card)["memory_gb"]
    comment = (groups.CONF / "hardware" / f"{card}.yaml").read_text()
    (stated,) = re.findall(rf"\b{method} \d[^.:]*: (\d+) GB", comment)
    assert int(stated) == round(needed)


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("method", ["sft", "dpo", "rloo"])
def test_activations_are_computed_twice_only_where_four_thousand_tokens_would_not_fit(card, method):
    node = groups.read("hardware", card)
    texts = 2 if method == "dpo" else 1
    without = reckoned(card, method, checkpointing=False, rows=1, tokens=4096 // texts)
    assert node["activation_checkpointing"][method] == (without > 0.9 * node["memory_gb"])
