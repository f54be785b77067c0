"""Tables of rows: every job goes through the entrypoint once, and a claim stands only if its intervals say so."""

import json
import re
import sys

import pytest
import yaml
from tiny import TINY

from qwen_align.bench import __main__ as program
from qwen_align.bench import claims, tables
from qwen_align.bench.tables import Job, Suite, Table
from qwen_align.config import groups
from qwen_align.errors import ConfigError
from qwen_align.stage import run_folder
from qwen_align.stage.run import StageFailed

SUITES = ("tiny", "study")
SMALL = {
    "title": "Small",
    "words": [word for word in TINY if not word.startswith("evaluation.")],
    "first": {"solver": ["method=synthesize", "generator=solver", "method.problems=40", "method.samples=1"]},
    "each": ["evaluation.problems=2", "evaluation.samples=1"],
    "rows": {
        "sft": {"seeds": [1], "words": ["method=sft"]},
        "more": {"seeds": [1], "words": ["method=sft", "data.extra={solver}/demonstrations.jsonl"]},
    },
    "compare": ["stages.compare.problems=10", "stages.compare.samples=2"],
    "metrics": ["greedy", "pass@1"],
    "claims": [{"says": "more is better", "better": "more/pass@1", "than": ["sft/pass@1"]}],
}


def suite(**changes) -> Suite:
    return Suite(workers=2, words=["hardware.threads=1"], tables={"small": SMALL | changes})


def table(claim: dict, seeds: dict[str, list[int]]) -> Table:
    rows = {name: {"seeds": own, "words": []} for name, own in seeds.items()}
    return Table("t", "T", [], rows, ["pass@1"], [{"says": "s", **claim}])


def measured(folder, values: dict[str, list[float]]):
    (folder / "per_problem.json").write_text(json.dumps({name: {"pass@1": own} for name, own in values.items()}))
    return folder


BETTER = {"better": "b/pass@1", "than": ["a/pass@1"]}
SEEDS = {"a": [1, 2, 3], "b": [1, 2, 3]}


def test_a_claim_is_confirmed_if_the_difference_is_above_0_over_seeds_and_problems(tmp_path):
    values = {f"a_{s}": [0.0] * 20 for s in (1, 2, 3)} | {f"b_{s}": [0.4 + s / 100] * 20 for s in (1, 2, 3)}
    found = claims.read(table(BETTER, SEEDS), measured(tmp_path, values))
    (claim,) = found["claims"]
    assert claim["confirmed"]
    assert claim["against"]["a/pass@1"]["mean"] == pytest.approx(0.42)
    assert found["n"] == 20


def test_seeds_that_disagree_confirm_nothing(tmp_path):
    values = {f"a_{s}": [0.0] * 20 for s in (1, 2, 3)} | {f"b_{s}": [(0.0, 0.05, 0.5)[s - 1]] * 20 for s in (1, 2, 3)}
    (claim,) = claims.read(table(BETTER, SEEDS), measured(tmp_path, values))["claims"]
    assert claim["against"]["a/pass@1"]["mean"] > 0.1
    assert not claim["confirmed"]


@pytest.mark.parametrize(("each_seed", "confirmed"), [(False, True), (True, False)])
def test_steady_asks_every_seed(tmp_path, each_seed, confirmed):
    noisy = [1.0, -0.5] * 10  # mean 0.25, an interval of its own around 0
    values = {f"a_{s}": [0.0] * 20 for s in (1, 2, 3)}
    values |= {"b_1": [0.32] * 20, "b_2": noisy, "b_3": [0.31] * 20}
    (claim,) = claims.read(table(BETTER | {"each_seed": each_seed}, SEEDS), measured(tmp_path, values))["claims"]
    assert claim["confirmed"] is confirmed


def test_more_than_double_is_the_difference_to_twice_the_other(tmp_path):
    values = {"a_1": [0.4] * 20, "b_1": [0.7] * 20}
    one = {"a": [1], "b": [1]}
    (claim,) = claims.read(table(BETTER | {"times": 2}, one), measured(tmp_path, values))["claims"]
    assert claim["against"]["a/pass@1"]["mean"] == pytest.approx(-0.1)
    assert not claim["confirmed"]


def test_rows_are_compared_on_the_seeds_that_both_have(tmp_path):
    values = {"a_1": [0.0] * 20, "a_2": [1.0] * 20, "b_2": [1.0] * 20}
    found = claims.read(table(BETTER, {"a": [1, 2], "b": [2]}), measured(tmp_path, values))
    assert found["rows"]["b"]["over_first"]["pass@1"]["seeds"].keys() == {2}
    assert found["rows"]["b"]["over_first"]["pass@1"]["mean"] == 0.0


