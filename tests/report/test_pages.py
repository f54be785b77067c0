"""The files of a report: where they go, and what they do without."""

import re
import subprocess
import sys

import pytest
from run_folders import around, chain, headings, lines, page, stage, trained

from qwen_align import run_folder
from qwen_align.report import pages
from qwen_align.stage.plan import Stage

pytestmark = pytest.mark.usefixtures("undrawn")


def test_the_quickstart_has_its_metrics_in_a_fixed_place(quickstart):
    found = run_folder.read_json(quickstart / "metrics.json")
    assert found["sft"] == {"greedy": 0.39, "pass@1": 0.24, "best_of_16": 0.89, "n": 1000}
    assert found["rloo"] == {"greedy": 0.43, "pass@1": 0.34, "best_of_16": 0.79, "n": 1000}
    (pair,) = found["differences"]
    assert (pair["after"], pair["before"], pair["metrics"]["pass@1"]) == ("rloo", "sft", around(0.1))
    assert found["seconds"] == 181.5


def test_a_run_folder_keeps_its_own_metrics(tmp_path):
    stages = chain(tmp_path)
    before = (stages[-1].folder / "metrics.json").read_bytes()
    pages.write(stages[-1].folder, stages)
    assert (stages[-1].folder / "metrics.json").read_bytes() == before
    assert (stages[-1].folder / "report.html").is_file()


def test_a_job_that_is_named_like_another_run_folder_does_not_overwrite_its_metrics(tmp_path):
    other = trained(tmp_path / "other", "sft", [])
    before = (other.folder / "metrics.json").read_bytes()
    pages.write(other.folder, chain(tmp_path))
    assert (other.folder / "metrics.json").read_bytes() == before


def test_nothing_says_where_this_machine_keeps_its_files(quickstart):
    assert str(quickstart.parent) not in page(quickstart) + page(quickstart, "report.html")


def test_plots_are_images(quickstart):
    plots = [quickstart / name for name in ("best_of_n.png", "reward.png", "loss.png")]
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000 for path in plots)


def test_links_and_plots_of_the_markdown_page_lead_somewhere(quickstart):
    targets = re.findall(r"\]\(([^)]*)\)", page(quickstart))
    assert len(targets) == 6
    assert all((quickstart / target).exists() for target in targets)


@pytest.mark.parametrize("logs", [False, True])
def test_without_metrics_logs_and_samples_the_rest_remains(tmp_path, logs):
    sft = stage(tmp_path, "sft", {})
    for name in ("metrics.jsonl", "samples.jsonl") if logs else ():
        lines(sft, name, [])
    pages.write(tmp_path / "job", [sft])
    assert headings(tmp_path / "job") == ["Stages", "Provenance", "How to read the numbers"]
    assert not list((tmp_path / "job").glob("*.png"))


def test_an_empty_run_folder_gives_a_report(tmp_path):
    pages.write(tmp_path / "job", [Stage("sft", {}, tmp_path / "sft", "0", {})])
    assert "missing" in page(tmp_path / "job")


def test_the_plots_of_an_earlier_job_do_not_stay(tmp_path):
    stages = chain(tmp_path)
    pages.write(tmp_path / "job", stages)
    pages.write(tmp_path / "job", stages[:1])
    left = sorted(path.name for path in (tmp_path / "job").iterdir())
    assert left == ["best_of_n.png", "loss.png", "metrics.json", "report.html", "report.md"]


def test_writing_a_report_imports_no_torch(tmp_path):
    stages = chain(tmp_path)
    job, run = repr(str(tmp_path / "job")), repr(str(stages[-1].folder))
    code = (
        "import sys; from pathlib import Path; from qwen_align.report import pages; from qwen_align.stage.plan import Stage\n"
        "early = {'matplotlib', 'jinja2', 'numpy', 'scipy'} & set(sys.modules)\n"
        f"pages.write(Path({job}), [Stage('best_of_n', {{}}, Path({run}), '', {{}})])\n"
        "late = {'torch', 'transformers', 'trl', 'datasets', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "assert not early | late, (early, late)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
