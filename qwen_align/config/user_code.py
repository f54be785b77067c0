"""What a file or module of the user's will do when a stage imports it, told in the plan from its source: nothing of it is run.

Its top level is parsed for imports that aren't installed, names that modules lack and a plain `raise`, and for what a function
takes. Left out: whatever fails only when the code runs, and imports under `try` or `if`.
"""

import ast
import re
from functools import lru_cache
from pathlib import Path

from qwen_align.config import source_code
from qwen_align.errors import ConfigError, nearest


@lru_cache
def check(key: str, target: str) -> None:
    """Raise ConfigError if the module behind a target can't be imported, as far as its source tells."""
    found = source_code.find(target)
    if found is None or {"site-packages", "dist-packages"} & set(found.file.parts):
        return
    file = Path(target.rpartition(":")[0]) if ".py:" in target else source_code.file_of(target.rpartition(".")[0]) or found.file
    for node in source_code.tree(file).body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in names:
            beside = file.parent / name.partition(".")[0]
            is_beside = beside.is_dir() or beside.with_suffix(".py").is_file()
            if name and not is_beside and not source_code.top_spec(name):
                raise ConfigError(f"{key}={target}: line {node.lineno} imports {name}, which is not installed")
            if isinstance(node, ast.ImportFrom) and not is_beside and (lacking := _lacking(name, node)):
                raise ConfigError(f"{key}={target}: line {node.lineno} imports {lacking}, which {name} lacks")
        if isinstance(node, ast.Raise):
            raise ConfigError(f"{key}={target}: can't be imported, line {node.lineno} is: {ast.unparse(node)}")


def _lacking(module: str, node: ast.ImportFrom) -> str | None:
    """A name that an installed module of one file has nowhere in its source; packages may hold more than that file says."""
    source = source_code.file_of(module)
    if source is None:
        return None
    text = source.read_text(encoding="utf-8")
    if re.search(r"import \*|__getattr__|globals\(\)|_LazyModule", text):
        return None
    beside = {path.name.partition(".")[0] for path in source.parent.iterdir()}  # submodules, compiled ones too
    names = [a.name for a in node.names if a.name != "*" and a.name not in beside]
    return next((name for name in names if not re.search(rf"\b{name}\b", text)), None)


def _callable(target: str, method: str) -> ast.arguments | None:
    """The parameters of a function, or of a class's method without self; None where source doesn't tell."""
    found = source_code.find(target)
    node = found.node if found else None
    if isinstance(node, ast.ClassDef):
        own = [m.node for m in source_code.members(target) if getattr(m.node, "name", "") == method]
        return own[-1].args if own and isinstance(own[-1], ast.FunctionDef | ast.AsyncFunctionDef) else None
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
        return node.value.args
    plain = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list
    return node.args if plain else None  # type: ignore[union-attr]


def check_parameters(key: str, target: str, settings: set[str], given: tuple[str, ...]) -> None:
    """Raise ConfigError for a reward that takes none of `given` and is no factory of one, or doesn't take its settings."""
    found = source_code.find(target)
    if found and isinstance(found.node, ast.Assign) and isinstance(found.node.value, ast.Constant):
        raise ConfigError(f"{key}={target}: is {found.node.value.value!r}; expected a function f(completions, **columns)")
    if (takes := _callable(target, "__init__")) is None:
        return
    positional = [a.arg for a in (*takes.posonlyargs, *takes.args)]
    required = set(positional[: len(positional) - len(takes.defaults)]) - {"self"}
    names = {*positional, *(a.arg for a in takes.kwonlyargs)}
    if not takes.kwarg and (unknown := sorted(settings - names)):
        raise ConfigError(f"{key}={target}: takes no {unknown[0]}; it takes {', '.join(names)}{nearest(unknown[0], names)}")
    if "completion" in required - settings:
        raise ConfigError(
            f"{key}={target}: takes completion, a verifier's; a reward takes completions, data.verifier={target} judges"
        )
    is_class = found is not None and isinstance(found.node, ast.ClassDef)
    if not is_class and not takes.kwarg and not names & set(given) and (missing := required - settings):
        shown = ", ".join(a for a in positional if a in missing)
        raise ConfigError(f"{key}={target}: takes {shown} and no completions; expected f(completions, **columns)")
