"""What a report says of its numbers, on hand-made run folders: no more than the intervals carry."""

import re

import pytest
from run_folders import CHOICES, around, chain, headings, interval, page, paragraph, section, stage, summary, trained

from qwen_align.report import pages

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize(("low", "high"), [(-0.02, 0.06), (0.0, 0.06), (-0.06, 0.0)])
def test_a_difference_whose_interval_includes_0_is_never_called_one(tmp_path, low, high):
    pages.write(tmp_path / "job", chain(tmp_path, {"pass@1": interval((low + high) / 2, low, high)}))
    text = paragraph(tmp_path / "job")
    assert "within noise" in text and "beyond noise" not in text
    claims = r"higher|lower|better|improve|▲|▼"
    assert not re.search(claims, text + section(tmp_path / "job", "Paired differences"))


def test_a_difference_whose_interval_excludes_0_is_marked_in_the_table(tmp_path):
    pages.write(tmp_path / "job", chain(tmp_path))
    text = section(tmp_path / "job", "Paired differences")
    assert "| rloo minus sft | pass@1 | +0.100 [+0.080, +0.120] | ▲ higher |" in text
    assert "| rloo minus sft | best-of-16 | -0.100 [-0.120, -0.080] | ▼ lower |" in text


def test_sharpening_is_named_when_one_sample_gains_and_many_lose(tmp_path):
    pages.write(tmp_path / "job", chain(tmp_path))
    assert "rloo sharpens" in paragraph(tmp_path / "job")


@pytest.mark.parametrize("best", [interval(-0.02, -0.05, 0.01), interval(0.05, 0.01, 0.09)])
def test_sharpening_is_not_named_when_no_loss_was_shown(tmp_path, best):
    pages.write(tmp_path / "job", chain(tmp_path, {"pass@1": around(0.1), "best_of_16": best}))
    assert "sharpens" not in paragraph(tmp_path / "job")


def test_the_sections_come_in_order(tmp_path):
    pages.write(tmp_path / "job", chain(tmp_path))
    expected = "Stages, Policies, Paired differences, Best-of-N, Reward, Loss, Sample completions, Provenance"
    assert headings(tmp_path / "job") == [*expected.split(", "), "How to read the numbers"]


def test_a_stage_names_its_result_and_the_policy_it_is_of(tmp_path):
    pages.write(tmp_path / "job", chain(tmp_path))
    rows = section(tmp_path / "job", "Stages")
    assert "| best-of-16 of rloo 0.790 [0.770, 0.810] (n=1,000) |" in rows
    assert "| pass@1 0.200 [0.180, 0.220] (n=1,000) |" in rows


def test_one_training_stage_shows_its_loss_and_its_own_evaluation(tmp_path):
    sft = trained(tmp_path, "sft", [{"step": 1, "loss": 1.0}])
    pages.write(sft.folder, [sft])
    assert headings(sft.folder) == ["Stages", "Policies", "Best-of-N", "Loss", "Provenance", "How to read the numbers"]
    assert "pass@1 0.200 [0.180, 0.220]" in paragraph(sft.folder)


def test_stages_that_were_measured_apart_are_not_compared(tmp_path):
    pages.write(tmp_path / "job", chain(tmp_path)[:2])
    assert "nothing is said here about their differences" in paragraph(tmp_path / "job")
    assert "Paired differences" not in headings(tmp_path / "job")


def test_policies_and_metrics_may_have_any_name(tmp_path):
    policies = {name: {"n": 50, "win_rate": around(0.6)} for name in ("a_minus_b", "b of a")}
    pair = {"after": "b of a", "before": "a_minus_b", "metrics": {"win_rate": around(0.1)}}
    pages.write(tmp_path / "job", [stage(tmp_path, "judge", {"policies": policies, "differences": [pair]})])
    assert "b of a minus a_minus_b: win rate is higher (+0.100 [+0.080, +0.120])" in paragraph(tmp_path / "job")


