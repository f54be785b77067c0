"""What the installed TRL, transformers and PEFT accept, read from their source text without importing them.

Importing TRL costs seconds; parsing the few files that declare its fields costs a tenth of one. The layout that is relied on
is the pinned versions': a test compares every name with `dataclasses.fields`.
"""

import ast
import importlib.util
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

_BASES = {  # class -> file, for the classes that a config class inherits from, and PEFT's
    "TrainingArguments": "transformers/training_args.py",
    "_BaseConfig": "trl/trainer/base_config.py",
    "LoraConfig": "peft/tuners/lora/config.py",
    "PeftConfig": "peft/config.py",
    "PeftConfigMixin": "peft/config.py",
}
_ENUMS = ("transformers/trainer_utils.py", "transformers/training_args.py")
# Only rloo has these fields, and TRL corrects no importance weights there.
_WHOLE = (
    "the trainer's log-probs are those of the whole distribution, so sampling from a part of it biases the gradient; "
    "evaluation.top_p and evaluation.top_k are free"
)
# Fields whose nonsense TRL accepts without a word: (test, what would be right).
_RANGES = {
    "temperature": (lambda v: v > 0, "a number above 0"),
    "learning_rate": (lambda v: v >= 0, "a number from 0 on"),
    "top_p": (lambda v: v == 1, f"1: {_WHOLE}"),
    "min_p": (lambda v: v == 0, f"0: {_WHOLE}"),
    "top_k": (lambda v: v == 0, f"0: {_WHOLE}"),
    "beta": (lambda v: v >= 0, "a number from 0 on"),
    "num_generations": (lambda v: v >= 2, "a whole number from 2 on: leave-one-out needs siblings"),
    "max_completion_length": (lambda v: v > 0, "a whole number from 1 on"),
    "max_length": (lambda v: v > 0, "a whole number from 1 on"),
    "per_device_train_batch_size": (lambda v: v > 0, "a whole number from 1 on"),
    "num_iterations": (lambda v: v > 0, "a whole number from 1 on"),
    "save_steps": (lambda v: v > 0, "a number above 0"),
    "logging_steps": (lambda v: v > 0, "a number above 0"),
    "weight_decay": (lambda v: v >= 0, "a number from 0 on"),
}
_CHOICES = {"vllm_mode": ("server", "colocate")}


@lru_cache
def _tree(relative: str) -> ast.Module:
    package, _, rest = relative.partition("/")
    spec = importlib.util.find_spec(package)
    assert spec and spec.submodule_search_locations, f"{package} is not installed"
    return ast.parse((Path(spec.submodule_search_locations[0]) / rest).read_text(encoding="utf-8"))


def _file_of(cls: str) -> str | None:
    if cls in _BASES:
        return _BASES[cls]
    match = re.fullmatch(r"(SFT|DPO|RLOO|Reward)Config", cls)
    return f"trl/trainer/{match[1].lower()}_config.py" if match else None


@lru_cache
def fields(target: str) -> dict[str, ast.expr]:
    """Field name -> annotation of a config class such as `trl.RLOOConfig`, its base classes included; {} if unknown."""
    package, cls = target.partition(".")[0], target.rpartition(".")[2]
    if package not in ("trl", "peft") or (file := _file_of(cls)) is None:
        return {}
    node = next((n for n in _tree(file).body if isinstance(n, ast.ClassDef) and n.name == cls), None)
    if node is None:
        return {}
    found: dict[str, ast.expr] = {}
    for base in node.bases:
        name = base.id if isinstance(base, ast.Name) else ""
        if name in _BASES:
            found |= fields(f"{package}.{name}")
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            found[line.target.id] = line.annotation
    return found


@lru_cache
def enums() -> dict[str, tuple[str, ...]]:
    """Enum name -> its values, of the enums that training arguments use."""
    found = {}
    for file in _ENUMS:
        for node in _tree(file).body:
            if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and "Enum" in b.id for b in node.bases):
                values = [
                    n.value.value for n in node.body if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant)
                ]
                found[node.name] = tuple(str(v) for v in values)
    return found


@lru_cache
def losses() -> tuple[str, ...]:
    """DPO's loss types: its trainer compares names while it trains, and holds no list of them."""
    compared = [node for node in ast.walk(_tree("trl/trainer/dpo_trainer.py")) if isinstance(node, ast.Compare)]
    named = [node for node in compared if ast.unparse(node.left) == "loss_type" and isinstance(node.ops[0], ast.Eq)]
    return tuple(ast.literal_eval(node.comparators[0]) for node in named)


def _accepts(value: Any, annotation: ast.expr) -> bool:
    """Whether a plain value fits an annotation; anything this does not understand fits."""
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            names = {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)}
            listed = names & enums().keys()
            if isinstance(value, str) and listed:  # `SchedulerType | str` means one of the enum's values
                return any(value in enums()[name] for name in listed)
            return _accepts(value, left) or _accepts(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str(text)):
            return _accepts(value, ast.parse(text, mode="eval").body)
        case ast.Name(id="bool"):
            return isinstance(value, bool)
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id="float"):
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case ast.Name(id="str"):
            return isinstance(value, str)
        case ast.Name(id="dict") | ast.Subscript(value=ast.Name(id="dict")):
            return isinstance(value, dict)
        case ast.Subscript(value=ast.Name(id="list" | "tuple")):
            return isinstance(value, (list, tuple))
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return value is None or _accepts(value, inner)
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=options)):
            return any(_accepts(value, option) for option in options)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            options = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return value in [o.value for o in options if isinstance(o, ast.Constant)]
    return True


def problem(name: str, value: Any, annotation: ast.expr) -> str | None:
    """What is wrong with a field's value, as 'expected ...', or None."""
    if not _accepts(value, annotation):
        text = ast.unparse(annotation).replace("typing.", "")
        for enum, values in enums().items():
            if re.search(rf"\b{enum}\b", text):
                return f"expected one of {', '.join(values)}"
        example = f", for example [{value}]" if isinstance(value, str) and text.startswith("list[str]") else ""
        return f"expected {text}{example}"
    if name in _RANGES and isinstance(value, (int, float)) and not _RANGES[name][0](value):
        return f"expected {_RANGES[name][1]}"
    if name in _CHOICES and value not in _CHOICES[name]:
        return f"expected one of {', '.join(_CHOICES[name])}"
    return None


@lru_cache
def is_light(target: str) -> bool:
    """Whether the module of a dotted path imports none of the packages that cost seconds, at its top level."""
    spec = importlib.util.find_spec(target.rpartition(".")[0])
    if spec is None or spec.origin is None:
        return False
    imported: set[str] = set()
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    return not imported & {"torch", "transformers", "trl", "datasets", "peft", "accelerate", "evaluate"}


@lru_cache
def methods_of(target: str) -> frozenset[str]:
    """The public method names of a class given by dotted path, read from its source: a data class's views are among them."""
    module, _, cls = target.rpartition(".")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return frozenset()
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == cls:
            inherited = [methods_of(f"{module}.{b.id}") for b in node.bases if isinstance(b, ast.Name)]
            own = {n.name for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")}
            return frozenset(own.union(*inherited))
    return frozenset()