def test_a_claim_about_nothing_is_one_error():
    with pytest.raises(
        ConfigError, match=r"small.claims: sft/pass@2: no such row and metric \(did you mean sft/pass@1"
    ):
        suite(claims=[{"says": "s", "better": "sft/pass@2", "than": ["more/greedy"]}])


@pytest.mark.parametrize("name", SUITES)
def test_every_row_of_a_suite_plans(name, in_empty_folder, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr(sys, "argv", ["bench", f"suite={name}", "plan=true"])
    assert program.main() == 0
    out = capsys.readouterr().out
    assert "error" not in out
    assert "rloo_siamese_lora" in out and "sft_synthetic" in out


def test_a_mistake_in_a_row_that_waits_for_a_stage_is_said_before_that_stage_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = SMALL["rows"] | {
        "more": {"seeds": [1], "words": [*SMALL["rows"]["more"]["words"], "method.args.max_step=1"]}
    }
    with pytest.raises(ConfigError, match=r"small/more, seed 1: method.args.max_step=1: .*did you mean max_steps"):
        suite(rows=rows).run([], tmp_path / "bench")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SUITES)
def test_rows_that_carry_a_claim_have_three_seeds(name):
    for found in groups.read("bench", name)["tables"].values():
        named = {said.partition("/")[0] for claim in found["claims"] for said in (claim["better"], *claim["than"])}
        assert all(len(found["rows"][row]["seeds"]) == 3 for row in named)


def test_both_suites_have_the_same_rows_and_claims():
    rows = [{n: list(t["rows"]) for n, t in groups.read("bench", name)["tables"].items()} for name in SUITES]
    said = [[c["says"] for t in groups.read("bench", name)["tables"].values() for c in t["claims"]] for name in SUITES]
    assert rows[0] == rows[1]
    assert said[0] == said[1]


@pytest.mark.parametrize("path", sorted((groups.CONF / "bench").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_settings_of_a_suite_are_what_it_takes(path):
    words = [f"suite={path.stem}"]
    name, node, added, _ = program.settings_of(words)
    assert (name, added) == (path.stem, [])
    assert yaml.safe_load(path.read_text())["_target_"] == node["_target_"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["suite=verifier", "round=3"],
            "round=3: no such setting; suite=verifier has rounds, gsm8k (did you mean rounds?)",
        ),
        (["suite=verifier", "rounds=many"], "rounds=many: expected a whole number"),
        (["suite=verifier", "plan=true"], "plan=true: suite=verifier only measures speed"),
        (["suite=tiny", "workers=0"], "workers=0: expected 1 or more"),
        (["suite=tiny", "data.problem=3"], "instruction/pretrained: data.problem=3: no such key"),
        (["tiny"], "tiny: expected words like suite=verifier"),
    ],
)
def test_a_mistake_is_one_line(words, says, in_empty_folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    assert program.main() == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {says}")
    assert len(errors.splitlines()) == 1


@pytest.mark.slow
def test_a_suite_trains_measures_and_does_nothing_twice(tmp_path, monkeypatch, capsys):
    added = [f"runs_dir={tmp_path}"]
    found = suite().run(added, tmp_path / "bench")["small"]
    assert found["n"] == 10
    assert found["rows"]["sft"]["seeds"] == [1]
    assert 0 <= found["rows"]["more"]["metrics"]["pass@1"]["mean"] <= 1
    kept = sorted((p.parent.name, p.stat().st_mtime_ns) for p in tmp_path.glob("*/run.json"))
    assert sorted(name.partition("-")[0] for name, _ in kept) == ["compare", "sft", "sft", "synthesize"]
    monkeypatch.setattr(tables.subprocess, "Popen", None)  # a process would be an error
    assert suite().run(added, tmp_path / "bench")["small"] == found
    machine = {"seconds": 1.0, "cores": 2, "date": "today"}
    program.bench.write_tables("small", {"small": found}, tmp_path / "bench", machine)
    assert "more is better" in capsys.readouterr().out
    assert run_folder.read_json(tmp_path / "bench" / "small.json")["tables"]["small"] == json.loads(json.dumps(found))
    page = (tmp_path / "bench" / "small.html").read_text()
    assert "data:image/png;base64," in page and "more/pass@1 minus sft/pass@1" in page


def test_a_job_that_fails_is_named_and_the_others_run(tmp_path):
    jobs = [Job("t/good", ["--help"]), Job("t/bad, seed 1", ["methot=sft"]), Job("t/also good", ["--help"])]
    with pytest.raises(StageFailed) as failure:
        tables._side_by_side(jobs, 1, tmp_path, "rows")
    assert re.match(r"t/bad, seed 1: methot=sft: no such key.*; see .*t-bad-seed_1.txt\n", str(failure.value))
    assert "the same command runs only what is missing" in str(failure.value)
    assert all("Groups and their options" in (tmp_path / f"t-{name}.txt").read_text() for name in ("good", "also_good"))
