"""Instructions made from a seed: satisfiable, distinct, held apart, as careless and as noisy as was asked for."""

import json

import pytest

from qwen_align.config import groups
from qwen_align.data.constraints import WORDS, Constraints, is_held_out
from qwen_align.errors import ConfigError
from qwen_align.verifier.constraints import FIELDS, score, words_of

VIEWS = ("demonstrations", "preferences", "prompts", "evaluation")


def data(**changes) -> Constraints:
    """conf/data/constraints.yaml, small."""
    node = {k: v for k, v in groups.read("data", "constraints").items() if k not in ("_target_", "verifier")}
    return Constraints(**node | {"problems": 400, "pairs": 300, "evaluation_problems": 200} | changes)


def answers(rows, column: str) -> list[str]:
    return [row[column][-1]["content"] for row in rows]


def scores(rows, column: str) -> list[float]:
    return [score(text, row["constraints"]) for row, text in zip(rows, answers(rows, column), strict=True)]


def test_without_carelessness_every_demonstration_follows_its_instruction():
    assert scores(data(careless=0.0).demonstrations(), "completion") == [1.0] * 400


def test_the_careless_share_leaves_something_unfollowed():
    found = scores(data(problems=2000, careless=0.3).demonstrations(), "completion")
    assert 0.26 < sum(value < 1 for value in found) / 2000 < 0.34
    assert max(scores(data(careless=1.0).demonstrations(), "completion")) < 1


def test_the_true_scores_of_a_pair_are_the_verifiers():
    rows = data().preferences()
    for column in ("chosen", "rejected"):
        assert rows[f"{column}_score"][:] == scores(rows, column)


def test_without_label_noise_chosen_is_always_better():
    rows = data(label_noise=0.0).preferences()
    assert all(row["chosen_score"] > row["rejected_score"] for row in rows)


def test_the_noisy_share_of_labels_is_turned_round():
    rows = data(problems=2000, pairs=2000, label_noise=0.2).preferences()
    wrong = [row["chosen_score"] < row["rejected_score"] for row in rows]
    assert 0.16 < sum(wrong) / 2000 < 0.24


def test_pairs_are_graded():
    differences = {round(abs(row["chosen_score"] - row["rejected_score"]), 2) for row in data().preferences()}
    assert {0.2, 0.25, 0.33, 0.5} <= differences


def test_a_margin_is_how_much_better_chosen_is_said_to_be():
    assert "margin" not in data().preferences().column_names
    for row in data(margin=True, label_noise=0.5).preferences():
        assert row["margin"] == abs(row["chosen_score"] - row["rejected_score"]) > 0


def test_length_alone_does_not_tell_which_answer_is_better():
    rows = data(problems=2000, pairs=2000).preferences()
    longer = [len(c.split()) > len(r.split()) for c, r in zip(answers(rows, "chosen"), answers(rows, "rejected"), strict=True)]
    assert 0.3 < sum(longer) / 2000 < 0.55


@pytest.mark.parametrize("view", VIEWS)
def test_a_seed_gives_the_same_rows_again_and_another_seed_others(view):
    first, again, other = (getattr(data(seed=seed), view)().to_list() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_longer_set_begins_with_the_shorter_one():
    assert data(problems=500).demonstrations().to_list()[:400] == data().demonstrations().to_list()


def test_demonstrations_prompts_and_preferences_are_the_same_instructions():
    made = data()
    prompts = made.prompts()["constraints"][:]
    assert made.demonstrations()["constraints"][:] == prompts
    assert made.preferences()["constraints"][:] == prompts[:300]


def test_no_instruction_is_in_training_and_evaluation():
    made = data(problems=2500, evaluation_problems=400, sentences=[1, 2])

    def asked(row):
        return " ".join(sorted(row["prompt"][0]["content"].split(". ")))

    train, evaluation = {asked(row) for row in made.prompts()}, {asked(row) for row in made.evaluation()}
    assert not {a.replace(".", "") for a in train} & {a.replace(".", "") for a in evaluation}


@pytest.mark.parametrize(("view", "number"), [("prompts", 400), ("evaluation", 200)])
def test_instructions_are_distinct(view, number):
    rows = getattr(data(), view)()
    assert len({json.dumps(sorted(map(json.dumps, json.loads(row["constraints"])))) for row in rows}) == number


def test_an_instruction_is_held_out_whatever_the_order_of_its_clauses():
    made = data()
    for row in made.evaluation():
        assert is_held_out(row["constraints"], made.held_out)
        assert is_held_out(json.dumps(json.loads(row["constraints"])[::-1]), made.held_out)
    assert not any(is_held_out(text, made.held_out) for text in made.prompts()["constraints"])


def test_the_number_of_sentences_is_what_was_asked_for():
    rows = data(sentences=[2, 4]).prompts()
    assert {row["prompt"][0]["content"].count(".") for row in rows} == {2, 3, 4}
    assert {len(json.loads(text)) for text in rows["constraints"]} == {3, 4, 5}


def test_every_kind_of_constraint_is_asked_for():
    kinds = {c["kind"] for text in data().prompts()["constraints"] for c in json.loads(text)}
    assert kinds == set(FIELDS)


def test_prompts_say_what_the_constraints_are():
    row = next(row for row in data().prompts() if '"starts"' in row["constraints"])
    (first,) = [c["with"] for c in json.loads(row["constraints"]) if c["kind"] == "starts"]
    assert f"Start with {first}." in row["prompt"][0]["content"]


def test_the_tiny_policy_knows_every_word_and_the_lengths_are_bounded():
    vocabulary = set(groups.read("model", "constraints_tiny")["words"].split())
    made = data()
    for row in made.demonstrations():
        said = row["prompt"][0]["content"].replace(".", " . ").split() + answers([row], "completion")[0].split()
        assert {word for word in said if not word.isdecimal()} <= vocabulary
        assert len(said) <= 30
        assert len(words_of(answers([row], "completion")[0])) <= 6
    assert {word.upper() for word in WORDS} <= vocabulary


def test_columns_of_the_views():
    made = data()
    assert set(made.demonstrations().column_names) == {"prompt", "completion", "constraints"}
    scored = {"prompt", "chosen", "rejected", "constraints", "chosen_score", "rejected_score"}
    assert set(made.preferences().column_names) == scored
    assert set(made.prompts().column_names) == set(made.evaluation().column_names) == {"prompt", "constraints"}


def test_more_instructions_than_there_are_is_a_config_error():
    with pytest.raises(ConfigError, match=r"data\.evaluation_problems=100: only about \d+ distinct instructions"):
        data(evaluation_problems=100, sentences=[1, 1]).evaluation()


SENTENCES = [[4, 2], [0, 2], [2, 9], [2], [2, "3"]]
SHARES = [("careless", 1.1), ("careless", -0.1), ("label_noise", 0.6), ("held_out", 0)]


@pytest.mark.parametrize(("key", "value"), [("pairs", 0), ("pairs", 401), *SHARES, *(("sentences", s) for s in SENTENCES)])
def test_settings_that_make_no_sense_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"data\.{key}="):
        data(**{key: value})


def test_the_data_set_brings_its_reward(stages_of):
    (*_, stage) = stages_of("method=rloo", "data=constraints", "model=constraints_tiny")
    assert stage.config["method"]["reward"]["verifier"] == "constraints"
