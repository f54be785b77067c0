"""Every recipe and every Hub name of conf/, on stand-ins with the Hub's files, columns and vocabulary sizes."""

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rehearsal.cache import pinned
from rehearsal.cases import CASES
from safetensors.torch import load_file

from qwen_align import run_folder
from qwen_align.config import component, groups
from qwen_align.stage import launch

TESTS = Path(__file__).parent.parent
OPTIONS = [f"{group}={option}" for group in ("model", "reward", "data") for option in groups.options(group)]
# Experiments without a Hub name, and tables of stages that other experiments have, which test_conf.py plans.
NEED_NOTHING = ("quickstart", "quickstart_instruct", "smoke", "tiny_instruction", "tiny_maths")
TABLES = ("study_instruction_table", "study_maths_table")
ENDS, PADS = 151645, 151643  # <|im_end|> and <|endoftext|> of Qwen2.5

pytestmark = pytest.mark.slow


@dataclass
class Rehearsal:
    """What the child process reports, and the run folders that it left."""

    home: Path
    runs: Path
    report: dict[str, Any]

    def folders(self, *methods: str) -> list[Path]:
        return sorted(path.parent for path in self.runs.glob("*/run.json") if read(path)["method"] in methods)

    def seen(self, method: str) -> dict[str, Any]:
        return {name: seen for name, seen in self.report["seen"].items() if name.startswith(f"{method}-")}


def read(path: Path) -> Any:
    return run_folder.read_json(path)


