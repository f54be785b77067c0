"""What the tests of the report share."""

import pytest
from run_folders import chain

from qwen_align.report import pages, plot


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory):
    """The folder of a written report with its plots, to read only."""
    root = tmp_path_factory.mktemp("runs")
    pages.write(root / "quickstart", chain(root))
    return root / "quickstart"


@pytest.fixture
def undrawn(monkeypatch):
    """Drawing is most of the time, and only the tests of plots need it."""
    monkeypatch.setattr(plot, "draw", lambda path, panels: path.write_bytes(b""))
    monkeypatch.setattr(plot, "intervals", lambda path, title, rows: path.write_bytes(b""))
