"""Reward models from pairs: what trains is what scores, and held-out pairs tell whether it is worth anything."""

import json
from dataclasses import asdict

import pytest
import torch
from datasets import Dataset
from encoders import KINDS, node_of, pairs
from processes import resumes_exactly
from trained import finished

from qwen_align import run_folder
from qwen_align.config import job
from qwen_align.data import Data
from qwen_align.errors import ConfigError
from qwen_align.method import pairs as pair_rows
from qwen_align.method import reward
from qwen_align.reward import Reward
from qwen_align.reward.model import Loaded, RewardModel

pytestmark = pytest.mark.slow

LORA = {"_target_": "peft.LoraConfig", "r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


class Pairs:
    """A data set of these preference rows."""

    def __init__(self, rows):
        self.rows = rows

    def preferences(self):
        return Dataset.from_list(self.rows)


@pytest.fixture
def config(tmp_path, stages_of):
    """Of a stage that trains for two steps on the CPU."""
    rows = tmp_path / "pairs.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in pairs(8)))
    words = ["method=reward", "reward=distilbert_tiny", "data=local", f"data.preferences_path={rows}", "hardware=cpu"]
    found = stages_of(*words, f"runs_dir={tmp_path}")[0].config
    found["method"]["batch_size"] = 8
    found["method"]["args"] |= {"max_steps": 2, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    return found


def tiny(**settings):
    """The node of a reward model with random weights."""
    base = {"model_type": "distilbert", "dim": 32, "n_heads": 2, "n_layers": 1, "hidden_dim": 32}
    return {"_target_": "qwen_align.reward.model.RewardModel", "base": base, "name": "tiny", "max_length": 64, **settings}


def built(config, folder, node, rows, held):
    model = reward.build(node)
    config["reward"] = node
    parts = Dataset.from_list(rows), Dataset.from_list(held)
    return model, *reward.trainer_of(job.read("reward", config), folder, model, parts)


def trained(config, rows, folder):
    return reward.train(job.read("reward", config), Data(Pairs(rows)), folder)


def in_trainer(trainer):
    """Scores of the held-out pairs in the trainer's own evaluation, chosen and rejected in turn."""
    found = []
    for batch in trainer.get_eval_dataloader():
        _, logits, _ = trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
        found += [side for pair in zip(*logits.squeeze(-1).chunk(2), strict=True) for side in map(float, pair)]
    return found


def in_rloo(scorer, held):
    """The same through TRL's callable, completions as messages."""
    prompts = [row["prompt"] for row in held for _ in range(2)]
    return Reward("rm", scorer).trl()(prompts=prompts, completions=[row[s] for row in held for s in ("chosen", "rejected")])


def in_best_of_n(scorer, held):
    """The same as whoever scores texts asks for it."""
    texts = [row[side][-1]["content"] for row in held for side in ("chosen", "rejected")]
    return Reward("rm", scorer).score([row["prompt"] for row in held for _ in range(2)], texts, {})


@pytest.mark.parametrize(
    ("kind", "adapter"),
    [(kind, None) for kind in KINDS] + [(kind, LORA) for kind in ("deberta", "distilbert", "siamese", "bert")],
)
def test_a_pair_has_one_score_in_the_trainer_in_rloo_and_in_best_of_n_before_and_after_saving(kind, adapter, config, tmp_path):
    held = pairs(100, seed=1, longest=40)  # 200 texts, some of them truncated
    config["adapter"] = dict(adapter) if adapter else {"_target_": "qwen_align.model.no_adapter"}
    model, trainer, counts = built(config, tmp_path, node_of(kind, tmp_path / "base"), pairs(16), held)
    assert counts["held_out"]["truncated"] > 10
    trainer.train()
    network = trainer.model.eval()
    for name, parameter in network.named_parameters():
        if "classifier" in name:
            parameter.data *= 20  # so that scores spread, and 1e-4 means something
    expected = in_trainer(trainer)
    assert len(expected) == 200 and max(expected) - min(expected) > 0.1

    score = RewardModel(folder="in memory", name=kind)
    score._loaded = Loaded(network, trainer.data_collator.args[0], 0.0)
    for way in (in_rloo, in_best_of_n):
        assert way(score, held) == pytest.approx(expected, abs=1e-4)

    reward.save(model, network, trainer.processing_class, tmp_path / "model")
    for way in (in_rloo, in_best_of_n):
        assert way(RewardModel.from_run(tmp_path), held) == pytest.approx(expected, abs=1e-4)


def test_a_tokenizer_that_reads_otherwise_once_it_is_saved_is_an_error(config, tmp_path, monkeypatch):
    model, trainer, _ = built(config, tmp_path, node_of("bert", tmp_path / "base"), pairs(8), pairs(2))
    other = type(trainer.processing_class).from_pretrained(tmp_path / "base", do_lower_case=False)
    monkeypatch.setattr(reward, "saved_tokenizer", lambda folder: other)
    probes = [[*row["prompt"], {"role": "assistant", "content": "Red"}] for row in pairs(2)]
    with pytest.raises(RuntimeError, match="reads pairs otherwise"):
        reward.save(model, trainer.model, trainer.processing_class, tmp_path / "model", probes)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_trains_the_head_too_and_nothing_else_of_the_network(kind, config, tmp_path):
    config["adapter"] = dict(LORA)
    _, trainer, _ = built(config, tmp_path, node_of(kind, tmp_path / "base"), pairs(16), pairs(2))
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in trained)
    whole = {name for name in trained if "lora_" not in name}
    head = {"deberta": {"pooler", "classifier"}, "minilm": {"classifier"}}.get(kind, {"pre_classifier", "classifier"})
    assert {name.split(".modules_to_save")[0].rpartition(".")[2] for name in whole} <= head | {"dense"}
    assert all(any(f".{part}." in name for name in whole) for part in head)


@pytest.mark.parametrize("node", [tiny(), tiny(architecture="siamese")], ids=["pair", "siamese"])
def test_it_learns_which_word_is_preferred(node, config, tmp_path):
    config["reward"] = node
    config["method"]["args"] |= {"max_steps": 40, "learning_rate": 5e-3}
    metrics = trained(config, pairs(200), tmp_path)
    assert metrics["headline"]["mean"] > 0.9
    found = metrics["pairs"]
    assert metrics["headline"] == {"name": "pair_accuracy", "policy": None, "n": 20, **asdict(found["pair_accuracy"])}
    assert found["margin"].low > 0
    assert 0.2 < found["length_baseline"].mean < 0.8
    assert run_folder.read_json(tmp_path / "run.json")["data"]["preferences"]["rows"] == 200


def test_held_out_pairs_share_no_question_with_training_pairs():
    rows = Dataset.from_list([row for seed in range(5) for row in pairs(40, seed=0) + pairs(3, seed=seed)])
    train, held = pair_rows.split(rows, 0.2)
    assert len(train) + len(held) == len(rows) and len(held) >= 0.2 * len(rows)
    assert not {pair_rows.question(p) for p in train["prompt"]} & {pair_rows.question(p) for p in held["prompt"]}


def test_conversations_that_begin_with_one_question_stay_together():
    first = [{"role": "user", "content": "How do I  sail?"}]
    longer = [{"role": "user", "content": "how do I sail"}, {"role": "assistant", "content": "So."}, *first]
    assert pair_rows.question(first) == pair_rows.question(longer) == pair_rows.question("How do I sail!")
    assert pair_rows.question("???") != pair_rows.question("!!!"), "signs alone are a question too"


def test_a_number_of_pairs_can_be_held_out():
    assert len(pair_rows.split(Dataset.from_list(pairs(50)), 10)[1]) == 10


@pytest.mark.parametrize("held_out", [0, -0.5, 50, 0.999])
def test_nothing_to_train_on_or_nothing_to_measure_with_is_refused(held_out):
    with pytest.raises(ConfigError, match=f"method.held_out={held_out}: .* of 50 pairs"):
        pair_rows.split(Dataset.from_list(pairs(50)), held_out)


def test_over_long_pairs_are_counted_and_none_is_dropped(config, tmp_path, capsys):
    rows = pairs(12)
    for row in rows[:5]:
        row["chosen"][0]["content"] = "good " * 300
    for row in rows[:2]:
        row["rejected"][0]["content"] = "good " * 300 + "bad"
    _, trainer, counts = built(config, tmp_path, tiny(), rows, pairs(2))
    assert counts["training"] == {"pairs": 12, "truncated": 5, "same_tokens": 2}
    assert len(trainer.train_dataset) == 12
    assert "5 of 12 training pairs are longer than max_length=64 and are truncated; in 2" in capsys.readouterr().out


def loss_of(trainer):
    batch = next(iter(trainer.get_eval_dataloader()))
    loss, logits, _ = trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
    chosen, rejected = logits.squeeze(-1).chunk(2)
    return float(loss), chosen - rejected


@pytest.mark.parametrize("kind", KINDS)
def test_the_margin_is_what_chosen_has_to_win_by(kind, config, tmp_path):
    held = [row | {"margin": 2.0 + i} for i, row in enumerate(pairs(4))]
    _, trainer, _ = built(config, tmp_path, node_of(kind, tmp_path / "base"), held, held)
    loss, gap = loss_of(trainer)
    expected = torch.nn.functional.softplus(-(gap - torch.tensor([2.0, 3.0, 4.0, 5.0]))).mean()
    assert loss == pytest.approx(float(expected), abs=1e-5)
    config["method"]["margin"] = None
    _, trainer, _ = built(config, tmp_path, node_of(kind, tmp_path / "base"), held, held)
    loss, gap = loss_of(trainer)
    assert loss == pytest.approx(float(torch.nn.functional.softplus(-gap).mean()), abs=1e-5)


@pytest.mark.parametrize("value", [None, float("nan"), "much"])
def test_a_margin_that_is_no_number_is_refused(value):
    rows = Dataset.from_dict({"margin": [value, value]})
    with pytest.raises(ConfigError, match=r"method.margin=margin: pair 1 has"):
        pair_rows.has_margins(rows, "margin")


def test_label_smoothing_is_the_mean_over_both_labels(config, tmp_path):
    config["method"]["label_smoothing"] = 0.2
    config["method"]["args"]["center_rewards_coefficient"] = None
    _, trainer, _ = built(config, tmp_path, tiny(), pairs(8), pairs(4))
    loss, gap = loss_of(trainer)
    softplus = torch.nn.functional.softplus
    assert loss == pytest.approx(float((0.8 * softplus(-gap) + 0.2 * softplus(gap)).mean()), abs=1e-6)


def test_centring_makes_the_mean_score_of_the_training_pairs_zero(config, tmp_path):
    config["reward"] = tiny()
    config["method"]["center_scores"] = True
    rows = pairs(40)
    trained(config, rows, tmp_path)
    train, _ = pair_rows.split(Dataset.from_list(rows), config["method"]["held_out"])
    scorer = RewardModel.from_run(tmp_path)
    assert run_folder.read_json(tmp_path / "model" / "reward.json")["offset"] != 0
    scores = in_best_of_n(scorer, train)
    assert sum(scores) / len(scores) == pytest.approx(0.0, abs=1e-5)


def test_a_model_that_tells_nothing_apart_says_so(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reward, "_COLLAPSED", 1e9)
    config["reward"] = tiny()
    metrics = trained(config, pairs(40), tmp_path)
    assert [warning["kind"] for warning in metrics["train"]["warnings"]] == ["collapsed"]
    assert "it has collapsed and can drive nothing" in capsys.readouterr().out


def test_what_is_no_reward_model_is_refused():
    with pytest.raises(ConfigError, match="trains one reward model"):
        reward.build({"_target_": "qwen_align.reward.length.LengthReward"})


@pytest.mark.parametrize("option", ["deberta_tiny", "siamese_tiny"])
def test_a_resume_in_the_second_epoch_is_exact(option, tmp_path, stages_of):
    rows = tmp_path / "pairs.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in pairs(60)))
    words = [
        "method=reward", f"reward={option}", "data=local", f"data.preferences_path={rows}", f"runs_dir={tmp_path}",
        "hardware=cpu", "method.batch_size=8", "method.args.max_steps=11", "method.args.save_steps=9", "checkpoints.keep=2",
        "method.args.learning_rate=1e-3", "method.args.logging_steps=1",
    ]  # fmt: skip
    (stage,) = stages_of(*words)
    finished(stage)
    metrics = run_folder.read_json(stage.folder / "metrics.json")
    assert resumes_exactly(stage.folder, "checkpoint-9"), "seven steps are an epoch"
    assert run_folder.read_json(stage.folder / "metrics.json")["pairs"] == metrics["pairs"]
