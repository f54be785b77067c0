"""What a network takes, from its config alone: against real layers."""

import json

import pytest
import torch
from encoders import deberta_config
from sizes import QWEN
from transformers import AutoConfig, AutoModel, DistilBertConfig, Qwen2Config

from qwen_align.stage import memory

SMALL = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 90}


def kept(config, layers: int, tokens: int, half: bool) -> int:
    """Bytes of the tensors that autograd keeps for one row; weights and their copies left out."""
    torch.manual_seed(0)
    config.num_hidden_layers = layers
    network = AutoModel.from_config(config).train()
    widths = {tuple(p.shape) for p in network.parameters()}
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    found: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and not {tuple(tensor.shape), tuple(tensor.shape[::-1])} & widths:
            found[storage.data_ptr()] = storage  # held, so that no other takes its place
        return tensor

    ids, mask = torch.randint(5, 90, (1, tokens)), torch.ones(1, tokens, dtype=torch.long)
    mask[:, :3] = 0
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half):
        network(input_ids=ids, attention_mask=mask)
    return sum(storage.nbytes() for storage in found.values())


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ENCODERS = {
    "distilbert": DistilBertConfig(
        vocab_size=100, dim=96, hidden_dim=384, n_heads=4, n_layers=2, dropout=0.0, attention_dropout=0.0
    ),
    "deberta-v2": deberta_config(
        100, hidden_size=768, num_attention_heads=12, intermediate_size=3072, position_buckets=256, **NO_DROPOUT
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_a_decoders_layer_keeps_what_is_reckoned(half):
    config, tokens = Qwen2Config(**SMALL), 200
    counted = kept(config, 2, tokens, half) - kept(config, 1, tokens, half)
    reckoned = memory.of(config.to_dict()).kept(tokens, half, checkpointing=False) / config.num_hidden_layers
    assert counted == pytest.approx(reckoned, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "tokens"), [("distilbert", 130), ("deberta-v2", 500)])
def test_an_encoders_layer_keeps_about_what_is_reckoned(kind, tokens):
    config = ENCODERS[kind]
    counted = kept(config, 2, tokens, False) - kept(config, 1, tokens, False)
    reckoned = memory.of(config.to_dict()).kept(tokens, False, checkpointing=False) / config.num_hidden_layers
    assert counted == pytest.approx(reckoned, rel=0.15)


def test_the_size_of_qwen_is_that_of_its_weights():
    assert memory.of(QWEN).parameters == pytest.approx(494_032_768, rel=0.001)
    assert memory.of(QWEN).cached(4) == 24_576


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["distilbert", "deberta-v2"])
def test_the_size_of_an_encoder_is_that_of_its_weights(kind):
    config = AutoConfig.for_model(kind)
    network = AutoModel.from_config(config)
    real = sum(p.numel() for p in network.parameters())
    assert memory.of(config.to_dict()).parameters == pytest.approx(real, rel=0.02)


def test_a_config_of_a_folder_is_read_and_another_kind_is_not_guessed(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    found = memory.named(str(tmp_path))
    assert found is not None
    assert found.layers == 24
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    assert memory.named(str(tmp_path)) is None
    assert memory.named("nobody/nothing") is None


def training(**changes) -> memory.Training:
    policy = memory.of(QWEN)
    settings = {"policy": policy, "trained": policy.parameters, "texts": 1, "rows": 1, "tokens": 1024, "checkpointing": True}
    settings |= {"reference": False, "rewards": (), "rollout": 0, "half": False, "process": 0.7e9, "processes": 1, "zero": 0}
    return memory.Training(**settings | changes)


def test_what_costs_more_memory_is_reckoned_so():
    plain = training().memory
    more = [{"rows": 8}, {"checkpointing": False}, {"reference": True}, {"rewards": (memory.of(QWEN),)}]
    for changes in [*more, {"tokens": 4096, "rows": 4}, {"rollout": 4096, "tokens": 2048}]:
        assert training(**changes).memory > plain, changes
    for changes in ({"trained": 10_000_000}, {"zero": 1, "processes": 4}, {"zero": 3, "processes": 4}):
        assert training(**changes).memory < plain, changes
