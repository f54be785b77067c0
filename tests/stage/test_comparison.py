"""Policies that are compared: plans of their own, named one by one or as the rows of a table."""

import pytest
from conftest import planned

from qwen_align import run_folder
from qwen_align.errors import ConfigError

pytestmark = pytest.mark.slow

OTHER = 'again: ["method=rloo"], other: ["method=rloo", "seed=3"]'
POLICIES = f'method.policies={{sft: ["method=sft"], rloo: ["method=rloo"], {OTHER}}}'
COMPARED = ("experiment=quickstart", "method=compare", POLICIES)


def test_policies_that_are_compared_are_made_first_and_once(stages_of):
    stages = stages_of(*COMPARED)
    assert [stage.method for stage in stages] == ["sft", "rloo", "sft", "rloo", "compare"]
    sft, rloo, _, other, compare = stages
    assert compare.parents.policies == {"sft": sft, "rloo": rloo, "again": rloo, "other": other}
    assert compare.config["method"]["policies"] == {name: str(stage.folder) for name, stage in compare.parents.policies.items()}


def test_a_changed_policy_changes_the_comparison(stages_of):
    before, after = stages_of(*COMPARED)[-1], stages_of(*COMPARED, "stages.sft.args.learning_rate=1e-3")[-1]
    assert before.fingerprint != after.fingerprint


def test_settings_of_the_comparison_are_not_those_of_its_policies(stages_of):
    before, after = stages_of(*COMPARED), stages_of(*COMPARED, "method.samples=2", "name=other")
    assert [s.fingerprint for s in before[:-1]] == [s.fingerprint for s in after[:-1]]
    assert before[-1].fingerprint != after[-1].fingerprint


def test_a_policy_that_compares_policies_itself_is_refused(stages_of):
    policies = 'method.policies={a: ["method=compare"], b: ["method=sft"]}'
    with pytest.raises(ConfigError, match=r"method.policies.a: compares policies itself"):
        stages_of("experiment=quickstart_instruct", policies)


