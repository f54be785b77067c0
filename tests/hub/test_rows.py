"""What a data set lacks: as `datasets` prepared it, as it was downloaded, in a local folder, on the Hub."""

import json
from types import SimpleNamespace

import pytest
from datasets import Dataset
from datasets.naming import camelcase_to_snakecase
from repositories import fill, prepared, snapshot, use_cache

from qwen_align.errors import ConfigError
from qwen_align.hub import rows
from qwen_align.hub.rows import Source, load

NAME = "org/some_rows"


@pytest.fixture
def home(tmp_path, monkeypatch):
    return use_cache(monkeypatch, tmp_path / "home")


def source(name: str = NAME, *splits: str, **settings) -> Source:
    return Source("data.dataset_name", str(name), splits=splits, **settings)


def refused(wanted: Source) -> str:
    with pytest.raises(ConfigError) as caught:
        rows.require(wanted)
    error = str(caught.value)
    assert error.startswith(f"data.dataset_name={wanted.name}: ")
    assert "\n" not in error
    return error


def test_prepared_rows_are_enough_whatever_the_download_has(home):
    snapshot(home, NAME, "dataset", README__md="rows")
    prepared(home, NAME, "default", "train", "test")
    assert rows.require(source()) is None
    assert rows.require(source(NAME, "train", config="default")) is None


@pytest.mark.parametrize("broken", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")], ids=["gone", "empty"])
def test_a_prepared_split_without_its_file_is_named(home, broken):
    folder = prepared(home, NAME, "default", "train", "test")
    broken(folder / "some_rows-test.arrow")
    assert f"{folder} has no some_rows-test.arrow; delete that folder" in refused(source())
    assert rows.require(source(NAME, "train")) is None, "what nobody reads may be missing"


def test_every_part_of_a_prepared_split_has_to_be_there(home):
    folder = prepared(home, NAME, "default", "train")
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"]["train"]["shard_lengths"] = [5, 5]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for part in ("00000", "00001"):
        (folder / f"some_rows-train-{part}-of-00002.arrow").write_bytes(b"rows")
    assert rows.require(source()) is None
    (folder / "some_rows-train-00001-of-00002.arrow").unlink()
    assert "has no some_rows-train-00001-of-00002.arrow" in refused(source())


def test_a_split_that_was_never_prepared_is_named(home):
    prepared(home, NAME, "default", "train")
    assert "has no split test" in refused(source(NAME, "train", "test"))


def test_another_configuration_does_not_stand_in(home):
    prepared(home, NAME, "socratic", "train")
    assert "not in the cache" in refused(source(NAME, config="main"))


def test_the_folder_of_a_data_set_has_a_name_of_its_own(home):
    prepared(home, NAME, "default-data_dir=harmless-base", "train")
    assert rows.require(source(data_dir="harmless-base")) is None
    assert "not in the cache" in refused(source(data_dir="helpful-base"))


@pytest.mark.parametrize("name", ["Countdown-Tasks-3to4", "MATH500", "smolTalk", "a_b", "GSM8KPlus"])
def test_names_in_the_cache_are_those_of_datasets(name):
    assert rows._snake_case(name) == camelcase_to_snakecase(name)


def test_rows_that_are_nowhere_are_said_to_be(home):
    assert "not in the cache" in refused(source())
    snapshot(home, NAME, "dataset", README__md="rows")
    assert "the cache has no data file (Parquet, JSONL, CSV ...) of it" in refused(source())


def test_a_download_is_read_offline_without_having_been_prepared(home, tmp_path):
    Dataset.from_dict({"a": [1, 2, 3]}).to_parquet(tmp_path / "rows.parquet")
    part = (tmp_path / "rows.parquet").read_bytes()
    folder = snapshot(home, NAME, "dataset", **{"train-00000-of-00001__parquet": part})
    assert rows.require(source(NAME, "train")) is None
    assert load(source(NAME, "train"), "train", ("a",))["a"][:] == [1, 2, 3]
    assert rows.downloaded(source()) == folder


def test_a_part_that_was_not_downloaded_is_named(home):
    snapshot(home, NAME, "dataset", **{"train-00000-of-00002__parquet": b"PAR1"})
    assert "the cache has no train-00001-of-00002.parquet of it" in refused(source())


def test_a_split_without_a_file_in_a_local_folder_is_named(tmp_path):
    folder = fill(tmp_path / "mine", train_prefs__parquet=b"PAR1", test_prefs__parquet=b"PAR1")
    assert rows.require(source(folder, "train_prefs", "test_prefs")) is None
    (folder / "test_prefs.parquet").unlink()
    assert "that folder has no file of the split test_prefs" in refused(source(folder, "train_prefs", "test_prefs"))


def test_files_that_name_no_split_are_the_training_rows(tmp_path):
    folder = fill(tmp_path / "mine", rows__jsonl="{}")
    assert rows.require(source(folder, "train")) is None
    assert "file of the split test" in refused(source(folder, "train", "test"))
    fill(folder, test__jsonl="{}")
    assert "file of the split train" in refused(source(folder, "train"))


def test_a_card_that_maps_files_to_splits_is_believed(tmp_path):
    folder = fill(tmp_path / "mine", rows__jsonl="{}", README__md="---\nconfigs:\n- data_files:\n  - split: test\n---")
    assert rows.require(source(folder, "test")) is None


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n"], ids=["empty", "Git LFS"])
def test_a_file_that_can_not_be_whole_is_named(tmp_path, content):
    folder = fill(tmp_path / "mine", train__jsonl=content)
    assert f"train.jsonl in {folder} is empty, cut short or a pointer of Git LFS" in refused(source(folder, "train"))


def test_a_folder_without_rows_is_named(tmp_path):
    folder = fill(tmp_path / "mine", notes__md="nothing", dataset_infos__json="{}")
    assert "that folder has no data file" in refused(source(folder))
    (tmp_path / "mine" / "sub").mkdir()
    assert "data file in sub/" in refused(source(folder, data_dir="sub"))


def test_the_hub_is_asked_for_rows_that_are_not_here(home, monkeypatch):
    asked, files = [], ["README.md", "data/train-00000-of-00001.parquet"]

    class Api:
        def dataset_info(self, name, revision, timeout):
            asked.append(name)
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert rows.require(source(NAME, "train")) is None
    files.pop()
    assert "the Hub has no data file" in refused(source(NAME, "train"))
    assert asked == [NAME, NAME]
    prepared(home, NAME, "default", "train")
    assert rows.require(source(NAME, "train")) is None
    assert asked == [NAME, NAME]
