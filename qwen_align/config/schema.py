"""What config classes accept, read from their source text without importing them: any trainer's, PEFT's, a user's own.

Left out: classes whose settings are no annotated fields.
"""

import ast
import re
from functools import lru_cache
from typing import Any

from qwen_align.config import ranges, source_code


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
    if isinstance(value, str) and "${" in value:
        return True
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
        case ast.Subscript(value=ast.Name(id="dict")):
            return isinstance(value, dict)
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return isinstance(value, (list, tuple)) and all(_accepts(item, inner) for item in value)
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=inner)):
            pairs = zip(value, inner, strict=False) if isinstance(value, (list, tuple)) and len(value) == len(inner) else None
            return pairs is not None and all(_accepts(item, kind) for item, kind in pairs)
        case ast.Subscript(value=ast.Name(id="Optional" | "Union" as name), slice=inner):
            options = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return (name == "Optional" and value is None) or any(_accepts(value, option) for option in options)
        case ast.Subscript(value=ast.Name(id="Literal")):
            return value in [n.value for n in ast.walk(annotation) if isinstance(n, ast.Constant)]
    return True


def problem(name: str, value: Any, annotation: ast.expr) -> str | None:
    """What is wrong with a field's value, as 'expected ...', or None."""
    also = ranges.ALSO.get(name)
    if not _accepts(value, annotation) and not (also and also(value)):
        text = ast.unparse(annotation).replace("typing.", "")
        for enum, values in enums().items():
            if re.search(rf"\b{enum}\b", text):
                return f"expected one of {', '.join(values)}"
        example = f", for example [{value}]" if isinstance(value, str) and text.startswith("list[str]") else ""
        return f"expected {text}{example}"
    wrong = ranges.expected(name, value)
    return f"expected {wrong}" if wrong else None
