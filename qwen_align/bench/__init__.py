"""Speed: ours and the usual way side by side in one run, and a ratio comes with its spread.

python -m qwen_align.bench suite=speed      (or: make bench SUITE=speed)

A suite is a YAML in conf/bench/ whose `_target_` is the `run` of a module here, which gives rows.
"""
