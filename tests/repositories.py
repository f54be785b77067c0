"""Small repositories in the layout of the Hub's cache, with the file names that the real ones have."""

import json
import struct
from pathlib import Path

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
QWEN, DEBERTA = "Qwen/Qwen2.5-0.5B", "microsoft/deberta-v3-base"
SMOLTALK, ULTRAFEEDBACK = "HuggingFaceTB/smoltalk", "HuggingFaceH4/ultrafeedback_binarized"


def use_cache(monkeypatch: pytest.MonkeyPatch, home: Path, offline: bool = True) -> Path:
    """Make `home` what HF_HOME would: huggingface_hub reads the environment when it is imported."""
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    return home


def safetensors(values: int = 4) -> bytes:
    """A file of one tensor."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * values)


def fill(folder: Path, **files: bytes | str) -> Path:
    """Files whose names have no dot but a double underscore: config__json is config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def snapshot(home: Path, name: str, kind: str = "model", sha: str = COMMIT, **files: bytes | str) -> Path:
    """A commit that main stands for: links to blobs, as a download leaves them."""
    repository = home / "hub" / f"{kind}s--{name.replace('/', '--')}"
    fill(repository / "refs", main=sha)
    blobs, folder = fill(repository / "blobs", **files), repository / "snapshots" / sha
    folder.mkdir(parents=True)
    for blob in blobs.iterdir():
        (folder / blob.name).symlink_to(blob)
    return folder


def prepared(home: Path, name: str, config: str, *splits: str) -> Path:
    """What `datasets` leaves in its own cache."""
    owner, short = name.split("/")
    folder = home / "datasets" / f"{owner}___{short}" / config / "0.0.0" / COMMIT
    known = {split: {"name": split, "num_examples": 1, "dataset_name": short} for split in splits}
    info = {"dataset_name": short, "config_name": config, "splits": known}
    fill(folder, dataset_info__json=json.dumps(info))
    for split in splits:
        (folder / f"{short}-{split}.arrow").write_bytes(b"rows")
    return folder


def of_the_study(home: Path) -> dict[str, Path]:
    """All that method=rloo reward=deberta loads: name -> the folder of its files."""
    own = {"config__json": "{}", "tokenizer_config__json": "{}"}
    return {
        QWEN: snapshot(home, QWEN, **own, model__safetensors=safetensors(), tokenizer__json="{}"),
        DEBERTA: snapshot(home, DEBERTA, **own, pytorch_model__bin=b"\x80\x02", spm__model=b"spm"),
        SMOLTALK: prepared(home, SMOLTALK, "all", "train", "test"),
        ULTRAFEEDBACK: prepared(home, ULTRAFEEDBACK, "default", "train_prefs", "test_prefs"),
    }
