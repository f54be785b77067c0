"""The table of a comparison of rows and seeds, and its claims, in the comparison's report."""

import random

import pytest
from run_folders import headings, page, paragraph, section, stage

from qwen_align import run_folder
from qwen_align.errors import ConfigError
from qwen_align.report import pages, tables

pytestmark = pytest.mark.usefixtures("undrawn")
SEEDS = {"sft": [1, 2, 3], "rloo": [1, 2, 3], "rloo_lora": [2]}
CLAIMS = [
    {"says": "RLOO is better", "better": "rloo/pass@1", "than": ["sft/pass@1", "rloo_lora/pass@1"]},
    {"says": "steady", "better": "rloo/pass@1", "than": ["sft/pass@1"], "each_seed": True},
    {"says": "More than double", "better": "rloo/greedy", "than": ["sft/greedy", "sft/pass@1"], "times": 2},
]
# (mean, low, high) as version 6978bf7 computed them from the same per_problem.json.
METRICS = {
    ("sft", "greedy"): (0.35555555555555557, 0.07121151166509582, 0.6398995994460153),
    ("sft", "pass@1"): (0.08566666666666665, 0.06371413651073898, 0.1081306295768397),
    ("rloo", "greedy"): (0.3666666666666666, 0.1918244504550189, 0.5415088828783143),
    ("rloo", "pass@1"): (0.34444444444444444, 0.20766222081327299, 0.48102373735670745),
    ("rloo_lora", "greedy"): (0.5666666666666667, 0.4, 0.7333333333333333),
    ("rloo_lora", "pass@1"): (0.5876666666666668, 0.465325, 0.7063333333333333),
}
OVER_SFT = {
    ("rloo", "greedy"): (0.011111111111111115, -0.3718060005505278, 0.39402822277275007),
    ("rloo", "pass@1"): (0.25877777777777783, 0.10375853237554536, 0.41331982857670857),
    ("rloo_lora", "greedy"): (0.3333333333333333, 0.13333333333333333, 0.5333333333333333),
    ("rloo_lora", "pass@1"): (0.51, 0.38833333333333336, 0.6293333333333333),
}
COMPARED = {
    "RLOO is better": [
        (0.25877777777777783, 0.10375853237554536, 0.41331982857670857),
        (-0.187, -0.3443416666666666, -0.029000000000000022),
    ],
    "steady": [(0.25877777777777783, 0.10375853237554536, 0.41331982857670857)],
    "More than double": [
        (-0.3444444444444444, -0.9957027536033343, 0.30681386471444544),
        (0.1953333333333334, 0.008514968030467779, 0.38079629204128274),
    ],
}
OF_EACH_SEED = {  # rloo/pass@1 minus sft/pass@1
    1: (0.24833333333333332, 0.16832500000000003, 0.32866666666666666),
    2: (0.32300000000000006, 0.2513250000000001, 0.39166666666666666),
    3: (0.205, 0.13666666666666666, 0.273),
}


def comparison(folder, **method):
    """A finished comparison of three rows on 30 problems."""
    rng = random.Random(13)
    rows, kept = {}, {}
    for i, (row, seeds) in enumerate(SEEDS.items()):
        rows[row] = {"seeds": seeds, "overrides": [], "policies": [f"{row}, seed {seed}" for seed in seeds]}
        for policy in rows[row]["policies"]:
            greedy = [float(rng.random() < 0.3 + 0.1 * i) for _ in range(30)]
            kept[policy] = {"greedy": greedy, "pass@1": [round(rng.random() * (0.2 + 0.5 * i), 2) for _ in range(30)]}
    settings = {"title": "Small", "rows": rows, "metrics": ["greedy", "pass@1"], "claims": CLAIMS} | method
    policies = {name: {"n": 30, "pass@1": {"mean": 0.5, "low": 0.4, "high": 0.6}} for name in kept}
    pairs = [{"after": name, "before": "sft, seed 1", "metrics": {}} for name in list(kept)[1:]]
    metrics = {"policies": policies, "baseline": "sft, seed 1", "differences": pairs}
    made = stage(folder, "compare", metrics, config={"method": settings})
    run_folder.write_json(made.folder / "per_problem.json", kept)
    return made


