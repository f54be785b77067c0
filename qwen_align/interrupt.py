"""Ctrl-C and SIGTERM in a worker: it stops at once, or inside `deferred` after the training step that is under way."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM; not an Exception, so that no handler for errors swallows it."""


_state = {"asked": False, "deferred": False}


def _on_signal(_number: int, frame: FrameType | None) -> None:
    _state["asked"] = True
    if not _state["deferred"]:
        raise Interrupted
    # A reward function that hangs never lets the step end: this line says which one it is.
    where = f" (now in {frame.f_code.co_filename}:{frame.f_lineno}, {frame.f_code.co_name})" if frame else ""
    print(f"\nstopping after this step{where}; once more to stop at once", flush=True)


def install() -> None:
    signal.signal(signal.SIGTERM, _on_signal)
    signal.signal(signal.SIGINT, _on_signal)


def asked() -> bool:
    return _state["asked"]


@contextmanager
def deferred() -> Iterator[None]:
    """Let the step finish first; raises Interrupted at the end if a stop was asked for."""
    _state["deferred"] = True
    try:
        yield
    finally:
        _state["deferred"] = False
    if _state["asked"]:
        raise Interrupted
