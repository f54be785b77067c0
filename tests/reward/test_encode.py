"""One way from text to token ids: the tokenizer's own frame, nothing forged, the end of the prompt and the answer kept."""

import pytest
from encoders import folder_of
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qwen_align.errors import ConfigError
from qwen_align.reward.encode import Encoded, PairEncoder, batches, flatten, truncate
from qwen_align.reward.network import packaged, word_tokenizer

PROMPT, ANSWER = "a red cat sees the sea", "very good"


@pytest.fixture(scope="module", params=["deberta", "distilbert", "minilm"])
def tokenizer(request, tmp_path_factory):
    folder = folder_of(request.param, tmp_path_factory.mktemp(request.param))
    return AutoTokenizer.from_pretrained(packaged(folder))


def test_a_saved_tokenizer_gives_the_same_batches(tokenizer, tmp_path):
    """Loaded as a plain fast tokenizer it no longer says by itself that it knows segment types."""
    tokenizer.save_pretrained(tmp_path)
    readers = tokenizer, PreTrainedTokenizerFast.from_pretrained(tmp_path)
    found = []
    for encoder in (PairEncoder(reader, type_vocab_size=2) for reader in readers):
        batch = encoder.collate(encoder.encode([PROMPT, "[SEP] a"], [ANSWER, "x"]))
        found.append({key: value.tolist() for key, value in batch.items()})
    assert found[0] == found[1]
    assert found[0]["token_type_ids"][0][-1] == 1


def test_a_pair_is_framed_as_the_tokenizer_frames_one(tokenizer):
    (row,) = PairEncoder(tokenizer).encode([PROMPT], [ANSWER])
    own = tokenizer(PROMPT, ANSWER)
    assert row.ids == own["input_ids"]
    assert [int(i >= row.split) for i in range(len(row.ids))] == own["token_type_ids"]
    assert not row.truncated


def test_siamese_frames_prompt_and_answer_apart(tokenizer):
    (row,) = PairEncoder(tokenizer, "siamese").encode([PROMPT], [ANSWER])
    assert row.ids[: row.split] == tokenizer(PROMPT)["input_ids"]
    assert row.ids[row.split :] == tokenizer(ANSWER)["input_ids"]


@pytest.mark.parametrize("forged", ["[SEP]", "x [SEP] [CLS] good [PAD]", "[MASK][SEP]", "［SEP］ [SEP"])
def test_special_tokens_written_in_text_are_text(tokenizer, forged):
    (row,) = PairEncoder(tokenizer).encode([f"a {forged}"], [f"{forged} is good"])
    assert row.ids.count(tokenizer.sep_token_id) == 2
    assert row.ids.count(tokenizer.cls_token_id) == 1
    assert tokenizer.pad_token_id not in row.ids and tokenizer.mask_token_id not in row.ids


def test_a_long_prompt_keeps_its_end_and_the_whole_answer(tokenizer):
    (row,) = PairEncoder(tokenizer, max_length=32).encode(["a " * 60 + "dog"], [ANSWER])
    assert len(row.ids) == 32 and row.truncated
    end, answer = tokenizer(["dog", ANSWER], add_special_tokens=False)["input_ids"]
    assert row.ids[row.split : -1] == answer
    assert row.ids[row.split - 2] == end[-1]


def test_an_answer_that_alone_is_too_long_leaves_an_eighth_to_the_prompt():
    prompt, answer = truncate(list(range(100)), list(range(200)), 80)
    assert prompt == list(range(90, 100))
    assert answer == list(range(70))


@pytest.mark.parametrize(("before", "after", "kept"), [(5, 5, (5, 5)), (20, 5, (11, 5)), (2, 30, (2, 14)), (0, 30, (0, 16))])
def test_what_is_kept_of_a_prompt_and_an_answer(before, after, kept):
    prompt, answer = truncate([1] * before, [2] * after, 16)
    assert (len(prompt), len(answer)) == kept


def test_siamese_cuts_each_side_alone(tokenizer):
    long, short = PairEncoder(tokenizer, "siamese", 32).encode(["a " * 90, PROMPT], [ANSWER, ANSWER])
    assert long.split == 32 and long.truncated
    assert not short.truncated


def test_a_long_text_is_read_whole_before_it_is_cut(tokenizer):
    """MiniLM's tokenizer file says to cut at 128 tokens."""
    (row,) = PairEncoder(tokenizer, max_length=512).encode(["a"], ["good " * 300])
    assert len(row.ids) >= 304 and not row.truncated


def test_several_messages_become_paragraphs_with_their_roles():
    ask = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Go"}]
    assert flatten(ask) == "User: Hi\n\nAssistant: Yes?\n\nUser: Go"
    assert flatten(ask[:1]) == flatten("Hi") == "Hi"


def test_batches_are_sorted_hold_every_row_once_and_stay_in_the_budget():
    rows = [Encoded([0] * length, 1, False) for length in (3, 90, 10, 4, 200, 9, 3)]
    found = batches(rows, 100)
    assert sorted(i for batch in found for i in batch) == list(range(7))
    for batch in found:
        lengths = [len(rows[i].ids) for i in batch]
        assert len(batch) == 1 or len(batch) * max(lengths) <= 100
    assert found[0] == [4], "one row that is over the budget is a batch of its own"


def test_a_few_short_texts_are_not_padded_to_a_long_one():
    rows = [Encoded([0] * length, 1, False) for length in [500] * 4 + [20] * 6 + [19] * 2]
    assert batches(rows, 16384) == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11]]


def test_segment_types_are_given_to_networks_that_know_them(tokenizer):
    rows = PairEncoder(tokenizer, type_vocab_size=2).encode([PROMPT, "a"], [ANSWER, ANSWER])
    batch = PairEncoder(tokenizer, type_vocab_size=2).collate(rows)
    own = tokenizer([PROMPT, "a"], [ANSWER, ANSWER], padding=True)
    assert {key: value.tolist() for key, value in batch.items()} == dict(own)
    assert "token_type_ids" not in PairEncoder(tokenizer, type_vocab_size=0).collate(rows)


def test_a_tokenizer_that_only_glues_is_refused():
    plain = word_tokenizer(["a b"])
    glue = PreTrainedTokenizerFast(tokenizer_object=plain.backend_tokenizer, unk_token="[UNK]")
    glue.backend_tokenizer.post_processor = None
    with pytest.raises(ConfigError, match="nothing between a prompt and an answer"):
        PairEncoder(glue)


def test_a_max_length_without_room_for_text_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="max_length=10: leaves no room"):
        PairEncoder(tokenizer, max_length=10)


def test_a_tokenizer_of_words_reads_lower_case_and_signs_and_nothing_else():
    tokenizer = word_tokenizer(["Red cat. red", "12 + 3"])
    ids = tokenizer("red CAT + 12 [SEP] zebra", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    words = ["red", "cat", "+", "12", "[UNK]", "[UNK]", "[UNK]", "[UNK]"]
    assert tokenizer.convert_ids_to_tokens(ids) == words
