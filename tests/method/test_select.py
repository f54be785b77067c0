"""Which of N completions is the answer: by verifier, rewards or majority; and what is left to train on."""

import math

import pytest
from sampling import ANSWERS, EXACT, SCRIPTS, Puzzle, Tokenizer

from qwen_align import run_folder
from qwen_align.config.job import read
from qwen_align.errors import ConfigError
from qwen_align.generator import Completion
from qwen_align.method import select
from qwen_align.method.judge import judged
from qwen_align.reward import Reward
from qwen_align.verifier import Verifier

ROWS = Puzzle(ANSWERS).rows
POOL = [Completion("a", 1, True), Completion("bb", 2, False)]
SETTINGS = {"select": "verifier", "early_stop": False, "view": "evaluation"}


def reward(values, **settings):
    return Reward("mine", lambda completions, **_: values, **settings)


@pytest.mark.parametrize(
    ("answers", "index"), [(["a", "b", "b"], 1), (["a", "b"], 0), ([None, None], 0), ([None, "b"], 1), (["a", None, None], 0)]
)
def test_commonest(answers, index):
    assert select.commonest(answers) == index


def test_the_first_that_is_accepted_and_the_first_of_the_highest():
    assert (select.first_accepted([False, True, True]), select.first_accepted([False, False])) == (1, 0)
    assert select.highest([0.5, 2.0, 2.0]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"select": "verifyer"}, r"method\.select=verifyer: expected one of verifier.*did you mean verifier"),
        ({"select": "majority", "early_stop": True}, r"method\.early_stop=true: .*method\.select=majority needs all"),
        ({"view": "demonstrations"}, r"method\.view=demonstrations: expected evaluation"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        select.check(SETTINGS | changes, EXACT)


def test_majority_needs_a_verifier_with_answers():
    majority = SETTINGS | {"select": "majority"}
    select.check(majority, EXACT)
    with pytest.raises(ConfigError, match=r"select=majority: data\.verifier=mine gives no answer to vote on"):
        select.check(majority, Verifier(lambda completion: True, "mine"))


def test_rewards_are_summed_by_weight_and_none_does_not_count():
    silent, one = reward([None, 1.0], weight=2.0), reward([1.0, 1.0], weight=0.5)
    assert select.weighted([silent, one], ROWS[:1], [POOL]) == [[0.5, 2.5]]
    assert select.weighted([reward([None, None])], ROWS[:1], [POOL]) == [[-math.inf, -math.inf]]


def equals(completions, answer):
    return [float(c[-1]["content"] == a) for c, a in zip(completions, answer, strict=True)]


def test_a_reward_sees_each_completion_with_the_columns_of_its_problem():
    exact = Reward("exact", equals)
    assert select.weighted([exact], ROWS[:2], [[POOL[0]], [POOL[0], Completion("d", 1, True)]]) == [[1.0], [0.0, 1.0]]


def test_token_ids_end_with_the_stop_token_where_the_completion_is_finished():
    lengths = Reward("lengths", lambda completions, completion_ids, **_: [float(len(ids)) for ids in completion_ids])
    assert select.completion_ids(Tokenizer(), POOL) == [[97, 1], [98, 98]]
    assert select.weighted([lengths], ROWS[:1], [POOL], Tokenizer()) == [[2.0, 2.0]]


def test_token_ids_without_a_tokenizer_are_a_users_mistake():
    lengths = Reward("lengths", lambda completions, completion_ids: [0.0])
    with pytest.raises(ConfigError, match="reward=lengths: reads completion_ids"):
        select.weighted([lengths], ROWS[:1], [POOL])


def short(completions, limit=3, **_):
    return [float(len(completion[-1]["content"]) <= limit) for completion in completions]


def needs_nums(completions, nums):
    return [0.0 for _ in completions]


def raises(completions, **_):
    raise ZeroDivisionError("by zero")


def reads_ids(completions, completion_ids):
    return [0.0 for _ in completions]


def node(name, **settings):
    target = {"_target_": f"{__name__}.{name}", **settings}
    return read("", {"reward": target, "seed": 0, "init": "", "max_completion_length": 1}).reward


def test_a_users_function_is_a_reward():
    (built,) = select.rewards(node("short", limit=1), ROWS)
    assert select.weighted([built], ROWS[:1], [POOL]) == [[1.0, 0.0]]
    assert select.rewards(None, ROWS) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("needs_nums", "reward=needs_nums: needs the column nums; the data has prompt, answer"),
        ("raises", "reward.raises.* raised ZeroDivisionError: by zero"),
        ("reads_ids", "reward=reads_ids: reads completion_ids"),
    ],
)
def test_a_reward_that_cannot_work_is_found_on_trial_answers(name, message):
    with pytest.raises(ConfigError, match=message):
        select.rewards(node(name), ROWS, with_ids=False)


def exported(tmp_path, texts, chosen_by, how):
    pools = [judged(EXACT, row, [Completion(t, 1, True) for t in pool]) for row, pool in zip(ROWS, texts, strict=True)]
    counts = select.export(tmp_path, ROWS, pools, chosen_by(pools), how)
    return counts, *(run_folder.read_jsonl(tmp_path / f"{name}.jsonl") for name in ("demonstrations", "preferences"))


def test_winners_and_pairs_are_exported(tmp_path):
    by = lambda pools: select.criteria("verifier", EXACT, [], ROWS, pools, None)  # noqa: E731
    counts, demonstrations, pairs = exported(tmp_path, SCRIPTS.values(), by, "verifier")
    assert counts == (2, 2)
    assert [row["completion"][0]["content"] for row in demonstrations] == ["a", "d"]
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in pairs] == [("a", "b"), ("d", "cc")]
    assert demonstrations[0]["answer"] == "a"


def test_the_reward_picks_the_best_winner_and_the_worst_loser(tmp_path):
    scores = lambda pools: [[0.1, 0.9, 0.5, -1.0]] * 3  # noqa: E731
    _, (winner,), (pair,) = exported(tmp_path, [["a", "a", "b", "b1"], ["x"] * 4, ["x"] * 4], scores, "reward")
    assert winner["completion"] == pair["chosen"]
    assert pair["rejected"][0]["content"] == "b1"


def test_a_problem_that_is_always_right_gives_no_pair(tmp_path):
    by = lambda pools: select.criteria("majority", EXACT, [], ROWS, pools, None)  # noqa: E731
    counts, _, pairs = exported(tmp_path, [["a"] * 4, ["d"] * 4, ["x"] * 4], by, "majority")
    assert (counts, pairs) == ((2, 0), [])
