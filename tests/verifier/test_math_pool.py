"""The workers behind the maths verifier: killed when late, counted, usable from any thread, gone with their parent."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qwen_align.verifier import math_pool
from qwen_align.verifier.math import Verdict, timeouts, verify

pytestmark = pytest.mark.slow

CORRECT, WRONG = Verdict.CORRECT, Verdict.WELLFORMED_WRONG


@pytest.fixture
def pool(monkeypatch):
    """A fresh pool with short limits."""
    monkeypatch.setattr(math_pool, "TIME_LIMIT", 1.0)
    math_pool._reset()
    yield math_pool
    for worker in filter(None, math_pool._places.queue):
        math_pool._end(worker)
    math_pool._reset()


ENDLESS = r"\binom{1000000000}{500000000}"


def test_late_worker_is_killed_counted_logged_and_replaced(pool, caplog):
    assert pool.equal("4", r"\sqrt{16}") is True
    worker = pool._places.queue[-1]
    start = time.perf_counter()
    assert verify(rf"\boxed{{{ENDLESS}}}", "10") is WRONG
    assert time.perf_counter() - start < 30
    assert worker.returncode == -signal.SIGKILL
    assert timeouts() == 1
    assert "binom" in caplog.text
    assert verify(r"\boxed{\sqrt{16}}", "4") is CORRECT
    assert timeouts() == 1


def test_worker_that_dies_while_idle_is_replaced(pool):
    assert pool.equal("4", r"\sqrt{16}") is True
    pool._places.queue[-1].kill()
    time.sleep(0.1)
    assert pool.equal("4", r"\sqrt{16}") is True
    assert timeouts() == 0


def test_any_thread_may_ask_and_the_pool_stays_small(pool):
    main = threading.get_ident()
    verdicts = []

    def ask(number):
        assert threading.get_ident() != main
        verdicts.append(verify(rf"\boxed{{\sqrt{{{number * number}}}}}", str(number)))

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(ask, range(1, 25)))
    assert verdicts == [CORRECT] * 24
    assert pool._places.qsize() == pool.SIZE


def test_missing_math_verify_is_an_error_and_no_verdict(pool, monkeypatch, tmp_path):
    broken = tmp_path / "worker.py"
    broken.write_text("""print('"ModuleNotFoundError: No module named math_verify"')""")
    monkeypatch.setattr(math_pool, "_SCRIPT", str(broken))
    with pytest.raises(RuntimeError, match="No module named math_verify"):
        verify(r"\boxed{\sqrt{16}}", "4")


def run(script: str, **options) -> str:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, **options).stdout


def test_import_is_light_and_plain_numbers_start_no_process():
    run("""
        import sys
        from qwen_align.verifier import math, math_pool
        assert math.verify("#### 1,234", "1234") == "correct"
        assert not {"torch", "transformers", "trl", "datasets", "numpy", "sympy", "math_verify"} & set(sys.modules)
        assert not any(math_pool._places.queue)
    """)


def test_forked_child_gets_workers_of_its_own():
    run("""
        import multiprocessing
        from qwen_align.verifier import math_pool

        def ask(expected):
            assert math_pool.equal("4", r"\\sqrt{16}") is True
            assert math_pool._places.queue[-1].pid != expected

        assert math_pool.equal("4", r"\\sqrt{16}") is True
        worker = math_pool._places.queue[-1].pid
        child = multiprocessing.get_context("fork").Process(target=ask, args=(worker,))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert math_pool.equal("4", r"\\sqrt{16}") is True
        assert math_pool._places.queue[-1].pid == worker
    """)


@pytest.mark.parametrize("ending", ["pass", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_workers_end_with_the_interpreter_even_a_killed_one(ending):
    script = f"""
        import os, signal, threading, time
        from qwen_align.verifier import math_pool
        math_pool.TIME_LIMIT = 0.5
        workers = [math_pool._started(), math_pool._started()]
        math_pool._places.queue[:2] = workers
        print([worker.pid for worker in workers], flush=True)
        if {ending != "pass"}:
            workers[0].stdin.write(b'["10", "\\\\\\\\binom{{1000000000}}{{500000000}}"]\\n')
        {ending}
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    workers = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60).stdout)
    deadline = time.monotonic() + 5
    while any(is_running(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(worker) for worker in workers)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
