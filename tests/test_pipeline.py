"""The study's stages from end to end, on small folders in place of what the Hub has: real architectures, real file layouts."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from conftest import planned
from encoders import folder_of, pairs
from safetensors.torch import load_file
from tiny import under
from tokenizers import Tokenizer, models, trainers
from trained import finished
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from qwen_align import run_folder
from qwen_align.method import on_policy
from qwen_align.reward.model import RewardModel
from qwen_align.stage.plan import Stage

pytestmark = pytest.mark.slow


def policy_folder(folder: Path, texts: list[str]) -> str:
    """Like Qwen2.5's Base: Qwen2, byte-level BPE, and a generation config that names another stop token than ChatML's."""
    splitter = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = splitter
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = type(splitter[1]).alphabet()
    bpe = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(texts, bpe)
    inner.model.save(str(folder.parent))
    tokenizer = Qwen2Tokenizer(vocab=str(folder.parent / "vocab.json"), merges=str(folder.parent / "merges.txt"))
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    policy = Qwen2ForCausalLM(config)
    policy.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0)
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def stand_ins(folder: Path, kind: str) -> list[str]:
    """Folders like SmolTalk, UltraFeedback, Qwen2.5 and an encoder, and the overrides that name them."""

    def preferences(count: int, seed: int) -> list[dict]:
        return [
            {
                "prompt": row["prompt"][0]["content"],
                "prompt_id": str(number),
                "score_chosen": 8.0,
                "score_rejected": 5.0,
                **{side: row["prompt"] + row[side] for side in ("chosen", "rejected")},
            }
            for number, row in enumerate(pairs(count, seed, longest=8))
        ]

    talks = [{"messages": row[side], "source": "x"} for row in preferences(64, 1) for side in ("chosen", "rejected")]
    splits = {
        "talks/data/all/train-00000-of-00001": talks,
        "pairs/data/train_prefs-00000-of-00001": preferences(96, 2),
        "pairs/data/test_prefs-00000-of-00001": preferences(12, 3),
    }
    for name, rows in splits.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{name}.parquet")
    texts = [message["content"] for talk in talks for message in talk["messages"]]
    return [
        f"model.name={policy_folder(folder / 'qwen', texts)}",
        f"reward={kind}",
        f"reward.base={folder_of(kind, folder / kind)}",
        f"data.demonstrations_name={folder / 'talks'}",
        f"data.preferences_name={folder / 'pairs'}",
        f"runs_dir={folder / 'runs'}",
    ]


SMALL = (
    *("hardware=cpu", "max_completion_length=16", "evaluation.samples=2"),
    *under("stages.sft", "batch_size=16 args.num_train_epochs=4 args.learning_rate=1e-2 args.logging_steps=1"),
    *under("stages.reward", "batch_size=8 held_out=24 args.num_train_epochs=6 args.learning_rate=3e-3"),
    *under("stages.reward.args", "lr_scheduler_type=constant"),
    *under("stages.rloo", "prompts_per_step=8 args.num_generations=4 args.max_steps=3 args.learning_rate=1e-3"),
    *under("stages.dpo", "batch_size=16 args.learning_rate=1e-3 args.logging_steps=1"),
)


def finish(stages: list[Stage]) -> None:
    """Run what is not there yet, in this process."""
    for stage in stages:
        if stage.state != "finished":
            finished(stage)


@dataclass
class Pipeline:
    """A command line and what it left; `last` holds the last batch that RLOO logged."""

    overrides: list[str]
    stages: dict[str, Stage]
    last: dict[str, Any] = field(default_factory=dict)

    def weights(self, method: str) -> dict:
        return load_file(self.stages[method].folder / "model" / "model.safetensors")


@pytest.fixture(scope="module", params=[("deberta", "none"), ("distilbert", "lora")], ids=lambda param: "+".join(param))
def pipeline(request, tmp_path_factory):
    """`method=rloo reward=KIND`, finished."""
    kind, adapter = request.param
    folder = tmp_path_factory.mktemp(kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        given = [*stand_ins(folder, kind), *SMALL, f"adapter={adapter}"]
        found = Pipeline(given, {stage.method: stage for stage in planned("method=rloo", *given)})
        fit = on_policy.fit

        def watched(trainer, *rest):
            metrics = fit(trainer, *rest)
            found.last.update(trainer._logs)
            return metrics

        patch.setattr(on_policy, "fit", watched)
        finish(list(found.stages.values()))
        yield found


def test_supervised_tuning_reward_model_and_rloo_come_in_this_order(pipeline):
    assert list(pipeline.stages) == ["sft", "reward", "rloo"]
    assert {stage.state for stage in pipeline.stages.values()} == {"finished"}


def test_supervised_tuning_learns_the_demonstrations(pipeline):
    losses = [line["loss"] for line in run_folder.read_jsonl(pipeline.stages["sft"].folder / "metrics.jsonl") if "loss" in line]
    assert losses[-1] < 0.95 * losses[0]


def test_the_reward_model_tells_held_out_pairs_apart(pipeline):
    found = run_folder.read_json(pipeline.stages["reward"].folder / "metrics.json")["pairs"]
    assert found["n"] >= 24
    assert found["pair_accuracy"]["mean"] > 0.8


def test_rloo_starts_from_the_tuned_policy_and_changes_it(pipeline):
    assert pipeline.stages["rloo"].config["init"] == str(pipeline.stages["sft"].folder)
    before, after = pipeline.weights("sft"), pipeline.weights("rloo")
    assert before.keys() == after.keys()
    changed = {name for name in before if not before[name].equal(after[name])}
    lora = "target_modules" in pipeline.stages["rloo"].config["adapter"]
    assert "model.layers.0.self_attn.q_proj.weight" in changed
    assert ("model.embed_tokens.weight" in changed) is not lora, "an adapter leaves the embeddings alone"
    assert (pipeline.stages["rloo"].folder / "adapter").is_dir() is lora


def test_rewards_are_finite_and_differ(pipeline):
    lines = [line for line in run_folder.read_jsonl(pipeline.stages["rloo"].folder / "metrics.jsonl") if "reward" in line]
    assert len(lines) == 3
    assert all(math.isfinite(line["reward"]) and line["reward_std"] > 0 for line in lines)
    assert all(line["groups_without_variance"] < 1 for line in lines)


def test_what_rloo_logs_is_what_the_saved_reward_model_says(pipeline):
    folder = pipeline.stages["reward"].folder
    model = RewardModel.from_run(folder)
    prompts, completions = (list(pipeline.last[key]) for key in ("prompt", "completion"))
    expected = model.score(prompts, [completion[-1]["content"] for completion in completions])
    (logged,) = pipeline.last["rewards"].values()
    assert len(expected) == 32 and len(set(expected)) > 1
    assert list(logged) == pytest.approx(expected, abs=1e-4)
    line = [line for line in run_folder.read_jsonl(pipeline.stages["rloo"].folder / "metrics.jsonl") if "reward" in line][-1]
    assert line["reward"] == pytest.approx(sum(expected) / 32, abs=1e-4)


def test_a_comparison_adds_dpo_reuses_the_rest_and_is_judged_by_the_reward_model(pipeline):
    policies = 'method.policies={sft: ["method=sft"], dpo: ["method=dpo"], rloo: ["method=rloo"]}'
    stages = planned("method=compare", policies, "method.reward=${reward}", *pipeline.overrides)
    assert {stage.method for stage in stages if stage.state == "missing"} == {"dpo", "compare"}
    finish(stages)
    made = {stage.method: stage for stage in stages}
    margins = [
        line["rewards/margins"] for line in run_folder.read_jsonl(made["dpo"].folder / "metrics.jsonl") if "loss" in line
    ]
    assert margins[-1] > margins[0]
    metrics, kind = (run_folder.read_json(made["compare"].folder / "metrics.json"), made["reward"].config["reward"]["name"])
    assert list(metrics["policies"]) == ["sft", "dpo", "rloo"]
    assert all(found["n"] == 12 and math.isfinite(found[kind]["mean"]) for found in metrics["policies"].values())
    model, lines = (
        RewardModel.from_run(made["reward"].folder),
        run_folder.read_jsonl(made["compare"].folder / "samples.jsonl"),
    )
    answers = [(line["prompt"], text) for line in lines if line["policy"] == "rloo" for text, _ in line["samples"]]
    expected = model.score(*zip(*answers, strict=True))
    assert len(expected) == 12 * 2
    assert metrics["policies"]["rloo"][kind]["mean"] == pytest.approx(sum(expected) / 24, abs=1e-4)
    assert f"win_rate_over_sft/{kind}" in metrics["policies"]["dpo"]
