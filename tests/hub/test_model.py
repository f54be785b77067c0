"""What a model lacks, in a folder, in the cache and on the Hub: one line, and no question where nothing is missing."""

import json
import sys
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import RevisionNotFoundError
from repositories import COMMIT, fill, safetensors, snapshot, use_cache

from qwen_align.errors import ConfigError
from qwen_align.hub import model
from qwen_align.hub.model import Model, packaged

WHOLE = {"config__json": "{}", "model__safetensors": safetensors(), "tokenizer__json": "{}"}
NAME = "org/name"


@pytest.fixture
def home(tmp_path, monkeypatch):
    return use_cache(monkeypatch, tmp_path / "home")


@pytest.fixture
def hub(home, monkeypatch):
    """The Hub as it answers: `hub.files`, or `hub.error`; `hub.asked` counts."""
    state = SimpleNamespace(files=[], error=None, asked=[])

    class Api:
        def model_info(self, name, revision, timeout):
            state.asked.append((name, revision, timeout))
            if state.error:
                raise state.error
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in state.files])

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return state


def refused(wanted: Model) -> str:
    with pytest.raises(ConfigError) as caught:
        model.require(wanted)
    error = str(caught.value)
    assert error.startswith(f"{wanted.key}={wanted.name}: ")
    assert "\n" not in error
    return error


def wanted(name: str = NAME, **settings) -> Model:
    return Model("model.name", name, **{"advice": "take another", **settings})


def test_a_whole_model_in_the_cache_is_not_asked_for(home, hub):
    snapshot(home, NAME, **WHOLE)
    assert model.require(wanted()) is None
    assert model.require(wanted(revision=COMMIT)) is None
    assert hub.asked == []


@pytest.mark.parametrize(
    ("file", "missing"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "weights (model.safetensors or pytorch_model.bin)"),
        ("tokenizer.json", "tokenizer (tokenizer.json, spm.model, vocab.txt, vocab.json with merges.txt)"),
    ],
)
def test_a_file_that_the_cache_lacks_is_named_offline(home, file, missing):
    (snapshot(home, NAME, **WHOLE) / file).unlink()
    line = refused(wanted())
    assert f"the cache has no {missing} of it" in line
    assert line.endswith("offline, take another")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_link_to_nothing_is_no_file(home, file):
    folder = snapshot(home, NAME, **WHOLE)
    (folder / file).resolve().unlink()
    assert (folder / file).is_symlink()
    assert "the cache has no " in refused(wanted())


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", b""),
        ("config.json", b"{"),
        ("model.safetensors", b""),
        ("model.safetensors", safetensors()[:-1]),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    ],
    ids=["empty", "no JSON", "empty weights", "cut short", "Git LFS"],
)
def test_a_file_that_can_not_be_whole_is_named_with_its_folder(home, hub, file, content):
    folder = snapshot(home, NAME, **WHOLE)
    (folder / file).write_bytes(content)
    hub.files = ["config.json", "model.safetensors", "tokenizer.json"]
    assert f"{file} in {folder} is empty, cut short or a pointer of Git LFS; delete that folder" in refused(wanted())
    assert hub.asked == [], "the libraries would take the broken one all the same"


def test_a_broken_file_is_not_mended_by_what_the_hub_lists(home, hub):
    folder = snapshot(home, NAME, **WHOLE)
    (folder / "tokenizer.json").write_bytes(b"")
    (folder / "config.json").unlink()
    hub.files = ["config.json", "model.safetensors", "tokenizer.json"]
    assert f"tokenizer.json in {folder} is empty" in refused(wanted())
    assert len(hub.asked) == 1


def test_a_download_that_was_interrupted_is_no_file(home):
    folder = snapshot(home, NAME, **WHOLE)
    blob = (folder / "model.safetensors").resolve()
    half = blob.rename(blob.with_suffix(".incomplete"))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(half)
    assert "model.safetensors in " in refused(wanted())


def index(*shards: str) -> str:
    return json.dumps({"weight_map": {f"layer{i}": shard for i, shard in enumerate(shards)}})


def test_every_shard_that_the_index_names_has_to_be_there(home):
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    files = {name.replace(".", "__"): safetensors() for name in shards}
    files |= {"config__json": "{}", "tokenizer__json": "{}"}
    folder = snapshot(home, NAME, **files, **{"model__safetensors__index__json": index(*shards)})
    assert model.require(wanted()) is None
    (folder / shards[1]).unlink()
    assert f"the cache has no {shards[1]} of it" in refused(wanted())


def test_every_shard_has_to_be_listed_by_the_hub(hub):
    hub.files = ["config.json", "tokenizer.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"]
    assert "the Hub has no model-00002-of-00002.safetensors of it" in refused(wanted())
    hub.files.append("model-00002-of-00002.safetensors")
    assert model.require(wanted()) is None


