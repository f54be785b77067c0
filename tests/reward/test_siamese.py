"""One encoder over prompt and answer apart; a head on both vectors, their distance and their product."""

import pytest
import torch
from encoders import folder_of

from qwen_align.reward.network import Siamese, fresh, pair_encoder, saved, scores


@pytest.fixture(scope="module", params=["distilbert", "bert", "deberta"])
def built(request, tmp_path_factory):
    torch.manual_seed(0)
    network, tokenizer = fresh(folder_of(request.param, tmp_path_factory.mktemp(request.param)), "siamese", None, [])
    torch.nn.init.normal_(network.pre_classifier.bias)
    torch.nn.init.normal_(network.classifier.weight)
    return network.eval(), pair_encoder(network, tokenizer, "siamese", 48)


def scored(built, prompt, answer):
    network, pairs = built
    return scores(network, pairs, pairs.encode([prompt], [answer]), 1000)[0]


def test_the_score_reads_both_sides(built):
    values = [scored(built, *pair) for pair in (("a cat", "good"), ("a dog", "good"), ("a cat", "bad"))]
    assert len({round(value, 4) for value in values}) == 3


def test_prompt_and_answer_change_places_with_another_score(built):
    assert scored(built, "a cat", "the sea") != pytest.approx(scored(built, "the sea", "a cat"), abs=1e-4)


def test_padding_does_not_change_a_score(built):
    network, pairs = built
    rows = pairs.encode(["a cat", "the dog sees a very big house " * 4], ["good", "bad sad"])
    together = network(**pairs.collate(rows)).logits[:, 0].tolist()
    assert together == pytest.approx([scores(network, pairs, [row], 1000)[0] for row in rows], abs=1e-5)


def test_the_head_reads_both_vectors_their_distance_and_their_product(built):
    network, pairs = built
    inputs = pairs.collate(pairs.encode(["a cat"], ["good"]))
    u = network._pooled(inputs["prompt_input_ids"], inputs["prompt_attention_mask"])
    v = network._pooled(inputs["input_ids"], inputs["attention_mask"])
    hidden = torch.nn.functional.gelu(network.pre_classifier(torch.cat([u, v, (u - v).abs(), u * v], -1)))
    assert network(**inputs).logits.equal(network.classifier(hidden))


def test_every_parameter_is_trained(built):
    network, pairs = built
    inputs = pairs.collate(pairs.encode(["a cat"], ["good"]))
    network.zero_grad()
    network(**inputs).logits.sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == []


def test_a_saved_folder_scores_the_same(built, tmp_path):
    network, pairs = built
    network.save_pretrained(tmp_path)
    pairs.tokenizer.save_pretrained(tmp_path)
    again, tokenizer = saved(str(tmp_path), "siamese", None, ours=True)
    assert isinstance(again, Siamese)
    expected = scored(built, "a red cat", "is good")
    assert scored((again, pair_encoder(again, tokenizer, "siamese", 48)), "a red cat", "is good") == pytest.approx(
        expected, abs=1e-6
    )


def test_the_encoder_starts_from_the_pretrained_weights(tmp_path):
    from transformers import AutoModel

    folder = folder_of("distilbert", tmp_path)
    network, _ = fresh(folder, "siamese", None, [])
    pretrained = dict(AutoModel.from_pretrained(folder).named_parameters())
    assert all(p.equal(pretrained[name]) for name, p in network.encoder.named_parameters())
