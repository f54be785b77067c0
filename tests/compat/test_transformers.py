"""What is private in transformers and used here is still there."""

import json
from types import SimpleNamespace

from transformers import Trainer
from transformers.integrations import deepspeed
from transformers.integrations.deepspeed import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

from qwen_align import hardware
from qwen_align.compat.transformers import on_gradient_norm, unsharded


def test_a_model_beside_a_trainer_under_zero3_is_loaded_whole():
    alive = HfDeepSpeedConfig(json.loads(hardware.find("launch/zero3.json").read_text()))
    assert is_deepspeed_zero3_enabled()
    with unsharded():
        assert not is_deepspeed_zero3_enabled()
    assert is_deepspeed_zero3_enabled()
    del alive
    deepspeed.unset_hf_deepspeed_config()


def test_a_trainer_asks_for_the_norm_of_a_steps_gradient_where_it_is_watched():
    assert callable(Trainer._get_grad_norm)
    seen = []
    trainer = SimpleNamespace(_get_grad_norm=lambda model: 3.0)
    on_gradient_norm(trainer, seen.append)
    assert (trainer._get_grad_norm("a model"), seen) == (3.0, [3.0])
