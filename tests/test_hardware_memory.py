"""What h100.yaml, rtx4090.yaml and t4.yaml in conf/hardware/ reckon fits: that arithmetic, its constants from real layers.

No GPU takes part: what autograd keeps is counted on the CPU, under the autocast that a GPU trains with.
"""

import re

import pytest
import torch
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification, Qwen2Config, Qwen2ForCausalLM

from qwen_align import groups

LAYERS, HIDDEN, INNER, VOCABULARY = 24, 896, 4864, 151_936  # Qwen2.5-0.5B
MATRICES = LAYERS * (2 * HIDDEN**2 + 2 * HIDDEN * 128 + 3 * HIDDEN * INNER)
WEIGHTS = MATRICES + LAYERS * (HIDDEN + 2 * 128 + 2 * HIDDEN) + HIDDEN + VOCABULARY * HIDDEN
DEBERTA = 184e6  # with its vocabulary of 128,100
ALWAYS = 16 * WEIGHTS + 2 * MATRICES + 4096 * 32768 * 2 + 4 * VOCABULARY * HIDDEN + 0.6e9
BESIDE_RLOO = 4 * WEIGHTS + 4 * DEBERTA
KEPT = 69_440  # bytes a token and layer, beside the mask
CARDS = ("h100", "rtx4090", "t4")


def kept(build, layers: int, tokens: int) -> int:
    """Bytes of the tensors that autograd keeps for one row, weights and their copies left out."""
    torch.manual_seed(0)
    network = build(layers).train()
    widths = {tuple(p.shape) for p in network.parameters()}
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    found: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        is_weight = storage.data_ptr() in own or {tuple(tensor.shape), tuple(tensor.shape[::-1])} & widths
        if not is_weight:
            found[storage.data_ptr()] = storage  # held, so that no other takes its place
        return tensor

    ids = torch.randint(5, 90, (1, tokens))
    mask = torch.ones_like(ids)
    mask[:, :3] = 0
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        network(input_ids=ids, attention_mask=mask)
    return sum(storage.nbytes() for storage in found.values())


def qwen(layers: int):
    shape = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_attention_heads": 14, "num_key_value_heads": 2}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=100, num_hidden_layers=layers, **shape)).model


def deberta(layers: int):
    shape = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_labels": 1}
    relative = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
    more = {"position_buckets": 256, "share_att_key": True, "norm_rel_ebd": "layer_norm", "type_vocab_size": 0}
    off = {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pooler_dropout": 0.0,
    }  # TRL's disable_dropout
    config = DebertaV2Config(vocab_size=100, num_hidden_layers=layers, **shape, **relative, **more, **off)
    return DebertaV2ForSequenceClassification(config)


def test_a_layer_keeps_as_much_of_a_token_as_is_reckoned():
    tokens = 256
    assert kept(qwen, 2, tokens) - kept(qwen, 1, tokens) == tokens * (KEPT + 2 * tokens)


def test_a_layer_of_the_reward_model_keeps_at_most_what_is_reckoned():
    tokens = 511  # of 512, which is also a width of its weights
    on_cpu = kept(deberta, 2, tokens) - kept(deberta, 1, tokens)
    softmax = 12 * tokens * tokens * 4  # which autocast leaves in fp32 on CUDA, and not on the CPU
    assert 0.9 * 56e6 < on_cpu + softmax <= 56e6


def test_the_policys_size_is_that_of_its_config():
    assert WEIGHTS == 494_032_768


def reckoned(card: str, method: str) -> float:
    """Bytes at once when all rows are as long as they may be."""
    node = groups.read("hardware", card)
    rows, again = node["per_device"][method], node["activation_checkpointing"][method]
    if method == "reward":
        assert not again
        return 16 * DEBERTA + 0.6e9 + rows * 2 * 12 * 56e6
    texts, tokens, beside = {"sft": (1, 1024, 0), "dpo": (2, 1024, 0), "rloo": (1, 2048, BESIDE_RLOO)}[method]
    layer = KEPT + 2 * tokens
    token = LAYERS * 4 * HIDDEN + layer if again else LAYERS * layer
    return ALWAYS + beside + rows * texts * tokens * token


@pytest.mark.parametrize("method", ["sft", "dpo", "rloo", "reward"])
@pytest.mark.parametrize("card", CARDS)
def test_what_a_card_is_given_fits_with_a_tenth_to_spare_and_is_what_its_comment_says(card, method):
    needed = reckoned(card, method) / 1e9
    assert needed < 0.9 * groups.read("hardware", card)["memory_gb"]
    comment = (groups.CONF / "hardware" / f"{card}.yaml").read_text()
    (said,) = re.findall(rf"\b{method} \d[^.:]*: (\d+) GB", comment)
    assert int(said) == round(needed)


@pytest.mark.parametrize("card", CARDS)
def test_activations_are_computed_twice_only_where_four_thousand_tokens_would_not_fit(card):
    node = groups.read("hardware", card)
    for method, beside in (("sft", 0), ("dpo", 0), ("rloo", BESIDE_RLOO)):
        without = ALWAYS + beside + 4096 * LAYERS * (KEPT + 2 * 2048)
        assert node["activation_checkpointing"][method] == (without > 0.9 * node["memory_gb"] * 1e9), method
