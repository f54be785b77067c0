"""Exact answers to "is this completion right?": Countdown and maths, without `eval`, in bounded time.

A verifier reads a completion and what the prompt asked for, and returns a `Verdict`. What a verdict is worth is the
reward's business.
"""
