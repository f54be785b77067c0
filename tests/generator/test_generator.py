"""What all sources of completions share, and what the parent checks about them before any stage runs."""

import json

import pytest
from sampling import EXACT, SCRIPTS, Script

from qwen_align import generator
from qwen_align.errors import ConfigError
from qwen_align.generator import Sampling, sample

ROOM = "qwen_align.generator"
TRANSFORMERS = {"_target_": f"{ROOM}.transformers.Transformers", "batch_size": 8, "batch_tokens": 64}
OPENAI = {"_target_": f"{ROOM}.openai.OpenAI", "model": "m", "base_url": "http://localhost/v1", "api_key_env": None}


def recorded(tmp_path, **line):
    path = tmp_path / "theirs.jsonl"
    path.write_text(json.dumps({"response": ["a"], **line}) + "\n")
    return {"_target_": f"{ROOM}.recorded.Recorded", "path": str(path)}


def test_completions_are_in_the_prompts_order():
    class Backwards(Script):
        def stream(self, prompts, sampling, title, policy=None):
            yield from reversed(list(super().stream(prompts, sampling, title, policy)))

    prompts = [[{"role": "user", "content": name}] for name in "pq"]
    found = sample(Backwards(SCRIPTS), prompts, Sampling(2, 1.0, 8, 0), "test")
    assert [[c.text for c in pool] for pool in found] == [["b", "a"], ["cc", "d"]]


def test_greedy_is_one_completion_without_chance():
    drawn = Sampling(n=8, temperature=0.7, max_completion_length=16, seed=3, top_p=0.9, top_k=20)
    assert drawn.greedy() == Sampling(n=1, temperature=0.0, max_completion_length=16, seed=3, top_p=1.0, top_k=0)


def test_only_a_file_brings_its_own_problems(tmp_path):
    assert generator.brings_problems(recorded(tmp_path))
    assert not any(map(generator.brings_problems, (TRANSFORMERS, OPENAI, {}, None)))


@pytest.mark.parametrize("method", ["evaluate", "sft", "best_of_n"])
def test_a_teacher_measures_no_policy(method):
    with pytest.raises(ConfigError, match=rf"generator=openai: method={method} measures a policy"):
        generator.check(OPENAI, method, "openai", "base", EXACT)


def test_a_teacher_teaches_and_its_settings_are_checked():
    generator.check(OPENAI, "synthesize", "openai", "base", None)
    with pytest.raises(ConfigError, match=r"generator\.retries=-1"):
        generator.check(OPENAI | {"retries": -1}, "synthesize", "openai", "base", None)


@pytest.mark.parametrize(("method", "init"), [("evaluate", "sft"), ("best_of_n", "base"), ("synthesize", "base")])
def test_a_file_is_only_evaluated(tmp_path, method, init):
    with pytest.raises(ConfigError, match=f"no policy; expected method=evaluate with init=base, not method={method}"):
        generator.check(recorded(tmp_path, answer="a"), method, "recorded", init, EXACT)


def test_a_file_has_to_hold_what_the_verifier_reads(tmp_path):
    generator.check(recorded(tmp_path, answer="a"), "evaluate", "recorded", "base", EXACT)
    with pytest.raises(ConfigError, match=r"theirs\.jsonl: line 1 has no .*answer"):
        generator.check(recorded(tmp_path), "evaluate", "recorded", "base", EXACT)


def test_a_policys_own_source_is_left_to_the_stage():
    generator.check(TRANSFORMERS | {"batch_size": "many"}, "evaluate", "transformers", "base", None)
