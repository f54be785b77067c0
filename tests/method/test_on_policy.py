"""What trainers that sample share: which prompts, groups without variance, and what is refused before training."""

import pytest
import torch
from datasets import Dataset
from omegaconf import OmegaConf
from tiny import TINY
from trained import finished

from qwen_align import chat, reward, run_folder
from qwen_align.errors import ConfigError
from qwen_align.method import on_policy
from qwen_align.model import from_scratch
from qwen_align.stage import run, worker

pytestmark = pytest.mark.slow

PROMPT = [{"role": "user", "content": "Numbers 1 2 target 3"}]
NONE = float("nan")


def settings(**values):
    return OmegaConf.create(values)


@pytest.mark.parametrize(
    ("rewards", "share"),
    [
        ([1.0, 1.0, 0.0, 1.0], 0.5),
        ([0.1, 0.1, 0.7, 0.7], 1.0),
        ([0.0, 1.0, 1.0, 0.0], 0.0),
        ([NONE, NONE, 0.0, 1.0], 0.5),
        ([NONE, 1.0, 0.0, 1.0], 0.5),  # one completion has no sibling to be compared with
    ],
)
def test_groups_without_variance_are_counted(rewards, share):
    assert on_policy.without_variance(torch.tensor(rewards), 2) == share


def needs_nums(completions, nums, **columns):
    return [0.0] * len(completions)


def raises(completions, **columns):
    raise KeyError("a mistake")


def test_reserved_columns_and_missing_ones_are_refused():
    rewards = reward.build({"_target_": f"{__name__}.needs_nums"})
    with pytest.raises(ConfigError, match="the column completions"):
        on_policy.check_rows(Dataset.from_list([{"prompt": PROMPT, "completions": 1}]), [], settings(prompts_per_step=1))
    with pytest.raises(ConfigError, match="reward=needs_nums: needs the column nums"):
        on_policy.check_rows(Dataset.from_list([{"prompt": PROMPT}]), rewards, settings(prompts_per_step=1))


def test_fewer_prompts_than_a_step_are_refused():
    with pytest.raises(ConfigError, match="prompts_per_step=2: the data has only 1 prompts"):
        on_policy.check_rows(Dataset.from_list([{"prompt": PROMPT}]), [], settings(prompts_per_step=2))


def test_a_reward_that_raises_ends_the_stage_before_anything_is_loaded(tmp_path, stages_of, monkeypatch):
    monkeypatch.setattr(on_policy.policy, "load", lambda job: pytest.fail("loaded"))
    stage = stages_of(*TINY, "method=rloo", "init=base", f"runs_dir={tmp_path}")[-1]
    stage.config["method"]["reward"] = {"_target_": f"{__name__}.raises"}
    run.prepare(stage, afresh=False)
    assert worker.run_stage(stage.folder) == worker.USER_ERROR
    assert run_folder.read_json(stage.folder / "run.json")["error"].startswith("reward raises raised KeyError: 'a mistake'")


def uneven(completions, log_metric, log_extra, **columns):
    log_extra("seen", [1] * len(completions))
    log_metric("asked", float(len(completions)))
    return [float(len(completion[-1]["content"])) for completion in completions]


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_a_users_function_is_called_as_trl_calls_it(method, tmp_path, stages_of):
    overrides = [*TINY, f"method={method}", "init=base", f"runs_dir={tmp_path}", "method.args.num_generations=4"]
    overrides += ["method.prompts_per_step=16", "method.args.max_steps=1", "method.args.activation_checkpointing=false"]
    stage = stages_of(*overrides)[-1]
    stage.config["method"]["reward"] = {"_target_": f"{__name__}.uneven", "name": "mine", "weight": 2.0, "clip": [0, 5]}
    first = run_folder.read_jsonl(finished(stage) / "metrics.jsonl")[0]
    assert first["asked"] == 64
    assert 0 < first["rewards/mine/mean"] <= 5
    assert first["reward"] == pytest.approx(2 * first["rewards/mine/mean"])


def asked(*words: int) -> Dataset:
    return Dataset.from_list([{"prompt": [{"role": "user", "content": " ".join(["Numbers"] * n)}], "target": n} for n in words])


@pytest.fixture
def frame_and_tokenizer():
    _, tokenizer = from_scratch("Numbers", 10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    return len(chat.prompt_ids(tokenizer, asked(0)["prompt"])[0]), tokenizer


def test_longer_prompts_are_left_out_and_counted(frame_and_tokenizer, capsys):
    frame, tokenizer = frame_and_tokenizer
    method = settings(max_prompt_tokens=frame + 3, prompts_per_step=2)
    kept = on_policy.short_enough(asked(5, 1, 3, 4, 2), tokenizer, method)
    assert kept["target"] == [1, 3, 2]
    assert f"2 of 5 prompts have more than max_prompt_tokens={frame + 3} and are left out" in capsys.readouterr().out


def test_where_all_are_short_enough_nothing_is_said(frame_and_tokenizer, capsys):
    frame, tokenizer = frame_and_tokenizer
    for most in (frame + 3, None):
        kept = on_policy.short_enough(asked(1, 3), tokenizer, settings(max_prompt_tokens=most, prompts_per_step=2))
        assert len(kept) == 2
    assert "left out" not in capsys.readouterr().out


def test_too_few_prompts_that_are_short_enough_are_an_error(frame_and_tokenizer):
    frame, tokenizer = frame_and_tokenizer
    with pytest.raises(ConfigError, match=rf"max_prompt_tokens={frame + 1}: 1 of 3 prompts are so short, .*prompts_per_step=2"):
        on_policy.short_enough(asked(5, 1, 3), tokenizer, settings(max_prompt_tokens=frame + 1, prompts_per_step=2))
