"""Policies and tokenizers on small folders that the test makes; the Hub loading code is the same."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from qwen_align import chat, model
from qwen_align.errors import ConfigError

CHAT = [{"role": "user", "content": "Numbers 1 2 target 3"}]


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    """A stand-in for Qwen2.5 Base: byte-level BPE, eos <|endoftext|>, <|im_end|> known but not a stop token."""
    folder = tmp_path_factory.mktemp("base")
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        ["numbers target user assistant"] * 4, trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    size = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    policy = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **size))
    policy.save_pretrained(folder)
    return str(folder)


def test_a_base_model_gets_chatml_and_stops_at_im_end(base_folder):
    policy, tokenizer = model.from_pretrained(base_folder, stop_token="<|im_end|>")
    stop, former = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert tokenizer.eos_token_id == policy.config.eos_token_id == stop
    assert policy.generation_config.eos_token_id == [stop, former]
    assert tokenizer.pad_token_id == policy.generation_config.pad_token_id == former
    text = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nNumbers 1 2 target 3<|im_end|>\n<|im_start|>assistant\n"


def test_weights_are_fp32_unless_asked_otherwise(base_folder):
    assert model.from_pretrained(base_folder)[0].dtype == torch.float32
    assert model.from_pretrained(base_folder, dtype="bfloat16")[0].dtype == torch.bfloat16


def test_mistakes_name_the_key(base_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.stop_token=<\|imend\|>.*did you mean <\|im_end\|>"):
        model.from_pretrained(base_folder, stop_token="<|imend|>")
    with pytest.raises(ConfigError, match=r"model\.chat_template=keep"):
        model.from_pretrained(base_folder, chat_template="keep")
    with pytest.raises(ConfigError, match=r"model\.dtype=half"):
        model.from_pretrained(base_folder, dtype="half")
    with pytest.raises(ConfigError, match=r"model\.name=.*nothing-here"):
        model.from_pretrained(str(tmp_path / "nothing-here"))


def test_an_own_template_comes_from_a_file(base_folder, tmp_path):
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    _, tokenizer = model.from_pretrained(base_folder, chat_template=str(template))
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == "Numbers 1 2 target 3"


def test_the_miniature_has_one_token_a_word_and_number():
    _, tokenizer = model.from_scratch(
        "Numbers target + - * / ( ) = ; <think> </think> <answer> </answer>", 100, hidden_size=16, num_hidden_layers=1,
        intermediate_size=16, num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    assert len(tokenizer) == 122
    text = "<think>3 + 7 = 10</think><answer>(3+7) * 100</answer>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]).replace(" ", "") == text.replace(" ", "")
    assert tokenizer.tokenize("3+100") == ["3", "+", "100"]
    assert tokenizer.unk_token_id in tokenizer("101 apples")["input_ids"]


def test_the_saved_tokenizer_is_loaded_as_it_was_saved(base_folder, tmp_path):
    policy, tokenizer = model.from_pretrained(base_folder, stop_token="<|im_end|>")
    model.save(policy, tokenizer, tmp_path / "model", [CHAT])
    loaded, again = model.from_run(tmp_path)
    assert chat.prompt_ids(again, [CHAT]) == chat.prompt_ids(tokenizer, [CHAT])
    assert again.padding_side == "left"
    assert all(a.equal(b) for a, b in zip(policy.parameters(), loaded.parameters(), strict=True))
