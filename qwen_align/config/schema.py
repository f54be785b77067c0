"""What config classes accept, read from their source text without importing them: any trainer's, PEFT's, a user's own.

Left out: classes whose settings are no annotated fields.
"""

import ast
import re
from functools import lru_cache
from typing import Any

from qwen_align.config import source_code

_BIAS = "the trainer's log-probs are those of the whole distribution, so sampling from a part of it biases the gradient"
_WHOLE = f"{_BIAS}; evaluation.top_p and evaluation.top_k are free"
_COUNTS = ("max_completion_length", "max_length", "per_device_train_batch_size", "num_iterations")
# Fields whose nonsense TRL accepts without a word: (test, what would be right).
_RANGES = {
    "top_p": (lambda v: v == 1, f"1: {_WHOLE}"),
    "min_p": (lambda v: v == 0, f"0: {_WHOLE}"),
    "top_k": (lambda v: v == 0, f"0: {_WHOLE}"),
    "num_generations": (lambda v: v >= 2, "a whole number from 2 on: an advantage needs siblings to compare with"),
    **dict.fromkeys(("learning_rate", "beta", "weight_decay"), (lambda v: v >= 0, "a number from 0 on")),
    **dict.fromkeys(("temperature", "save_steps", "logging_steps"), (lambda v: v > 0, "a number above 0")),
    **dict.fromkeys(_COUNTS, (lambda v: v > 0, "a whole number from 1 on")),
}
_CHOICES = {"vllm_mode": ("server", "colocate")}


@lru_cache
def fields(target: str) -> dict[str, ast.expr]:
    """Field name -> annotation of a config class such as `trl.RLOOConfig`, those that it inherits included; {} if unknown."""
    lines = [member.node for member in source_code.members(target)]
    named = [line for line in lines if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]
    return {line.target.id: line.annotation for line in named if "ClassVar" not in ast.unparse(line.annotation)}  # type: ignore[union-attr]


@lru_cache
def enums() -> dict[str, tuple[str, ...]]:
    """Enum name -> its values, of the enums that training arguments use."""
    found = {}
    for file in map(source_code.file_of, ("transformers.trainer_utils", "transformers.training_args")):
        for node in source_code.tree(file).body if file else []:
            if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and "Enum" in b.id for b in node.bases):
                values = [n.value.value for n in node.body if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant)]
                found[node.name] = tuple(str(v) for v in values)
    return found


def has_type(value: Any, kind: type) -> bool:
    """Whether a plain value is of a type: a whole number is a float too, true and false are only truth values."""
    return isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))


def _accepts(value: Any, annotation: ast.expr) -> bool:
    """Whether a plain value fits an annotation; anything this does not understand fits."""
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            listed = {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)} & enums().keys()
            if isinstance(value, str) and listed:  # `SchedulerType | str` means one of the enum's values
                return any(value in enums()[name] for name in listed)
            return _accepts(value, left) or _accepts(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str(text)):
            return _accepts(value, ast.parse(text, mode="eval").body)
        case ast.Name(id="dict" | "bool" | "int" | "float" | "str" as name):
            return has_type(value, {"dict": dict, "bool": bool, "int": int, "float": float, "str": str}[name])
        case ast.Subscript(value=ast.Name(id="dict" | "list" | "tuple" as name)):
            return isinstance(value, dict if name == "dict" else (list, tuple))
        case ast.Subscript(value=ast.Name(id="Optional" | "Union" as name), slice=inner):
            options = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return (name == "Optional" and value is None) or any(_accepts(value, option) for option in options)
        case ast.Subscript(value=ast.Name(id="Literal")):
            return value in [n.value for n in ast.walk(annotation) if isinstance(n, ast.Constant)]
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
