"""A thin configuration layer over TRL: Hydra groups compose into one entrypoint, `python -m qwen_align`."""

__version__ = "0.1.0"