def audited(root):
    """A run of RLOO with the audit of its evaluation and of its rollouts."""
    rollouts = {"ended_by_stop": 0.75, "logged_lines": 5}
    train = {"steps": 9, "trainable_parameters": 1, "rollouts": rollouts}
    audit = {"ended_by_stop": around(0.8), "verdicts_changed": 7}
    evaluated = summary(0.3, 0.2, 0.5) | {"truncated": around(0.2), "audit": audit}
    return stage(root, "rloo", {"train": train, "evaluation": evaluated})


def test_the_audit_stands_beside_that_of_the_rollouts(tmp_path):
    pages.write(tmp_path / "job", [audited(tmp_path)])
    text = section(tmp_path / "job", "How completions end")
    assert "| ended by stop | 0.800 [0.780, 0.820] | 0.750 |" in text
    assert "| truncated | 0.200 [0.180, 0.220] |  |" in text
    assert "| verdicts changed | 7 |  |" in text


def test_an_audits_terms_are_explained_where_there_is_one(tmp_path, quickstart):
    pages.write(tmp_path / "job", [audited(tmp_path)])
    assert "**first changes verdict**" in page(tmp_path / "job")
    assert "**first changes verdict**" not in page(quickstart)


def test_a_confusion_table_says_what_was_answered_for_each_label(tmp_path):
    greedy = {"table": [[3, 1, 0], [0, 0, 2]], "accuracy": {"yes": {"n": 4, **around(0.75)}, "no": {"n": 2, **around(0.0)}}}
    labels = {"labels": ["yes", "no"], "greedy": greedy, "samples": greedy}
    evaluated = summary(0.5, 0.5, 0.5) | {"labels": labels}
    pages.write(tmp_path / "job", [stage(tmp_path, "evaluate", {"evaluation": evaluated})])
    text = section(tmp_path / "job", "Labels")
    assert "| policy | answers | right | problems | accuracy | yes | no | none |" in text
    assert "| evaluate | greedy | yes | 4 | 0.750 [0.730, 0.770] | 3 | 1 | 0 |" in text
    assert "| evaluate | samples | no | 2 | 0.000 [-0.020, 0.020] | 0 | 0 | 2 |" in text


def test_a_recorded_file_is_named_and_its_differences_are_listed(tmp_path):
    first = {"problem": 3, "sample": 7, "recorded": 0.1, "ours": "wellformed_wrong", "answer": "1 | <b>"}
    scores = {"scored": 800, "mean_score": around(0.64), "differ_in_correctness": 2, "first_differences": [first]}
    metrics = {"evaluation": summary(0.3, 0.2, 0.5), "recorded": scores}
    config = {"generator": {"path": "there/eval.json"}}
    found = stage(tmp_path, "evaluate", metrics, config=config, choices=CHOICES | {"generator": "recorded"})
    pages.write(found.folder, [found])
    assert page(found.folder).startswith("# evaluate, countdown, recorded\n")
    assert "| evaluate | eval.json | data countdown, generator recorded |" in page(found.folder)
    assert "| differ in correctness | 2 |" in section(found.folder, "Recorded scores")
    listed = section(found.folder, "Differences from recorded scores")
    assert r"| 3 | 7 | 0.1 | wellformed wrong | 1 \| &lt;b&gt; |" in listed


def test_ten_problems_are_shown_evenly_spread_with_every_policy(quickstart):
    text = page(quickstart, "report.html")
    assert re.findall(r'class="prompt">target (\d+)<', text) == [str(i) for i in range(0, 40, 4)]
    assert text.count("1 of 2 samples correct") == 20


def test_the_command_and_versions_are_given_once_where_all_stages_share_them(tmp_path):
    sft = stage(tmp_path, "sft", {}, command="python -m qwen_align method=sft")
    pages.write(tmp_path / "job", [sft, stage(tmp_path, "rloo", {}, sft)])
    assert page(tmp_path / "job").count("Versions: trl 1.16.0.") == 1
    assert "sft: Command: python -m qwen_align method=sft." in page(tmp_path / "job")
