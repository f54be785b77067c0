"""What h100.yaml, rtx4090.yaml and t4.yaml in conf/hardware/ say fits, against the forecast's arithmetic. No GPU takes part."""

import re
from typing import Any

import pytest
from sizes import DEBERTA, QWEN

from qwen_align.config import groups
from qwen_align.stage import memory

CARDS = ("h100", "rtx4090", "t4")


def reckoned(card: str, method: str, **changes: Any) -> float:
    """GB at once when all rows are as long as they may be."""
    node, rolls = groups.read("hardware", card), method == "rloo"
    network = memory.of(DEBERTA if method == "reward" else QWEN)
    tokens = {"sft": 1024, "dpo": 1024, "rloo": 2048, "reward": 512}[method]
    rows, checkpointing = node["per_device"][method], node["activation_checkpointing"][method]
    texts = 2 if method in ("dpo", "reward") else 1
    settings: dict[str, Any] = {
        "policy": network,
        "trained": network.parameters,
        "rows": rows,
        "texts": texts,
        "tokens": tokens,
    }
    settings |= {"checkpointing": checkpointing, "reference": rolls, "rewards": (memory.of(DEBERTA),) if rolls else ()}
    settings |= {"texts": texts, "rollout": 0, "half": True, "process": 0.6e9, "processes": 1, "zero": 0}
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
