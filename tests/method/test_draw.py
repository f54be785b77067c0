"""Waves of samples, and completions that are on disk before the next prompt is done."""

import json

import pytest
from sampling import SCRIPTS, Script, policy

from qwen_align.generator import Completion, Sampling
from qwen_align.method.draw import CompletionLog, waves

PROMPTS = [[{"role": "user", "content": name}] for name in SCRIPTS]
DRAWN = Sampling(n=2, temperature=1.0, max_completion_length=8, seed=0)


@pytest.mark.parametrize("samples", [1, 2, 3, 7, 16, 20])
def test_waves_sum_to_the_samples(samples):
    assert sum(waves(samples)) == samples
    assert waves(16) == [1, 1, 2, 4, 8]


@pytest.mark.parametrize("needed", range(1, 17))
def test_waves_draw_less_than_twice_what_one_at_a_time_would(needed):
    drawn = next(d for i in range(5) if (d := sum(waves(16)[: i + 1])) >= needed)
    assert drawn < 2 * needed


def test_completions_come_in_the_order_in_which_they_were_asked_for(tmp_path):
    log = CompletionLog(tmp_path / "completions.jsonl", Script(SCRIPTS), PROMPTS)
    found = log.sample(policy(), "sft", "samples", DRAWN, [2, 0])
    assert [[c.text for c in pool] for pool in found] == [["x", "x"], ["b", "a"]]


def test_what_is_on_disk_is_not_sampled_again_and_the_rest_has_a_seed_of_its_own(tmp_path, capsys):
    path = tmp_path / "completions.jsonl"
    CompletionLog(path, Script(SCRIPTS), PROMPTS).sample(policy(), "sft", "samples", DRAWN, [0, 1])
    script = Script(SCRIPTS)
    log = CompletionLog(path, script, PROMPTS)
    found = log.sample(policy(), "sft", "samples", DRAWN)
    assert [[c.text for c in pool] for pool in found] == [["b", "a"], ["cc", "d"], ["x", "x"]]
    assert (script.waves, log.resumed) == ([(1, 2)], 2)
    assert script.seeds != [0], "the finished prompts' random numbers are not handed out again"
    assert "sft samples: 2 of 3 problems are on disk already" in capsys.readouterr().out


@pytest.mark.parametrize("other", [("rloo", "samples"), ("sft", "greedy")])
def test_another_policy_or_wave_is_sampled_for_itself(tmp_path, other):
    log = CompletionLog(tmp_path / "completions.jsonl", script := Script(SCRIPTS), PROMPTS)
    log.sample(policy(), "sft", "samples", DRAWN)
    log.sample(policy(), *other, DRAWN)
    assert script.waves == [(3, 2), (3, 2)]


def test_a_torn_file_is_made_whole(tmp_path):
    path = tmp_path / "completions.jsonl"
    line = {"policy": "a", "wave": "greedy", "problem": 0, "completions": [["t", 1, True]]}
    path.write_text(json.dumps(line) + "\n" + '{"policy": "a"')
    script = Script(SCRIPTS)
    found = CompletionLog(path, script, PROMPTS).sample(policy(), "a", "greedy", DRAWN.greedy(), [0])
    assert (found, script.asked) == ([[Completion("t", 1, True)]], 0)
    assert path.read_text() == json.dumps(line) + "\n"


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(CompletionLog(None, Script(SCRIPTS), PROMPTS).sample(policy(), "a", "samples", DRAWN)) == 3
    assert not list(tmp_path.iterdir())