@pytest.fixture(scope="module")
def rehearsal() -> Iterator[Rehearsal]:
    """All cases, done; the folder is large and goes at the end."""
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        home, folder = Path(name) / "home", Path(name) / "out"
        folder.mkdir()
        around = launch.environment(component.construct(groups.read("hardware", "cpu")))
        path = os.pathsep.join((str(TESTS), os.environ.get("PYTHONPATH", "")))
        own = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        elsewhere = ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_MODULES_CACHE", "TRANSFORMERS_CACHE")
        done = subprocess.run(
            [sys.executable, "-m", "rehearsal.child", str(home), str(folder)], cwd=folder, capture_output=True, text=True,
            env={k: v for k, v in around.items() if k not in elsewhere} | own, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        print(done.stdout)
        yield Rehearsal(home, folder / "runs", read(folder / "report.json"))


def test_every_hub_name_of_conf_has_a_stand_in(rehearsal):
    named, built = pinned(), rehearsal.report["built"]
    assert len(named) > 10
    missing = sorted(named.keys() - set(built))
    assert not missing, f"conf/ names {', '.join(missing)}: add it to STAND_INS in tests/rehearsal/models.py or rows.py"
    assert not set(built) - named.keys(), "a stand-in that nothing names"


def test_every_experiment_is_a_case_and_every_method_runs_on_qwen(rehearsal):
    words = [word for case in CASES.values() for word in case]
    experiments = set(groups.options("experiment")) - {*NEED_NOTHING, *TABLES}
    assert {f"experiment={name}" for name in experiments} <= set(words)
    runs = [read(path) for path in rehearsal.runs.glob("*/run.json")]
    assert {run["method"] for run in runs if run["choices"]["model"] == "qwen2.5_0.5b"} == set(groups.options("method"))
    assert {run["choices"]["adapter"] for run in runs} == set(groups.options("adapter"))


@pytest.mark.parametrize("name", CASES)
def test_the_program_ends_well_and_says_no_traceback(rehearsal, name):
    found = rehearsal.report["cases"][name]
    assert found["code"] == 0, found["errors"][-2000:]
    assert "Traceback" not in found["errors"]
    assert "\nnext:   python -m qwen_align" in found["out"]


def test_every_stage_is_finished(rehearsal):
    states = {path.parent.name: read(path)["state"] for path in rehearsal.runs.glob("*/run.json")}
    assert len(states) > 12
    assert set(states.values()) == {"finished"}, states


def test_training_takes_two_steps_with_losses_and_rewards_that_are_numbers(rehearsal):
    folders = rehearsal.folders("sft", "dpo", "reward", "rloo")
    for folder in folders:
        lines = [line for line in run_folder.read_jsonl(folder / "metrics.jsonl") if "grad_norm" in line]
        assert [line["step"] for line in lines] == [1, 2], folder
        names = {"loss", "grad_norm"} | ({"reward", "kl"} if folder.name.startswith("rloo") else set())
        assert all(math.isfinite(line[key]) for line in lines for key in names & line.keys()), folder
        assert names - {"kl"} <= lines[0].keys(), folder
        assert read(folder / "metrics.json")["train"]["steps"] == 2
    assert {folder.name.split("-")[0] for folder in folders} == {"sft", "dpo", "reward", "rloo"}


def test_a_saved_policy_keeps_its_vocabulary_and_stops_at_the_end_of_a_turn(rehearsal):
    folders = [path for path in rehearsal.folders("sft", "dpo", "rloo") if "smollm" not in path.name]
    assert len(folders) > 7
    for folder in folders:
        saved = folder / "model"
        assert read(saved / "tokenizer_config.json")["eos_token"] == "<|im_end|>"
        assert read(saved / "tokenizer_config.json")["pad_token"] == "<|endoftext|>"
        assert read(saved / "generation_config.json")["eos_token_id"] == [ENDS, PADS]
        assert "<|im_start|>" in (saved / "chat_template.jinja").read_text()
        assert load_file(saved / "model.safetensors")["model.embed_tokens.weight"].shape == (151936, 32)
    added = {token["content"]: token["id"] for token in read(folders[0] / "model" / "tokenizer.json")["added_tokens"]}
    assert (added["<|im_end|>"], added["<|endoftext|>"], max(added.values())) == (ENDS, PADS, 151664)


def test_every_assistant_turn_is_trained_with_its_stop_token(rehearsal):
    rows = [row for found in rehearsal.seen("sft").values() for row in found]
    assert all(row["trained"] == row["turns"] > 0 for row in rows)
    assert {row["turns"] for row in rows} >= {1, 2, 3}
    assert all(row["ended"] in (row["trained"], row["trained"] - 1) for row in rows)
    for name, found in rehearsal.seen("sft").items():
        limit = read_config(rehearsal.runs / name)["method"]["args"]["max_length"]
        whole = [row for row in found if row["tokens"] < limit]
        assert whole and all(row["ended"] == row["turns"] for row in whole), name


def read_config(folder: Path) -> Any:
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_a_stop_token_in_a_users_text_is_text(rehearsal):
    (found,) = (rows for name, rows in rehearsal.seen("sft").items() if "instruct" in name)
    assert sum(row["text"] for row in found) > 3


def test_a_reward_model_says_the_same_in_training_and_loaded_again(rehearsal):
    seen = rehearsal.seen("reward")
    assert len(seen) == 3
    for name, scores in seen.items():
        assert scores["loaded"] == pytest.approx(scores["trained"], abs=2e-5), name
        assert max(scores["loaded"]) - min(scores["loaded"]) > 100 * 2e-5, name


def test_the_revision_that_is_asked_for_is_loaded(rehearsal):
    commits = rehearsal.home / "hub/models--microsoft--deberta-v3-base/snapshots"
    pin, main = pinned()["microsoft/deberta-v3-base"], (commits.parent / "refs" / "main").read_text()
    there = {
        "reward=deberta": load_file(commits / pin / "model.safetensors"),
        "reward=deberta reward.revision=main": torch.load(commits / main / "pytorch_model.bin", weights_only=True),
    }
    sums = {name: weights["deberta.embeddings.word_embeddings.weight"] for name, weights in there.items()}
    assert {name: rehearsal.report["options"][name]["embeddings"] for name in sums} == {
        name: pytest.approx(weight.float().abs().sum().item(), rel=1e-5) for name, weight in sums.items()
    }
    assert not torch.equal(*sums.values())


def test_a_pickle_is_said_aloud_and_safetensors_are_not(rehearsal):
    main = rehearsal.report["options"]["reward=deberta reward.revision=main"]["out"]
    study = rehearsal.report["cases"]["study_instruct"]["out"]
    assert "reward.base=microsoft/deberta-v3-base: no safetensors; pytorch_model.bin is a pickle" in main
    assert "reward.base" not in study
    assert "reward.folder=OpenAssistant/reward-model-deberta-v3-large-v2: no safetensors" in study


def test_every_policy_of_the_studys_table_is_judged(rehearsal):
    metrics = read(rehearsal.runs / "study_instruct" / "metrics.json")
    policies = ["sft", "dpo", "rloo_deberta", "rloo_siamese"]
    assert [name for name in metrics if name in policies] == policies
    assert all(math.isfinite(metrics[name]["openassistant"]) for name in policies)
    assert (rehearsal.runs / "study_instruct" / "reward.png").stat().st_size > 1000


def test_some_completions_end_at_the_stop_token_and_some_are_cut(rehearsal):
    shares = [
        policy["audit"]["ended_by_stop"]["mean"]
        for folder in rehearsal.folders("compare", "best_of_n")
        for policy in read(folder / "metrics.json")["policies"].values()
    ]
    assert len(shares) > 6 and max(shares) > 0 and min(shares) < 1, shares


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_loads(rehearsal, option):
    found = rehearsal.report["options"][option]
    assert "error" not in found, found["error"]


def test_policies_have_the_real_vocabulary_and_stop_at_the_end_of_a_turn(rehearsal):
    found = {name: rehearsal.report["options"][f"model={name}"] for name in groups.options("model")}
    assert (found["qwen2.5_0.5b"]["rows"], found["smollm2_135m"]["rows"]) == (151936, 49152)
    assert (found["qwen2.5_0.5b"]["ends"], found["smollm2_135m"]["ends"]) == ([ENDS, PADS], [2, 0])
    for name, one in found.items():
        assert (one["stop"], one["dtype"]) == ("<|im_end|>", "torch.float32"), name
        assert one["stops_in_talk"] == 3, f"{name}: one a message, none from the user's text"


@pytest.mark.parametrize("name", ["qwen2.5_0.5b", "smollm2_135m"])
def test_a_tokenizer_reads_as_the_published_one(rehearsal, name):
    assert rehearsal.report["options"][f"model={name}"]["as_published"]


def test_reward_models_have_the_real_vocabulary_and_tell_texts_apart(rehearsal):
    sizes = {"deberta": 128100, "distilbert": 30522, "siamese_distilbert": 30522, "minilm": 30522}
    for name, size in sizes.items():
        found = rehearsal.report["options"][f"reward={name}"]
        assert found["rows"] == size, name
        assert abs(found["scores"][0] - found["scores"][1]) > 1e-4, name


def test_data_sets_have_the_rows_of_their_pinned_commit_and_the_columns_of_their_views(rehearsal):
    found = {name: rehearsal.report["options"][f"data={name}"] for name in groups.options("data")}
    assert found["gsm8k"]["demonstrations"]["rows"] == 32, "main has 16"
    assert all(view["rows"] > 0 for name in found for key, view in found[name].items() if key != "out")
    assert set(found["instruct"]) == {"demonstrations", "preferences", "prompts", "evaluation", "out"}
    assert {"prompt", "chosen", "rejected"} <= set(found["hh_rlhf"]["preferences"]["columns"])
    for reason in ("ends with an empty message", "the evaluation view asks the same", "are the same", "no higher than"):
        assert reason in found["instruct"]["out"], reason


def test_answers_that_were_written_down_are_measured_again_with_the_same_result(rehearsal):
    found = [read(folder / "metrics.json") for folder in rehearsal.folders("evaluate")]
    assert len(found) == 2
    first, again = (metrics["evaluation"] for metrics in found)
    assert (first["n"], first["samples"]) == (again["n"], again["samples"]) == (2, 2)
    assert first["pass@1"] == again["pass@1"]
