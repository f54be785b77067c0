"""What all tests share: an environment without a network, and the program called in-process."""

import os
import tempfile

os.environ |= {"HF_DATASETS_CACHE": tempfile.mkdtemp(prefix="qwen_align-tests-")}
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ.pop("WANDB_MODE", None)

import atexit
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from qwen_align import __main__ as program
from qwen_align.config import groups
from qwen_align.stage.plan import Stage

atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test of the shared chain is slow; files with slow tests go first, so that both processes of make test end together."""
    for item in items:
        if "smoke_chain" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that relative folders such as runs/ are the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(*overrides: str) -> list[Stage]:
    """The plan of a command line, nothing started."""
    GlobalHydra.instance().clear()
    return program.planned(list(overrides))


@pytest.fixture
def stages_of(in_empty_folder: Path) -> Callable[..., list[Stage]]:
    """stages_of("method=rloo", ...): the plan of a command line, with runs/ in an empty folder."""
    return planned


@pytest.fixture(scope="session")
def smoke_chain(tmp_path_factory: pytest.TempPathFactory) -> list[Stage]:
    """The stages of experiment=smoke, finished: sft, rloo, best_of_n. One chain for all tests that only read."""
    from trained import finished

    stages = planned("experiment=smoke", f"runs_dir={tmp_path_factory.mktemp('smoke')}")
    for stage in stages:
        finished(stage)
    return stages


@pytest.fixture(scope="session")
def default_fingerprint() -> str:
    """Of SFT on Countdown with nothing else said."""
    return planned("data=countdown")[0].fingerprint


@pytest.fixture
def run_main(
    in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """run_main("method=rloo", ...): exit code, stdout and stderr of the program, called in-process."""

    def call(*words: str) -> tuple[int, str, str]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(groups, "extra", [])
        monkeypatch.setattr(sys, "argv", ["qwen_align", *words])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        capsys.readouterr()
        try:
            code = program.main()
        except SystemExit as end:  # how Hydra ends --help
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return call
