"""A reward model as a reward: cheap to name, loaded at the first score, and never one that wasn't trained."""

import random

import pytest
import torch
from encoders import folder_of, pairs
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from qwen_align import run_folder
from qwen_align.config import source_code
from qwen_align.errors import ConfigError
from qwen_align.reward import Reward
from qwen_align.reward import model as reward_model
from qwen_align.reward.model import RewardModel
from qwen_align.reward.network import fresh, scores

ROWS = pairs(40, longest=12)
PROMPTS = [row["prompt"] for row in ROWS]
ANSWERS = [row["chosen"][-1]["content"] for row in ROWS]


@pytest.fixture(scope="module", params=["deberta", "distilbert", "bert"])
def public(request, tmp_path_factory):
    """A folder as the Hub has them: a sequence classifier with one label."""
    return folder_of(request.param, tmp_path_factory.mktemp(request.param), labels=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """model/ of a run folder, with what is needed to score beside it."""
    folder = tmp_path_factory.mktemp("run")
    named = RewardModel(base="somewhere", name="mine", max_length=32)
    torch.manual_seed(0)
    network, tokenizer = fresh({"model_type": "distilbert", "dim": 32, "n_heads": 2, "n_layers": 1}, "pair", None, ANSWERS)
    network.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    reward_model.save(named, folder / "model", offset=0.25)
    return folder


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "base=null: reward_model has neither"),
        ({"base": "x", "architecture": "siames"}, "architecture=siames: .*did you mean siamese"),
        ({"base": "x", "device": "gpu"}, "device=gpu: expected auto, cpu, cuda or cuda:1"),
        ({"base": "x", "dtype": "fp16"}, "dtype=fp16: expected one of"),
        ({"base": "x", "max_length": 3}, "max_length=3: expected a whole number"),
        ({"base": "x", "batch_tokens": 0}, "batch_tokens=0: expected a whole number"),
        ({"base": {"dim": 3}}, "base.model_type: is missing"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_when_it_is_named(settings, said):
    with pytest.raises(ConfigError, match=said):
        RewardModel(**settings)


def test_the_parent_may_construct_one_to_hear_its_complaints():
    assert source_code.is_light("qwen_align.reward.model.RewardModel")


def test_an_untrained_one_says_that_it_has_to_be_trained():
    with pytest.raises(ConfigError, match=r"folder=null: the reward model deberta has to be trained first \(method=reward\)"):
        RewardModel(base="x", name="deberta").score(["a"], ["b"])


def test_a_public_reward_model_scores_as_its_card_says(public):
    tokenizer = AutoTokenizer.from_pretrained(public)
    network = AutoModelForSequenceClassification.from_pretrained(public).eval()
    texts = [prompt[0]["content"] for prompt in PROMPTS]
    named = set(tokenizer.model_input_names) - ({"token_type_ids"} if "distil" in network.config.model_type else set())
    with torch.no_grad():
        expected = [
            network(**{k: v for k, v in tokenizer(q, a, return_tensors="pt").items() if k in named}).logits.item()
            for q, a in zip(texts, ANSWERS, strict=True)
        ]
    assert RewardModel(folder=public).score(PROMPTS, ANSWERS) == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 1e-4


def test_scores_come_in_the_order_of_the_texts_whatever_the_batches(public):
    whole = RewardModel(folder=public).score(PROMPTS, ANSWERS)
    order = list(range(len(PROMPTS)))
    random.Random(0).shuffle(order)
    small = RewardModel(folder=public, batch_tokens=64)
    shuffled = small.score([PROMPTS[i] for i in order], [ANSWERS[i] for i in order])
    assert shuffled == pytest.approx([whole[i] for i in order], abs=1e-5)


def test_no_text_no_score(public):
    assert RewardModel(folder=public).score([], []) == []


def test_an_empty_answer_has_a_score(public):
    assert len(RewardModel(folder=public).score(["a", ""], ["", ""])) == 2


def test_loading_and_scoring_leave_the_random_numbers_of_training_alone(public):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    RewardModel(folder=public).score(PROMPTS[:2], ANSWERS[:2])
    assert torch.rand(3).equal(expected)


def test_the_share_of_truncated_texts_is_a_metric(public):
    logged = {}
    reward = Reward("mine", RewardModel(folder=public, max_length=24, name="mine"))
    completions = [[{"role": "assistant", "content": text}] for text in ("good", "good " * 50, "bad", "sad")]
    values = reward.trl()(prompts=["a"] * 4, completions=completions, completion_ids=[[1]] * 4, log_metric=logged.__setitem__)
    assert len(values) == 4
    assert logged == {"mine/truncated": 0.25}


def test_a_run_is_loaded_with_what_it_was_trained_with(trained):
    reward = RewardModel.from_run(trained)
    assert (reward.name, reward.max_length, reward.architecture) == ("mine", 32, "pair")
    assert RewardModel.from_run(trained / "model", name="other").name == "other"


def test_the_folders_settings_win_aloud(trained, capsys):
    expected = RewardModel.from_run(trained).score(PROMPTS, ANSWERS)
    assert RewardModel(base="x", folder=str(trained), name="mine", max_length=512).score(PROMPTS, ANSWERS) == expected
    assert "mine: was trained with max_length=32, so that is what scores" in capsys.readouterr().out


def test_the_offset_is_taken_off(trained):
    here = RewardModel.from_run(trained).score(PROMPTS, ANSWERS)
    reward = RewardModel.from_run(trained)
    loaded = reward.loaded()
    raw = scores(loaded.network, loaded.pairs, loaded.pairs.encode(PROMPTS, ANSWERS), 1000)
    assert [a - b for a, b in zip(raw, here, strict=True)] == pytest.approx([0.25] * 40)


def test_a_policy_is_no_reward_model(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder_of("distilbert", tmp_path / "words"))
    size = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    Qwen2ForCausalLM(Qwen2Config(**size, num_attention_heads=2, num_key_value_heads=2, num_labels=1)).save_pretrained(
        tmp_path / "model"
    )
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"is no trained reward model \(score.weight would be random\)"):
        RewardModel(folder=str(tmp_path)).score(["a"], ["b"])


