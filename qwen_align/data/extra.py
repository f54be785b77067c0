"""`data.extra`: a file of demonstrations that is mixed into a data set's own, for example what method=synthesize wrote.

It is read as `data=local` reads demonstrations: prompt and completion as text or messages, every row that cannot be used named
with its file and line. Columns that the data set does not have are left out. Left out: weights; to mix more of it, repeat rows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwen_align.data.conversation import answered, asked
from qwen_align.errors import ConfigError


def check(path: str | None) -> None:
    """Raise ConfigError unless there is such a file, or none is wanted."""
    if path is not None and not Path(path).expanduser().is_file():
        raise ConfigError(f"data.extra={path}: no such file; expected demonstrations such as method=synthesize writes")


def read(path: str | None, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """prompt, completion and these columns (None where the file has no such thing); no rows without a path.

    Raises:
        ConfigError: a file that is not there, or rows that cannot be used.
    """
    from qwen_align.data.local import Local

    if path is None:
        return []
    check(path)
    try:
        rows = Local(demonstrations_path=path).demonstrations().to_list()
    except ConfigError as error:
        said = str(error).replace("data.demonstrations_path", "data.extra")
        raise ConfigError(said.replace("; data.on_bad_row=skip leaves them out", "")) from error
    print(f"data.extra={path}: {len(rows)} demonstrations are mixed in", flush=True)
    rows = [row | {"prompt": asked(row), "completion": answered(row)} for row in rows]
    return [{name: row.get(name) for name in ("prompt", "completion", *columns)} for row in rows]
