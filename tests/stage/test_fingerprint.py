"""What tells two stages apart, and what does not."""

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def stages_of(stages_of):
    """stages_of(...) on Countdown, whose reward is a function: a chain without reward models."""
    return lambda *given: stages_of("data=countdown", *given)


@pytest.mark.parametrize(
    "given",
    [
        ("method.args.logging_steps=7", "method.args.log_level=info"),
        ("method.args.save_steps=7", "method.args.save_total_limit=1", "checkpoints.keep=1"),
        ("hardware.device=cpu", "hardware.threads=1", "hardware.per_device.sft=2"),
        ("method.args.per_device_train_batch_size=4", "method.args.activation_checkpointing=false"),
        ("evaluation.problems=3", "evaluation.samples=2", "evaluation.temperature=0.7", "generator.batch_size=8"),
        ("tracking=tensorboard", "name=other", "runs_dir=elsewhere", "force=true"),
    ],
    ids=["logging", "saving", "hardware", "memory", "evaluation", "bookkeeping"],
)
def test_what_can_not_change_the_result_keeps_the_fingerprint(stages_of, default_fingerprint, given):
    assert stages_of(*given)[0].fingerprint == default_fingerprint


@pytest.mark.parametrize(
    "override",
    [
        "method.args.learning_rate=1e-3",
        "method.args.adam_beta2=0.98",
        "method.batch_size=32",
        "seed=1",
        "data.seed=1",
        "data.problems=100",
        "model=smollm2_135m",
        "adapter=lora",
        "hardware.precision=bf16",
        "init=org/model",
    ],
)
def test_what_can_change_the_result_changes_the_fingerprint(stages_of, default_fingerprint, override):
    assert stages_of(override)[0].fingerprint != default_fingerprint


def test_a_parents_setting_changes_the_stages_after_it(stages_of):
    before, after = stages_of("method=rloo"), stages_of("method=rloo", "stages.sft.args.learning_rate=1e-3")
    assert before[0].fingerprint != after[0].fingerprint
    assert before[1].fingerprint != after[1].fingerprint


def test_a_childs_setting_leaves_its_parent_alone(stages_of):
    before, after = stages_of("method=rloo"), stages_of("method=rloo", "method.args.beta=0.1")
    assert before[0].fingerprint == after[0].fingerprint
    assert before[1].fingerprint != after[1].fingerprint


def test_the_reward_counts_for_rloo_and_not_for_sft(stages_of):
    before, after = stages_of("method=rloo"), stages_of("method=rloo", "reward.wellformed_wrong=0.2")
    assert before[0].fingerprint == after[0].fingerprint
    assert before[1].fingerprint != after[1].fingerprint


def fingerprint_of(stages_of, *given: str) -> str:
    return stages_of(*given)[-1].fingerprint


def test_the_content_of_a_file_counts(stages_of, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    before = fingerprint_of(stages_of, f"data.extra={path}")
    path.write_text('{"prompt": "a", "completion": "c"}\n')
    assert fingerprint_of(stages_of, f"data.extra={path}") != before


def test_a_users_code_counts_and_not_where_it_lies(stages_of, tmp_path):
    code = "def short(completions, **columns):\n    return [1.0 for _ in completions]\n"
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(code)
    rewards = [f"reward=verifier reward._target_={tmp_path}/{folder}/mine.py:short".split() for folder in ("here", "there")]
    shared = ("method=rloo", "~reward.verifier", "~reward.correct", "~reward.wellformed_wrong", "~reward.malformed")
    here, there = (fingerprint_of(stages_of, *shared, *reward) for reward in rewards)
    assert here == there
    (tmp_path / "here" / "mine.py").write_text(code.replace("1.0", "2.0"))
    assert fingerprint_of(stages_of, *shared, *rewards[0]) != there


def test_code_beside_a_users_configuration_counts(stages_of, tmp_path, monkeypatch):
    (tmp_path / "user_verifier.py").write_text("def verify(completion, **row):\n    return True\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = fingerprint_of(stages_of, "method=evaluate", "data.verifier=user_verifier.verify")
    (tmp_path / "user_verifier.py").write_text("def verify(completion, **row):\n    return False\n")
    assert fingerprint_of(stages_of, "method=evaluate", "data.verifier=user_verifier.verify") != before