def test_an_encoder_without_a_head_is_no_reward_model(tmp_path):
    with pytest.raises(ConfigError, match="is no trained reward model"):
        RewardModel(folder=folder_of("deberta", tmp_path)).score(["a"], ["b"])


def test_a_classifier_of_several_labels_is_no_reward_model(tmp_path):
    with pytest.raises(ConfigError, match="gives 3 labels"):
        RewardModel(folder=folder_of("distilbert", tmp_path, labels=3)).score(["a"], ["b"])


def test_a_run_that_is_not_finished_is_refused(tmp_path):
    run_folder.write_json(tmp_path / "run.json", {"state": "running"})
    with pytest.raises(ConfigError, match="that run is running and has no model"):
        RewardModel(folder=str(tmp_path)).score(["a"], ["b"])
    with pytest.raises(ConfigError, match="that run is running and has no model"):
        RewardModel.from_run(tmp_path)


def test_a_folder_of_another_kind_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no reward.json"):
        RewardModel.from_run(tmp_path)


def test_what_is_neither_a_folder_nor_cached_is_one_line():
    with pytest.raises(ConfigError, match="folder=no/such-model: not in the cache"):
        RewardModel(folder="no/such-model").score(["a"], ["b"])
    with pytest.raises(ConfigError, match="base=no/such-model: not in the cache"):
        fresh("no/such-model", "pair", None, [])


def test_more_tokens_than_positions_are_refused(public):
    reward = RewardModel(folder=public, max_length=600)
    if "relative_attention" in AutoModelForSequenceClassification.from_pretrained(public).config.to_dict():
        assert len(reward.score(["a"], ["good " * 590])) == 1, "DeBERTa's positions are relative"
    else:
        with pytest.raises(ConfigError, match=r"max_length=600: .* has 512 positions"):
            reward.score(["a"], ["b"])


def test_a_device_that_is_not_there_is_refused(public):
    with pytest.raises(ConfigError, match="device=cuda:7: this process sees"):
        RewardModel(folder=public, device="cuda:7").score(["a"], ["b"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"model_type": "distilbrt"}, "base.model_type=distilbrt"), ({"model_type": "distilbert", "dims": 3}, "did you mean dim")],
)
def test_an_architecture_that_transformers_does_not_know_is_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        fresh(fields, "pair", None, ["a"])


def test_it_scores_in_float32_on_a_gpu_too_unless_asked_otherwise(public, monkeypatch):
    asked = []
    monkeypatch.setattr(reward_model, "_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, **how: asked.append((how["device"].type, how["dtype"])))
    for dtype in ("auto", "bfloat16"):
        RewardModel(folder=str(public), dtype=dtype).loaded()
    assert asked == [("cuda", torch.float32), ("cuda", torch.bfloat16)]