def numbers(found):
    return (found.mean, found.low, found.high)


def test_the_numbers_are_those_of_earlier_versions_digit_for_digit(tmp_path):
    table = tables.of(comparison(tmp_path))
    metrics = {(row, m): numbers(v) for row, found in table.rows.items() for m, v in found.metrics.items()}
    over = {(row, m): numbers(v.whole) for row, found in table.rows.items() for m, v in found.over_first.items()}
    compared = {f.claim.says: [numbers(c.whole) for c in f.contrasts] for f in table.findings}
    assert (metrics, over, compared) == (METRICS, OVER_SFT, COMPARED)
    assert {seed: numbers(v) for seed, v in table.findings[1].contrasts[0].seeds.items()} == OF_EACH_SEED
    assert [(f.claim.says, f.confirmed) for f in table.findings] == [
        ("RLOO is better", False),
        ("steady", True),
        ("More than double", False),
    ]


def test_rows_and_claims_are_sections_of_the_report(tmp_path):
    made = comparison(tmp_path)
    pages.write(made.folder, [made])
    assert headings(made.folder)[:3] == ["Small", "Small: claims", "Small: greedy"]
    rows, claims = section(made.folder, "Small"), section(made.folder, "Small: claims")
    assert "| rloo | 1, 2, 3 | 0.367 [0.192, 0.542] | 0.344 [0.208, 0.481] | +0.011 [-0.372, +0.394] |" in rows
    assert "| steady | confirmed | rloo/pass@1 minus sft/pass@1 | +0.259 [+0.104, +0.413] | +0.248, +0.323, +0.205 |" in claims
    assert "|  |  | rloo/greedy minus 2 x sft/pass@1 |" in claims
    assert "![Small: greedy](table.png)" in page(made.folder)


def test_a_table_is_summed_up_by_its_claims_and_not_policy_by_policy(tmp_path):
    made = comparison(tmp_path)
    pages.write(made.folder, [made])
    assert paragraph(made.folder).endswith("1 of 3 claims are confirmed.")
    assert "seed 1" not in paragraph(made.folder)
    assert "Paired differences" not in headings(made.folder)


def test_the_table_is_kept_as_json_and_printed(tmp_path, capsys):
    made = comparison(tmp_path)
    pages.write(tmp_path / "job", [made])
    found = run_folder.read_json(tmp_path / "job" / "tables.json")
    assert (found["title"], found["problems"], found["rows"]["rloo_lora"]["seeds"]) == ("Small", 30, [2])
    claim = found["findings"][1]["claim"]
    assert (claim["better"], found["findings"][1]["confirmed"]) == ({"row": "rloo", "metric": "pass@1"}, True)
    assert "rloo/pass@1 minus sft/pass@1" in capsys.readouterr().out


def test_a_row_without_a_seed_of_the_first_is_not_held_against_it(tmp_path):
    made = comparison(tmp_path, claims=[])
    made.config["method"]["rows"]["rloo_lora"]["seeds"] = [7]
    table = tables.of(made)
    assert table.rows["rloo_lora"].over_first == {}
    assert tables.sections(table)[0].table[-1][-1] == ""


def test_a_metric_that_was_not_measured_is_one_error(tmp_path):
    with pytest.raises(ConfigError, match=r"pass@2: was not measured \(did you mean pass@1\?\); it has greedy, pass@1"):
        tables.of(comparison(tmp_path, metrics=["pass@2"], claims=[]))


def test_a_comparison_without_rows_or_results_has_no_table(tmp_path):
    assert tables.of(comparison(tmp_path, rows={})) is None
    made = comparison(tmp_path)
    (made.folder / "per_problem.json").unlink()
    assert tables.of(made) is None
