"""Settings with which a stage takes about a second."""

from qwen_align.config import groups

TINY = ("experiment=smoke",)
TINY_MODEL = tuple(f"model.{key}={value}" for key, value in groups.read("experiment", "smoke")["model"].items())


def under(node: str, settings: str) -> tuple[str, ...]:
    """Overrides NODE.KEY=VALUE of a text of KEY=VALUE."""
    return tuple(f"{node}.{setting}" for setting in settings.split())