def node(value: object) -> str:
    """A value as Hydra reads it on the command line."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}: {node(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(node, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


ROWS = {
    "sft": {"seeds": [1, 2], "overrides": ["method=sft"]},
    "more": {"seeds": [1], "overrides": ["method=sft", "data.extra={teacher}/demonstrations.jsonl"]},
    "further": {"seeds": [1], "overrides": ["method=sft", "stages.sft.init={first}"]},
}
NAMED = {"teacher": ["method=synthesize", "generator=solver"], "first": ["method=sft", "seed=9"]}


def table(rows: dict = ROWS, named: dict = NAMED, *more: str) -> tuple[str, ...]:
    """A comparison of rows."""
    named = {name: overrides for name, overrides in named.items() if "{" + name + "}" in str(rows)}
    settings = {"rows": rows, "named": named, "metrics": ["pass@1"]}
    return ("experiment=quickstart", "method=compare", *(f"method.{k}={node(v)}" for k, v in settings.items()), *more)


def test_a_row_is_one_policy_for_each_seed(stages_of):
    stages = stages_of(*table({"sft": ROWS["sft"], "rloo": {"seeds": [2], "overrides": ["method=rloo"]}}))
    policies = stages[-1].parents.policies
    assert list(policies) == ["sft, seed 1", "sft, seed 2", "rloo, seed 2"]
    assert [policy.config["seed"] for policy in policies.values()] == [1, 2, 2]
    assert policies["rloo, seed 2"].parents.init is policies["sft, seed 2"]
    assert len(stages) == 4


def test_the_resolved_rows_name_their_policies(stages_of):
    rows = stages_of(*table({"sft": ROWS["sft"]}))[-1].config["method"]["rows"]
    assert rows["sft"]["policies"] == ["sft, seed 1", "sft, seed 2"]


def test_what_all_rows_say_comes_before_their_own(stages_of):
    rows = {
        "one": {"seeds": [1], "overrides": ["method=sft"]},
        "two": {"seeds": [1], "overrides": ["method=sft", "data.problems=70"]},
    }
    each = "method.each=['data.problems=60']"
    one, two = stages_of(*table(rows), each)[-1].parents.policies.values()
    assert (one.config["data"]["problems"], two.config["data"]["problems"]) == (60, 70)


def test_a_name_in_an_override_is_the_run_folder_of_that_stage_which_comes_first(stages_of):
    stages = stages_of(*table())
    teacher = next(stage for stage in stages if stage.method == "synthesize")
    more = stages[-1].parents.policies["more, seed 1"]
    assert more.config["data"]["extra"] == f"{teacher.folder}/demonstrations.jsonl"
    assert more.parents.others == (teacher,)
    assert stages.index(teacher) < stages.index(more)


def test_a_named_stage_can_be_what_a_row_starts_from(stages_of):
    further = stages_of(*table())[-1].parents.policies["further, seed 1"]
    assert further.parents.init is not None
    assert further.config["init"] == str(further.parents.init.folder)
    assert [ancestor.method for ancestor in further.job.ancestors] == ["sft"]


def test_a_named_reward_model_drives_a_row(stages_of):
    rows = {"rloo": {"seeds": [1, 2], "overrides": ["method=rloo", "reward=deberta_tiny", "reward.folder={judge}"]}}
    named = {"judge": ["method=reward", "reward=deberta_tiny"]}
    stages = stages_of("experiment=quickstart_instruct", *table(rows, named)[1:])
    judge = next(stage for stage in stages if stage.method == "reward")
    assert [p.parents.rewards for p in stages[-1].parents.policies.values()] == [{"deberta_tiny": judge}] * 2


def test_a_reference_counts_by_fingerprint_and_not_by_folder(stages_of):
    before = stages_of(*table(), "runs_dir=here")
    assert [s.fingerprint for s in before] == [s.fingerprint for s in stages_of(*table(), "runs_dir=there")]
    changed = NAMED | {"teacher": [*NAMED["teacher"], "method.samples=3"]}
    before, after = (s[-1].parents.policies["more, seed 1"] for s in (before, stages_of(*table(ROWS, changed))))
    assert before.fingerprint != after.fingerprint


def test_a_finished_named_stage_changes_no_fingerprint(stages_of):
    before = stages_of(*table())
    teacher = next(stage for stage in before if stage.method == "synthesize")
    run_folder.update(teacher.folder, state="finished")
    run_folder.write_text(teacher.folder / "demonstrations.jsonl", '{"prompt": "a", "completion": "b"}\n')
    assert [s.fingerprint for s in stages_of(*table())] == [s.fingerprint for s in before]


def test_what_a_table_is_to_show_changes_nothing_of_the_comparison(stages_of):
    claim = 'method.claims=[{says: "s", better: "more/pass@1", than: ["sft/pass@1"]}]'
    assert stages_of(*table())[-1].fingerprint == stages_of(*table(), claim, "method.title=Other")[-1].fingerprint


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"bad": {"seeds": [1], "overrides": ["method=sft", "method.args.max_step=1"]}}, "bad: method.args.max_step=1: "),
        ({"bad": {"seeds": [1], "overrides": [*ROWS["more"]["overrides"], "method.batch_size=0"]}}, "method.batch_size=0"),
    ],
    ids=["key", "value"],
)
def test_a_mistake_in_a_row_is_found_before_anything_runs_and_names_the_row(stages_of, rows, says):
    with pytest.raises(ConfigError, match=f"bad.*{says.rpartition('bad: ')[2]}"):
        stages_of(*table({"sft": ROWS["sft"]} | rows))


def test_a_claim_about_a_row_that_is_not_there_is_found_before_anything_runs(stages_of):
    claim = 'method.claims=[{says: "s", better: "mor/pass@1", than: ["sft/pass@1"]}]'
    with pytest.raises(ConfigError, match=r"method.claims: mor/pass@1: no such row and metric \(did you mean more"):
        stages_of(*table(), claim)


def test_policies_of_the_command_line_take_the_place_of_an_experiments_rows(stages_of):
    policies = 'method.policies={a: ["method=sft"], b: ["method=rloo"]}'
    compare = stages_of("experiment=tiny_maths", policies)[-1]
    assert list(compare.parents.policies) == ["a", "b"]


TABLES = {"tiny_instruction": "study_instruction_table", "tiny_maths": "study_maths_table"}


@pytest.fixture(scope="module")
def methods() -> dict[str, dict]:
    """The settings of the comparison of every table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "none")
        names = [*TABLES, *TABLES.values()]
        return {name: planned(f"experiment={name}")[-1].config["method"] for name in names}


@pytest.mark.slow
def test_every_row_that_carries_a_claim_has_three_seeds(methods):
    for name, method in methods.items():
        rows = [cell.partition("/")[0] for claim in method["claims"] for cell in (claim["better"], *claim["than"])]
        assert {len(method["rows"][row]["seeds"]) for row in rows} == {3}, name


@pytest.mark.slow
def test_the_miniature_has_the_rows_and_claims_of_the_study(methods):
    for tiny, study in ((methods[a], methods[b]) for a, b in TABLES.items()):
        assert list(tiny["rows"]) == list(study["rows"])
        assert [claim["says"] for claim in tiny["claims"]] == [claim["says"] for claim in study["claims"]]
