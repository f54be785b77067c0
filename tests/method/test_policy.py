"""What a stage starts from, when `init` names a model: the group `model` says how it is loaded, the name alone is its own."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from qwen_align import model
from qwen_align.config import job
from qwen_align.errors import ConfigError
from qwen_align.generator import Sampling, sample
from qwen_align.generator.transformers import Transformers
from qwen_align.method import policy

CHAT = [{"role": "user", "content": "numbers"}]
RENDERED = "<|im_start|>user\nnumbers<|im_end|>\n<|im_start|>assistant\n"
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    + model.CHATML
)
SIZE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
PRETRAINED = {
    "_target_": "qwen_align.model.from_pretrained", "name": "org/other", "revision": "abc", "dtype": "float32",
    "chat_template": "chatml", "stop_token": "<|im_end|>", "attn_implementation": "sdpa", "trust_remote_code": False,
}  # fmt: skip
SCRATCH = {"_target_": "qwen_align.model.from_scratch", "words": "a b", "numbers": 3, **SIZE}


def saved(folder, template, ends="<|endoftext|>"):
    """A model folder as Qwen2.5 Base's: eos and pad <|endoftext|>, and a template that knows <|im_end|>."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<end>"]
    trainer = trainers.BpeTrainer(special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    inner.train_from_iterator(["numbers"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=ends, pad_token="<|endoftext|>")
    tokenizer.chat_template = template
    torch.manual_seed(0)
    weights = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **SIZE))
    for part in (tokenizer, weights):
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("base"), DEFAULT_SYSTEM)


def loaded(start, group):
    config = {"method": {"kind": "train"}, "max_completion_length": 8, "seed": 0, "init": start, "model": group}
    return policy.load(job.read("sft", config))


def rendered(tokenizer):
    return tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)


def test_a_model_that_init_names_renders_chatml_and_stops_at_im_end(base_folder):
    weights, tokenizer = loaded(base_folder, PRETRAINED)
    stop, former = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert rendered(tokenizer) == RENDERED
    assert tokenizer.eos_token_id == weights.config.eos_token_id == stop
    assert weights.generation_config.eos_token_id == [stop, former]
    assert tokenizer.pad_token_id == former


def test_its_completions_end_there(base_folder):
    weights, tokenizer = loaded(base_folder, PRETRAINED)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    head = torch.zeros_like(weights.lm_head.weight)
    head[stop] = weights.model(torch.tensor([tokenizer(RENDERED)["input_ids"]]))[0][0, -1].detach()
    weights.lm_head.weight = torch.nn.Parameter(head)  # the stop token is the likeliest after the prompt
    ((answer,),) = sample(Transformers(), [CHAT], Sampling(1, 0.0, 5, 0), "", (weights, tokenizer))
    assert (answer.text, answer.tokens, answer.finished) == ("", 1, True)


def test_the_groups_other_settings_hold_and_its_revision_does_not(base_folder, monkeypatch):
    asked = {}
    monkeypatch.setattr(model, "from_pretrained", lambda **settings: asked.update(settings))
    loaded(base_folder, PRETRAINED | {"dtype": "bfloat16"})
    expected = PRETRAINED | {"name": base_folder, "revision": None, "dtype": "bfloat16"}
    assert asked == {key: value for key, value in expected.items() if key != "_target_"}


def test_a_template_that_is_replaced_is_said_with_how_to_keep_it(base_folder, capsys):
    loaded(base_folder, PRETRAINED)
    assert capsys.readouterr().out == (
        f"{base_folder}: plain ChatML replaces its own chat template; model.chat_template=keep keeps it\n"
    )


@pytest.mark.parametrize("template", [None, model.CHATML, model.CHATML + "{# the same #}"])
def test_a_template_that_makes_the_same_text_is_replaced_in_silence(tmp_path, capsys, template):
    loaded(saved(tmp_path, template), PRETRAINED)
    assert capsys.readouterr().out == ""


def test_a_template_that_refuses_system_messages_is_another_one(tmp_path, capsys):
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + model.CHATML
    loaded(saved(tmp_path, refusing), PRETRAINED)
    assert "replaces its own chat template" in capsys.readouterr().out


def test_a_template_that_is_kept_stays(base_folder, capsys):
    _, tokenizer = loaded(base_folder, PRETRAINED | {"chat_template": "keep"})
    assert rendered(tokenizer).startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("template", "stop"),
    [(DEFAULT_SYSTEM, "<|im_end|>"), ("{% for m in messages %}{{ m['content'] }}<end>{% endfor %}", "<end>")],
)
def test_beside_a_group_built_from_scratch_a_model_keeps_its_template_and_stops_where_that_ends(tmp_path, template, stop):
    weights, tokenizer = loaded(saved(tmp_path, template), SCRATCH)
    assert tokenizer.chat_template == template
    assert tokenizer.eos_token == stop
    assert tokenizer.convert_tokens_to_ids(stop) in weights.generation_config.eos_token_id


def test_a_template_without_such_a_token_leaves_the_models_own(tmp_path):
    weights, tokenizer = loaded(saved(tmp_path, "{% for m in messages %}{{ m['content'] }} {% endfor %}"), SCRATCH)
    assert tokenizer.eos_token == "<|endoftext|>"
    assert weights.generation_config.eos_token_id == [tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("start", "group", "told"),
    [
        ("nowhere/at-all", PRETRAINED, "model.name=nowhere/at-all: cannot be loaded"),
        (None, PRETRAINED | {"stop_token": "<|imend|>"}, "model.stop_token=<|imend|>: not a token"),
    ],
)
def test_a_mistake_names_init_and_the_groups_key(base_folder, start, group, told):
    start = start or base_folder
    with pytest.raises(ConfigError) as caught:
        loaded(start, group)
    assert str(caught.value).startswith(f"init={start}: {told}")


def test_a_plain_tokenizer_is_loaded_as_it_was_saved(tmp_path):
    made, tokenizer = model.from_scratch("target Numbers", 30, **SIZE)
    for part in (made, tokenizer):
        part.save_pretrained(tmp_path)
    _, again = loaded(str(tmp_path), SCRATCH)
    text = "Numbers 3 7 target 24"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.unk_token_id not in again(text)["input_ids"]
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen2", "AutoTokenizer would go by it"
