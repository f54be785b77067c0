"""Each kind of constraint both ways, and what any text and any JSON get."""

import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_align.data import constraints as made
from qwen_align.verifier.constraints import COLUMNS, FIELDS, followed, read, score, verify

DOG = {"kind": "starts", "with": "dog"}

CASES = [  # constraint, a text that follows it, one that does not
    ({"kind": "words", "least": 3, "most": 3}, "dog, cat: hat!", "dog cat"),
    ({"kind": "words", "least": 3}, "dog cat hat coat", "dog cat"),
    ({"kind": "words", "most": 3}, "dog", "dog cat hat coat"),
    ({"kind": "count", "of": ["dog", "cat"], "least": 2, "most": 2}, "Dog hat dog", "dog cat dog"),
    ({"kind": "count", "of": ["dog", "cat"], "least": 1}, "a cat", "a category"),
    ({"kind": "count", "of": ["dog", "cat"], "most": 0}, "a doghouse", "a DOG"),
    ({"kind": "only", "of": ["dog", "cat"]}, "Dog, cat, dog", "dog cat hat"),
    ({"kind": "starts", "with": "dog"}, "... Dog, cat", "a dog"),
    ({"kind": "ends", "with": "dog"}, "cat\ndog.", "dog cat"),
    ({"kind": "order", "first": "dog", "then": "cat"}, "dog cat dog", "cat dog cat"),
    ({"kind": "order", "first": "dog", "then": "cat"}, "a dog, a cat", "a dog"),
    ({"kind": "case", "letters": "upper"}, "DOG 7!", "DOG Cat"),
    ({"kind": "case", "letters": "lower"}, "dog 7!", "Dog cat"),
    ({"kind": "distinct"}, "dog cat", "dog Dog"),
]


def as_json(*constraints: dict) -> str:
    return json.dumps(constraints)


@pytest.mark.parametrize(("constraint", "good", "bad"), CASES, ids=lambda v: v["kind"] if isinstance(v, dict) else "")
def test_a_constraint_is_followed_or_not(constraint, good, bad):
    assert (score(good, as_json(constraint)), score(bad, as_json(constraint))) == (1.0, 0.0)


def test_every_kind_is_tried():
    assert {constraint["kind"] for constraint, _, _ in CASES} == set(FIELDS)


def test_the_score_is_the_share_of_the_constraints():
    wanted = as_json(DOG, {"kind": "ends", "with": "cat"}, {"kind": "distinct"}, {"kind": "words", "most": 9})
    assert [score(text, wanted) for text in ("dog cat", "dog dog cat", "dog dog", "a a")] == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("text", [None, "", "  \n", "...", "_ - '"])
def test_without_a_word_nothing_is_followed(text):
    wanted = as_json({"kind": "words", "most": 9}, {"kind": "distinct"})
    assert (score(text, wanted), verify(text, wanted)) == (0.0, "malformed")


def test_verdicts():
    assert [verify(text, as_json(DOG)) for text in ("dog", "cat", "!")] == ["correct", "wellformed_wrong", "malformed"]


def test_hyphens_and_apostrophes_stay_inside_a_word():
    two = as_json({"kind": "words", "least": 2, "most": 2})
    assert [score(text, two) for text in ("don't well-being", "don’t - stop", "don't -stop", "a--b")] == [1.0] * 4


def test_words_of_other_alphabets_count():
    assert score("Straße ÜBER 東京", as_json({"kind": "count", "of": ["über", "strasse"], "least": 2})) == 1.0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("{}", "expected a list of at least one"),
        ("[]", "expected a list of at least one"),
        ("[7]", "expected a kind"),
        ('[{"kind": "start", "with": "a"}]', "expected a kind, one of words, count, only, starts"),
        ('[{"kind": ["words"]}]', "expected a kind"),
        ('[{"kind": "words"}]', "expected words with least, most"),
        ('[{"kind": "words", "least": "3"}]', "expected words with least, most"),
        ('[{"kind": "words", "least": true}]', "expected words with least, most"),
        ('[{"kind": "count", "least": 3}]', "expected count with of, least, most"),
        ('[{"kind": "starts"}]', "expected starts with with"),
        ('[{"kind": "order", "first": "a"}]', "expected order with first, then"),
        ('[{"kind": "case", "letters": "title"}]', "expected case with letters"),
        ('[{"kind": "distinct", "words": 3}]', "expected distinct"),
    ],
)
def test_constraints_that_cannot_be_checked_are_refused(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        read(text)
    with pytest.raises(ValueError, match=complaint):
        COLUMNS["constraints"](text)


def test_a_list_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match="is no text with a JSON list of constraints"):
        COLUMNS["constraints"]([DOG])


CLAUSES = st.builds(lambda seed: made.instruction(random.Random(seed), (1, 8)), st.integers(0, 10**9))


@settings(max_examples=200, deadline=None)
@given(CLAUSES, st.integers(0, 10**9))
def test_an_answer_built_to_follow_all_constraints_scores_one(clauses, seed):
    constraints = [constraint for _, asked_for in clauses for constraint in asked_for]
    text = made.answer(constraints, random.Random(seed))
    if text is not None:
        assert (score(text, json.dumps(constraints)), verify(text, json.dumps(constraints))) == (1.0, "correct")


PIECES = [*made.WORDS[:6], "DOG", "dog's", "-", "'", " ", "\n", "ß", "İ", "東", "\0", "_", "9"]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=60).map("".join)), CLAUSES)
def test_any_text_gets_a_score(text, clauses):
    constraints = [constraint for _, asked_for in clauses for constraint in asked_for]
    found = score(text, json.dumps(constraints))
    assert found * len(constraints) == pytest.approx(round(found * len(constraints)))
    assert 0.0 <= found <= 1.0
    assert found == followed(text, read(json.dumps(constraints)))
    assert (verify(text, json.dumps(constraints)) == "correct") == (found == 1.0)


@pytest.mark.parametrize("piece", ["dog ", "a'", "a-", "-", "''", "A" * 7 + "-", "ß", "\u0301a"])
def test_long_hostile_texts_take_no_longer_than_plain_ones(piece):
    wanted = as_json(*(constraint for constraint, _, _ in CASES))
    start = time.process_time()
    assert 0.0 <= score(piece * (1_000_000 // len(piece)), wanted) <= 1.0
    assert time.process_time() - start < 5
