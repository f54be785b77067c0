"""What the reward suite times is the same work on both sides."""

import pytest

from qwen_align.bench import reward
from qwen_align.errors import ConfigError

pytestmark = pytest.mark.slow


def test_both_ways_give_the_same_scores(tmp_path):
    texts = [pair for pair in reward.made(24) if sum(map(len, pair)) < 2000]
    model = reward.scorer(texts, 1, tmp_path)
    ours = model.score(*[list(side) for side in zip(*texts, strict=True)])
    assert ours == pytest.approx(reward.usual(model, texts, 4, True), abs=1e-5)
    assert ours == pytest.approx(reward.usual(model, texts, 4, "max_length"), abs=1e-5)
    assert max(ours) - min(ours) > 1e-3


def test_lengths_spread_like_those_of_real_answers():
    words = sorted(len(answer.split()) for _, answer in reward.made(1000))
    assert 50 < words[500] < 70
    assert 180 < words[900] < 280


def test_texts_of_a_file_are_read(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "a", "chosen": [{"role": "assistant", "content": "b"}]}\n' * 3)
    assert reward.read(str(file), 2) == [("a", "b")] * 2
    with pytest.raises(ConfigError, match="pairs=nothing: no such file"):
        reward.read("nothing", 2)


def test_a_row_says_how_far_the_scores_differ():
    rows = reward.run(rounds=1, texts=8, layers=1, batch=4, pairs=None)
    assert [row.unit for row in rows] == ["texts", "texts"]
    assert all(row.ratio > 0 for row in rows)
    assert "scores differ by" in rows[0].note
