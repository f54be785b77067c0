"""The process behind `math_pool`: reads pairs of answers as JSON lines, writes whether Math-Verify holds them equal.

A script that imports nothing of this package, so that it starts from any working directory. It runs under a hard limit
of its own: SIGALRM keeps its default action, which ends the process even inside a C loop, so a worker that has lost
its parent can't outlive one answer. Only Math-Verify's LaTeX reading is used: its plain reading hands text to sympy's
`parse_expr`, which calls `eval`.
"""

import json
import os
import signal
import sys

MEMORY_LIMIT = 2 << 30  # bytes of address space
FLOAT_DIGITS = 12  # decimals compared where a float meets an irrational number; 0.333333 must not pass for 1/3


def main(time_limit: float) -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # antlr prints warnings, which must not mix with the answers
    try:
        import logging
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
        from math_verify import LatexExtractionConfig, parse, verify

        logging.disable(logging.CRITICAL)
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=channel, flush=True)
        return
    config = [LatexExtractionConfig(boxed_match_priority=0)]
    print(json.dumps({"ready": True}), file=channel, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, time_limit + 1)
        gold, candidate = (parse(rf"$\displaystyle {text}$", config, parsing_timeout=None) for text in json.loads(line))
        equal = verify(gold, candidate, float_rounding=FLOAT_DIGITS, timeout_seconds=None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(bool(equal)), file=channel, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
