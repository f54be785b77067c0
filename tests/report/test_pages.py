"""The report, on small hand-made run folders: what it claims, what it escapes, what it can do without."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qwen_align.report import pages, plot
from qwen_align.stage import run_folder
from qwen_align.stage.plan import Stage

DRAW = plot.draw
CHOICES = {"data": "countdown", "model": "countdown_tiny", "adapter": "none", "reward": "countdown"}


def interval(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def around(mean: float, half: float = 0.02) -> dict[str, float]:
    return interval(mean, mean - half, mean + half)


def summary(greedy: float, first: float, best: float) -> dict[str, Any]:
    steps = {n: around(first + (best - first) * i / 4) for i, n in enumerate((1, 2, 4, 8, 16))}
    curves = {f"{name}{n}": value for name in ("pass@", "best_of_") for n, value in steps.items()}
    return {"n": 1000, "samples": 16, "greedy": around(greedy), **curves, "wellformed": 0.98}


def stage(
    root: Path, method: str, metrics: dict[str, Any], parent: Stage | None = None, *,
    log: list[dict[str, float]] | None = None, samples: list[dict[str, Any]] | None = None, **manifest: Any,
) -> Stage:  # fmt: skip
    folder = root / f"{method}-countdown-countdown_tiny-00000000"
    facts = {"state": "finished", "seconds": 60.5, "started": 1_700_000_000, "versions": {"trl": "1.16.0"}}
    run_folder.write_json(folder / "run.json", facts | manifest)
    run_folder.write_json(folder / "metrics.json", metrics)
    for name, lines in (("metrics.jsonl", log), ("samples.jsonl", samples)):
        if lines is not None:
            run_folder.write_text(folder / name, "".join(json.dumps(line) + "\n" for line in lines))
    config = {"seed": 0, "init": "base", "method": {"reward": {}}, "hardware": {"device": "cpu"}}
    return Stage(method, config, folder, "0123456789abcdef", CHOICES, {"init": parent} if parent else {})


def trained(root: Path, method: str, log: list[dict[str, float]], parent: Stage | None = None) -> Stage:
    evaluated = summary(0.3, 0.2, 0.5)
    train = {"steps": len(log), "trainable_parameters": 509_184}
    headline = {"name": "pass@1", "n": 1000, **evaluated["pass@1"]}
    return stage(root, method, {"train": train, "evaluation": evaluated, "headline": headline}, parent, log=log)


def answered(policy: str, prompt: str, text: str, verdict: str = "correct") -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    pool = [[text, verdict], ["", "malformed"]]
    return {"policy": policy, "prompt": messages, "greedy": pool[0], "samples": pool}


def chain(
    root: Path, difference: dict[str, Any] | None = None, samples: list[dict[str, Any]] | None = None
) -> list[Stage]:
    """The quickstart in miniature."""
    found = {"greedy": interval(0.02, -0.02, 0.06), "pass@1": around(0.1), "best_of_16": around(-0.1)}
    sft = trained(root, "sft", [{"step": 10, "loss": 4.5}, {"step": 20, "loss": 0.3}])
    steps = [{"step": i, "loss": 0.0, "reward": 0.3 + i / 1000, "reward_std": 0.4, "kl": 0.01} for i in range(1, 61)]
    rloo = trained(root, "rloo", steps, sft)
    metrics = {
        "policies": {"sft": summary(0.39, 0.24, 0.89), "rloo": summary(0.43, 0.34, 0.79)},
        "differences": {"rloo_minus_sft": difference or found},
        "headline": {"name": "best_of_16", "n": 1000, **around(0.79)},
    }
    samples = samples or [answered(p, f"target {i}", "<answer>1</answer>") for p in ("sft", "rloo") for i in range(40)]
    return [sft, rloo, stage(root, "best_of_n", metrics, rloo, samples=samples)]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a written report, to read only."""
    root = tmp_path_factory.mktemp("runs")
    pages.write(root / "quickstart", chain(root))
    return root / "quickstart"


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is most of the time; only `quickstart`, which is set up earlier, and the tests of plots need it."""
    monkeypatch.setattr(plot, "draw", lambda path, panels: path.write_bytes(b""))


def page(folder: Path, name: str = "report.html") -> str:
    return (folder / name).read_text(encoding="utf-8")


def headings(folder: Path) -> list[str]:
    return re.findall(r"^## (.*)$", page(folder, "report.md"), re.MULTILINE)


def paragraph(folder: Path) -> str:
    return page(folder, "report.md").split("\n")[2]


def test_the_quickstart_has_its_metrics_in_a_fixed_place(quickstart):
    found = run_folder.read_json(quickstart / "metrics.json")
    assert found["sft"] == {"greedy": 0.39, "pass@1": 0.24, "best_of_16": 0.89, "n": 1000}
    assert found["rloo"] == {"greedy": 0.43, "pass@1": 0.34, "best_of_16": 0.79, "n": 1000}
    assert found["rloo_minus_sft"] == around(0.1)
    assert found["seconds"] == 181.5


def test_no_number_of_a_policy_goes_without_its_interval(quickstart):
    found = run_folder.read_json(quickstart / "metrics.json")
    for policy in ("sft", "rloo"):
        for metric in set(found[policy]) - {"n"}:
            bounds = found["intervals"][policy][metric]
            assert bounds["low"] <= found[policy][metric] <= bounds["high"]


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


def test_the_sections_come_in_order(quickstart):
    assert headings(quickstart) == [
        "Stages", "Policies", "Paired differences", "Best-of-N", "Reward", "Loss", "Sample completions", "Provenance",
        "How to read the numbers",
    ]  # fmt: skip


def test_both_pages_have_the_same_sections(quickstart):
    assert re.findall(r"<h2>(.*)</h2>", page(quickstart)) == headings(quickstart)


@pytest.mark.parametrize(("low", "high"), [(-0.02, 0.06), (0.0, 0.06), (-0.06, 0.0)])
def test_a_difference_whose_interval_includes_0_is_never_called_one(tmp_path, low, high):
    difference = {"pass@1": interval((low + high) / 2, low, high)}
    pages.write(tmp_path / "job", chain(tmp_path, difference))
    said = paragraph(tmp_path / "job")
    assert "within noise" in said
    assert "beyond noise" not in said
    claims = r"higher|lower|better|improve|▲|▼"
    table = page(tmp_path / "job", "report.md").partition("## Paired differences")[2].partition("\n## ")[0]
    assert not re.search(claims, said + table)


def test_a_difference_whose_interval_excludes_0_is_marked_in_the_table(quickstart):
    text = page(quickstart, "report.md")
    assert "| rloo minus sft | pass@1 | +0.100 [+0.080, +0.120] | ▲ higher |" in text
    assert "| rloo minus sft | best-of-16 | -0.100 [-0.120, -0.080] | ▼ lower |" in text


def test_sharpening_is_said_when_one_sample_gains_and_many_lose(quickstart):
    assert "rloo sharpens" in paragraph(quickstart)


@pytest.mark.parametrize("best", [interval(-0.02, -0.05, 0.01), interval(0.05, 0.01, 0.09)])
def test_sharpening_is_not_said_when_no_loss_was_shown(tmp_path, best):
    pages.write(tmp_path / "job", chain(tmp_path, {"pass@1": around(0.1), "best_of_16": best}))
    assert "sharpens" not in paragraph(tmp_path / "job")


def test_what_models_and_prompts_say_is_escaped_in_html(tmp_path):
    hostile = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
    samples = [answered("<b>sft</b>", hostile, hostile, "<i>correct</i>")]
    pages.write(tmp_path / "job", chain(tmp_path, samples=samples))
    text = page(tmp_path / "job")
    assert not re.search(r"<script|onerror=alert\(1\)>|<img src=x|<b>sft|<i>correct", text)
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2


def test_a_completion_cannot_end_its_code_block_in_markdown(tmp_path):
    hostile = "```\n````\n# a heading\n<script>"
    pages.write(tmp_path / "job", chain(tmp_path, samples=[answered("sft", "target 1", hostile)]))
    assert f"`````text\n{hostile}\n`````" in page(tmp_path / "job", "report.md")


def test_the_page_loads_nothing(quickstart):
    text = page(quickstart)
    assert not re.search(r"https?:|//[a-z]|<script|<link|@import|url\(", re.sub(r"base64,[^\"]*", "", text))
    assert re.findall(r"<img src=\"([^,]*),", text) == ["data:image/png;base64"] * 3


def test_nothing_says_where_this_machine_keeps_its_files(quickstart):
    assert str(quickstart.parent) not in page(quickstart) + page(quickstart, "report.md")


def test_plots_are_images(quickstart):
    plots = [quickstart / name for name in ("best_of_n.png", "reward.png", "loss.png")]
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000 for path in plots)


@pytest.mark.parametrize("y", [[0.5], [5.0, 0.1], [float("nan")] * 2, [-1.0, 0.0]])
def test_short_and_odd_curves_can_be_drawn(tmp_path, y):
    line = plot.Line("loss", [float(i) for i in range(len(y))], y)
    DRAW(
        tmp_path / "loss.png",
        [plot.Panel("loss", "step", "loss", [line], noisy=noisy) for noisy in (True, False, True)],
    )
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]


AUDIT = {
    "max_completion_length": 28, "stop_tokens": ["<|im_end|>"], "ended_by_stop": around(0.8), "several_answers": around(0.3),
    "verdicts_changed": 7, "warnings": ["20% of the sampled completions are cut"],
}  # fmt: skip


def audited(root: Path) -> Stage:
    """A run of RLOO with the audit of its evaluation and of its rollouts."""
    warnings = [{"step": 9, "kind": "kl", "text": "far away"}]
    train = {
        "steps": 9,
        "trainable_parameters": 1,
        "rollouts": {"ended_by_stop": 0.75, "logged_lines": 5},
        "warnings": warnings,
    }
    evaluated = summary(0.3, 0.2, 0.5) | {"truncated": around(0.2), "audit": AUDIT}
    return stage(root, "rloo", {"train": train, "evaluation": evaluated})


def section(folder: Path, title: str) -> str:
    return page(folder, "report.md").partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_audit_stands_beside_that_of_the_rollouts(tmp_path):
    pages.write(tmp_path / "job", [audited(tmp_path)])
    told = section(tmp_path / "job", "How completions end")
    assert "| metric | rloo | rloo, last rollouts |" in told
    assert "| ended by stop | 0.800 [0.780, 0.820] | 0.750 |" in told
    assert "| truncated | 0.200 [0.180, 0.220] |  |" in told
    assert "| verdicts changed | 7 |  |" in told


def test_warnings_of_the_log_and_of_the_audit_are_listed_with_when_they_came(tmp_path):
    pages.write(tmp_path / "job", [audited(tmp_path)])
    told = section(tmp_path / "job", "Warnings")
    assert "| rloo | 9 | far away |" in told
    assert "| rloo | evaluation | 20% of the sampled completions are cut |" in told


def test_an_audits_terms_are_explained_where_there_is_one(tmp_path, quickstart):
    pages.write(tmp_path / "job", [audited(tmp_path)])
    assert "**first changes verdict**" in page(tmp_path / "job", "report.md")
    assert "**first changes verdict**" not in page(quickstart, "report.md")


def test_a_jobs_metrics_hold_the_audits_of_its_policies(tmp_path):
    pages.write(tmp_path / "job", [audited(tmp_path)])
    assert run_folder.read_json(tmp_path / "job" / "metrics.json")["rloo"]["audit"] == AUDIT


def test_a_recorded_file_is_named_and_its_differences_are_listed(tmp_path):
    first = {
        "problem": 3,
        "where": "line 4",
        "sample": 7,
        "recorded": 0.1,
        "ours": "wellformed_wrong",
        "answer": "1 | <b>",
    }
    scores = {"scored": 800, "mean_score": around(0.64), "differ_in_correctness": 2, "first_differences": [first]}
    found = stage(tmp_path, "evaluate", {"evaluation": summary(0.3, 0.2, 0.5), "recorded": scores})
    found.config["generator"] = {"path": "there/eval.json"}
    found.choices = CHOICES | {"generator": "recorded"}
    pages.write(found.folder, [found])
    text = page(found.folder, "report.md")
    assert text.startswith("# evaluate, countdown, recorded\n")
    assert "| evaluate | eval.json | data countdown, generator recorded |" in text
    assert "| differ in correctness | 2 |" in section(found.folder, "Recorded scores")
    assert r"| 3 | 7 | 0.1 | wellformed wrong | 1 \| &lt;b&gt; |" in section(
        found.folder, "Differences from recorded scores"
    )


def test_links_and_plots_of_the_markdown_page_lead_somewhere(quickstart):
    targets = re.findall(r"\]\(([^)]*)\)", page(quickstart, "report.md"))
    assert len(targets) == 6
    assert all((quickstart / target).exists() for target in targets)


def test_ten_problems_are_shown_evenly_spread_with_every_policy(quickstart):
    text = page(quickstart)
    assert re.findall(r'class="prompt">target (\d+)<', text) == [str(i) for i in range(0, 40, 4)]
    assert text.count("1 of 2 samples correct") == 20


@pytest.mark.parametrize("lines", [None, []])
def test_without_metrics_logs_and_samples_the_rest_remains(tmp_path, lines):
    pages.write(tmp_path / "job", [stage(tmp_path, "sft", {}, log=lines, samples=lines)])
    assert headings(tmp_path / "job") == ["Stages", "Provenance", "How to read the numbers"]
    assert not list((tmp_path / "job").glob("*.png"))


def test_an_empty_run_folder_gives_a_report(tmp_path):
    pages.write(tmp_path / "job", [Stage("sft", {}, tmp_path / "sft", "0", {})])
    assert "missing" in page(tmp_path / "job")


def test_one_training_stage_shows_its_loss_and_its_own_evaluation(tmp_path):
    sft = trained(tmp_path, "sft", [{"step": 1, "loss": 1.0}, {"step": 1, "train_runtime": 3.0}])
    pages.write(sft.folder, [sft])
    assert headings(sft.folder) == ["Stages", "Policies", "Best-of-N", "Loss", "Provenance", "How to read the numbers"]
    assert "pass@1 0.200 [0.180, 0.220]" in paragraph(sft.folder)


def test_stages_that_were_measured_apart_are_not_compared(tmp_path):
    pages.write(tmp_path / "job", chain(tmp_path)[:2])
    assert "nothing is said here about their differences" in paragraph(tmp_path / "job")
    assert "Paired differences" not in headings(tmp_path / "job")
    found = run_folder.read_json(tmp_path / "job" / "metrics.json")
    assert set(found) == {"sft", "rloo", "seconds", "intervals", "differences"}


def test_a_stage_that_logs_a_reward_has_no_loss_curve(tmp_path):
    rloo = trained(tmp_path, "rloo", [{"step": 1, "loss": 0.0, "reward": 0.3}])
    pages.write(rloo.folder, [rloo])
    assert "Reward" in headings(rloo.folder)
    assert "Loss" not in headings(rloo.folder)


def test_policies_and_metrics_may_have_any_name(tmp_path):
    policies = {name: {"n": 50, "win_rate": around(0.6), "length": 12.5, "raw": [1, 2]} for name in ("dpo", "base")}
    metrics = {"policies": policies, "differences": {"dpo_minus_base": {"win_rate": around(0.1)}}}
    pages.write(tmp_path / "job", [stage(tmp_path, "judge", metrics)])
    assert "dpo minus base: win rate is higher (+0.100 [+0.080, +0.120])" in paragraph(tmp_path / "job")
    assert run_folder.read_json(tmp_path / "job" / "metrics.json")["dpo"] == {"win_rate": 0.6, "n": 50}


def test_the_plots_of_an_earlier_job_do_not_stay(tmp_path):
    stages = chain(tmp_path)
    pages.write(tmp_path / "job", stages)
    pages.write(tmp_path / "job", stages[:1])
    assert sorted(p.name for p in (tmp_path / "job").iterdir()) == [
        "best_of_n.png", "loss.png", "metrics.json", "report.html", "report.md",
    ]  # fmt: skip


def test_the_command_and_versions_are_said_once_where_all_stages_share_them(tmp_path):
    sft = stage(tmp_path, "sft", {}, command="python -m qwen_align method=sft")
    pages.write(tmp_path / "job", [sft, stage(tmp_path, "rloo", {}, sft)])
    text = page(tmp_path / "job", "report.md")
    assert text.count("Versions: trl 1.16.0.") == 1
    assert "sft: Command: python -m qwen_align method=sft." in text


def test_writing_a_report_imports_no_torch(tmp_path):
    stages = chain(tmp_path)
    job, run = repr(str(tmp_path / "job")), repr(str(stages[-1].folder))
    code = (
        "import sys; from pathlib import Path; from qwen_align.report import pages as report; from qwen_align.stage.plan import Stage\n"
        "early = {'matplotlib', 'jinja2', 'numpy'} & set(sys.modules)\n"
        f"report.write(Path({job}), [Stage('best_of_n', {{}}, Path({run}), '', {{}})])\n"
        "late = {'torch', 'transformers', 'trl', 'datasets', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "assert not early | late, (early, late)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
