"""The house's rules: who may import whom, how large a room is, and that the README tells the truth."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from qwen_align.config import groups

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "qwen_align"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "transformers", "trl", "datasets", "accelerate", "peft", "deepspeed", "evaluate", "wandb"}


def imports_of(path: Path, top_level_only: bool) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def file_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def parent_modules() -> set[Path]:
    """What the parent imports before it does anything: __main__, and all that comes along."""
    found: set[Path] = set()
    waiting = [PACKAGE / "__main__.py"]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [p for m in imports_of(path, top_level_only=True) if (p := file_of(m))]
    return found


LIGHT = parent_modules()


def test_there_are_modules_to_check():
    assert len(MODULES) > 20 and len(LIGHT) > 15


@pytest.mark.parametrize("path", sorted(LIGHT), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_light_parent_imports_nothing_heavy(path):
    heavy = {m for m in imports_of(path, top_level_only=True) if m.partition(".")[0] in HEAVY}
    assert heavy == set()


def test_only_main_knows_hydra_in_the_parent():
    knowing = {p for p in LIGHT if "hydra" in {m.partition(".")[0] for m in imports_of(p, top_level_only=True)}}
    assert knowing == {PACKAGE / "__main__.py"}


def test_verifiers_rewards_and_data_do_not_know_methods():
    for path in MODULES:
        if path.parent.name in ("verifier", "reward", "data", "metric"):
            assert not {m for m in imports_of(path, top_level_only=False) if m.startswith("qwen_align.method")}, path


def test_nothing_evaluates_text():
    for path in MODULES:
        if path == PACKAGE / "bench" / "verifier.py":
            continue  # measures the unsafe checker, under the name UNSAFE_verdict
        calls = {
            n.func.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        assert not calls & {"eval", "exec", "compile"}, path


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def fenced(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_readmes_tree_is_the_repository():
    (tree,) = fenced("text")
    named = [line.split()[0].rstrip("/") for line in tree.splitlines() if line.strip()]
    missing = [name for name in named if not (ROOT / name).exists()]
    assert missing == []
    rooms = {str(p.relative_to(ROOT)) for p in PACKAGE.iterdir() if not p.name.startswith("__") or p.name == "__main__.py"}
    assert rooms <= set(named), f"not in the README's tree: {sorted(rooms - set(named))}"


@pytest.mark.slow
def test_the_readmes_commands_compose(stages_of):
    lines = [line for block in fenced("bash") for line in block.splitlines() if line.strip()]
    entry = [shlex.split(line, comments=True)[3:] for line in lines if line.startswith("python -m qwen_align ")]
    assert len(entry) >= 5
    (Path.cwd() / "rewards.py").write_text(fenced("python")[0], encoding="utf-8")
    (Path.cwd() / "mine.py").write_text("def verify(completion, **row):\n    return True\n", encoding="utf-8")
    (Path.cwd() / "rows.jsonl").write_text('{"prompt": "?", "label": "fraud"}\n', encoding="utf-8")
    for words in entry:
        words = [word for word in words if not word.startswith("-") and not word.startswith("hydra")]
        if any("runs/" in word or re.search(r"=\w+,\w", word) for word in words):
            continue  # needs a finished run, or is a sweep
        assert stages_of(*words), words


def test_the_readmes_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line for block in fenced("bash") for line in block.splitlines()]
    targets = {line.split()[1] for line in lines if line.startswith("make ")}
    assert {"quickstart", "test"} <= targets
    assert all(f"\n{target}:" in makefile for target in targets)


def test_nothing_names_the_machine_it_was_written_on():
    files = [*MODULES, *groups.CONF.rglob("*.yaml"), *ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]
    for path in files:
        assert not re.search(r"/work/|/root/|/home/\w", path.read_text(encoding="utf-8")), path
