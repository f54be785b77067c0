"""The generation suite counts the same kind of tokens on both sides."""

import pytest
import torch

from qwen_align import model
from qwen_align.bench import generation
from qwen_align.errors import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32, "max_position_embeddings": 256}
    return model.from_scratch("Numbers", 100, num_attention_heads=2, num_key_value_heads=2, **small)


def test_both_ways_give_as_many_tokens_on_average(policy):
    asked = generation.prompts(5, 40)
    a, b = (way(policy, asked, generation.SAMPLES, 256, 64) for way in (generation.ours, generation.plain))
    assert a == pytest.approx(b, rel=0.1)
    assert 64 * generation.SAMPLES < a < 64 * generation.SAMPLES * 64


def test_a_folder_without_a_policy_is_one_error(tmp_path):
    with pytest.raises(ConfigError, match=r"policy=.*expected a finished run folder"):
        generation.run(rounds=1, policy=str(tmp_path))
