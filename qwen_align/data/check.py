"""All rows of the user's files before the first stage, with the reader that a stage uses later and without its packages."""

from qwen_align.data.files import File, Scan, usable

_CONVERSATION = ("prompt", "messages", "completion", "chosen", "rejected")


def report(file: File) -> str:
    """One line: rows, columns, and what is odd but no mistake. Raises ConfigError for rows that a stage could not use."""
    scan, seen, again = Scan(), set(), 0
    for row in usable(file, scan):
        texts = hash(tuple((m["role"], m["content"]) for name in _CONVERSATION for m in row.get(name, ())))
        again += texts in seen
        seen.add(texts)
    repeated = f"; {again:,} rows repeat an earlier one" if again else ""
    left_out = f"; {scan.left_out()}; left out" if scan.bad else ""
    return f"{file}: {scan.rows:,} rows with {', '.join(scan.columns)}{repeated}{left_out}"
