"""Completions with their verdicts; a verifier that fails is found before anything is sampled."""

import pytest
from sampling import EXACT

from qwen_align.errors import ConfigError
from qwen_align.generator import Completion
from qwen_align.method import judge
from qwen_align.verifier import Verdict, Verifier

ROW = {"prompt": "?", "answer": "a"}
SOME = [Completion("a", 3, True, 7), Completion("b", 8, False)]


def test_a_completion_keeps_what_it_was_and_has_a_verdict():
    right, wrong = judge.judged(EXACT, ROW, SOME)
    assert (right.text, right.tokens, right.finished, right.prompt_tokens) == ("a", 3, True, 7)
    assert (right.verdict, wrong.verdict) == (Verdict.CORRECT, Verdict.WELLFORMED_WRONG)
    assert (right.correct, wrong.correct) == (True, False)


def test_a_verifier_that_scores_gives_scores():
    half = Verifier(lambda completion, answer: 1.0 if completion == answer else 0.5, "half")
    assert [(c.correct, c.score) for c in judge.judged(half, ROW, SOME)] == [(True, 1.0), (False, 0.5)]


def test_without_a_verifier_nothing_is_known():
    assert [(c.verdict, c.score, c.correct) for c in judge.judged(None, ROW, SOME)] == [(None, None, False)] * 2


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda completion, answer: completion[0] == answer, "raised IndexError"),
        (lambda completion, answer: "yes", "returned 'yes'; expected a Verdict"),
    ],
)
def test_a_verifier_that_fails_on_a_trial_answer_is_a_users_mistake(function, reason):
    with pytest.raises(ConfigError, match=rf"data\.verifier=mine: the verifier mine {reason}"):
        judge.rehearse(Verifier(function, "mine"), [ROW])


def test_one_that_works_passes_and_so_does_none():
    judge.rehearse(EXACT, [ROW, ROW, ROW])
    judge.rehearse(None, [ROW])


def test_only_some_verifiers_can_be_late():
    class Slow:
        def verify(self, completion):
            return True

        def timeouts(self):
            return 3

    assert judge.timeouts(Verifier(Slow(), "slow")) == 3
    assert judge.timeouts(EXACT) is judge.timeouts(None) is None