def test_what_neither_has_is_not_in_the_cache(home):
    assert f"not in the cache ({home}/hub) at revision abc, and HF_HUB_OFFLINE forbids" in refused(wanted(revision="abc"))


def test_the_hub_is_asked_once_for_what_the_cache_lacks(home, hub):
    (snapshot(home, NAME, **WHOLE) / "tokenizer.json").unlink()
    hub.files = ["config.json", "model.safetensors", "tokenizer.json"]
    assert model.require(wanted(revision=COMMIT)) is None
    assert hub.asked == [(NAME, COMMIT, 10)]


def test_a_file_that_the_hub_lacks_is_named(hub):
    hub.files = ["config.json", "tokenizer.json"]
    assert "the Hub has no weights (model.safetensors or pytorch_model.bin) of it at revision abc" in refused(
        wanted(revision="abc")
    )


def test_a_revision_that_the_hub_lacks_is_named(hub):
    hub.error = RevisionNotFoundError("404", response=SimpleNamespace(headers={}, request=None))
    assert "the Hub has nothing at revision abc of it" in refused(wanted(revision="abc"))


def test_a_hub_that_can_not_be_reached_is_one_line(hub):
    hub.error = OSError("no route\nto host")
    assert refused(wanted()).endswith("not in the local cache, and the Hub cannot be reached; offline, take another")


def test_without_a_network_the_commit_that_the_cache_has_is_offered(home, hub):
    snapshot(home, NAME, **WHOLE)
    hub.error = OSError("no route")
    assert refused(wanted(revision="abc")).endswith(f"cannot be reached; HF_HUB_OFFLINE=1 takes {COMMIT}, which the cache has")


@pytest.mark.parametrize("name", ["my model", "./no/such/folder", "/no/such/folder"])
def test_a_name_that_can_be_neither_is_said(hub, name):
    assert "neither a folder nor a Hub name like org/name" in refused(wanted(name))
    assert hub.asked == []


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_local_folder_is_never_completed_from_the_hub(hub, tmp_path, file):
    folder = fill(tmp_path / "mine", **WHOLE)
    assert model.require(wanted(str(folder))) is None
    (folder / file).unlink()
    assert "that folder has no " in refused(wanted(str(folder)))
    assert hub.asked == []


def test_a_tokenizer_may_be_made_from_a_vocabulary(home):
    folder = snapshot(home, NAME, **WHOLE, vocab__json="{}", merges__txt="a b")
    (folder / "tokenizer.json").unlink()
    assert model.require(wanted()) is None
    (folder / "merges.txt").unlink()
    assert "the cache has no merges.txt of it" in refused(wanted())


def test_a_run_of_ours_has_its_tokenizer_as_it_was_saved(tmp_path):
    folder = fill(tmp_path / "model", **WHOLE, vocab__txt="a")
    (folder / "tokenizer.json").unlink()
    assert model.require(wanted(str(folder))) is None
    assert "that folder has no tokenizer.json" in refused(wanted(str(folder), saved=True))


def test_a_sentencepiece_model_needs_its_packages(home, monkeypatch):
    folder = snapshot(home, NAME, **WHOLE, spm__model=b"spm")
    (folder / "tokenizer.json").unlink()
    assert model.require(wanted()) is None
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    line = refused(wanted())
    assert "its tokenizer, spm.model, is read with the packages sentencepiece and protobuf (ModuleNotFoundError" in line
    assert line.endswith("pip install sentencepiece protobuf")


def test_own_code_may_bring_a_tokenizer_of_any_files(home):
    (snapshot(home, NAME, **WHOLE) / "tokenizer.json").unlink()
    assert model.require(wanted(own_code=True)) is None


def test_a_pickle_is_named_and_safetensors_come_first(home):
    folder = snapshot(home, NAME, **WHOLE, pytorch_model__bin=b"\x80\x02")
    assert model.require(wanted()) is None
    (folder / "model.safetensors").unlink()
    assert model.require(wanted()) == "pytorch_model.bin"
    assert "weights_only=True" in model.pickle_notice(wanted(), "pytorch_model.bin")


def test_a_pickle_that_is_cut_short_is_noticed(home):
    folder = snapshot(home, NAME, config__json="{}", tokenizer__json="{}", pytorch_model__bin=b"PK\x03\x04 and no end")
    assert f"pytorch_model.bin in {folder} is empty, cut short" in refused(wanted())


def test_an_adapter_is_left_to_what_loads_it(home):
    snapshot(home, NAME, adapter_config__json="{}", adapter_model__safetensors=safetensors())
    assert model.require(wanted()) is None


def test_a_package_without_a_model_is_refused():
    assert packaged("org/name") == "org/name"
    with pytest.raises(ConfigError, match="base=package:json: no such package with a model"):
        packaged("package:json")
    with pytest.raises(ConfigError, match="pip install"):
        packaged("package:no_minilm_here")
