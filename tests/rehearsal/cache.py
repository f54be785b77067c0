"""Stand-ins of every model and data set that conf/ names by Hub name, in a folder that HF_HOME can point to.

File names, dtypes, columns, configurations and vocabulary sizes are the Hub's, as far as they are known here; weights are
random, texts are made up. By default models have a few layers and data sets a few dozen rows, made in seconds; with real=True
they have the real layers and widths, several GB. A repository lies as `huggingface_hub` leaves it: links into blobs, a ref for
main, the commit that conf/ pins. Two data sets lie as `datasets` prepares them, the others as downloads.

    PYTHONPATH=tests python -m rehearsal.cache FOLDER
"""

import argparse
import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qwen_align.config import groups

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Size:
    """How large the stand-ins are.

    Args:
        real: hidden sizes and layers of the real models.
        layers: so many layers instead.
        rows: of each split of SmolTalk and UltraFeedback; None: a few dozen.
    """

    real: bool = False
    layers: int | None = None
    rows: int | None = None


def pinned() -> dict[str, str | None]:
    """Every Hub name that is a value in conf/ -> the commit that stands beside it. Suites of bench/ name policies so."""
    found: dict[str, str | None] = {}
    for path in sorted(groups.CONF.rglob("*.yaml")):
        if path.parent.name == "bench":
            continue
        values = dict(groups.flatten(yaml.safe_load(path.read_text(encoding="utf-8"))))
        for key, value in values.items():
            if isinstance(value, str) and _NAME.fullmatch(value) and not value.startswith("launch/"):
                above, _, name = key.rpartition(".")
                stem = name.removesuffix("_name")
                beside = f"{above}." * bool(above) + ("revision" if stem in (name, "") else f"{stem}_revision")
                found[value] = values.get(beside) or found.get(value)
    return found


def unpinned(name: str) -> str:
    """The commit that main of a repository stands for where conf/ pins none, or another."""
    return hashlib.sha1(name.encode()).hexdigest()


@contextmanager
def commit(home: Path, kind: str, name: str, sha: str, main: bool = True) -> Iterator[Path]:
    """A folder whose files become one commit of a repository; of `main` where the ref is to say so."""
    repository = home / "hub" / f"{kind}s--{name.replace('/', '--')}"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / sha
    blobs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=blobs) as scratch:
        yield Path(scratch)
        for path in sorted(p for p in Path(scratch).rglob("*") if p.is_file()):
            inside = path.relative_to(scratch)
            blob, link = blobs / hashlib.sha1(f"{sha} {inside}".encode()).hexdigest(), snapshot / inside
            path.replace(blob)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(*[".."] * (len(inside.parts) + 1), "blobs", blob.name))
    if main:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(sha)


def stand_ins() -> dict[str, Any]:
    """Hub name -> what writes its stand-in."""
    from rehearsal import models, rows

    return models.STAND_INS | rows.STAND_INS


def build(home: Path, size: Size | None = None, only: set[str] | None = None) -> None:
    """Write all stand-ins, or those named, into `home`."""
    pins = pinned()
    for name, write in stand_ins().items():
        if only is None or name in only:
            write(home, name, pins.get(name) or unpinned(name), size or Size())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--real", action="store_true", help="hidden sizes and layers of the real models")
    parser.add_argument("--layers", type=int, help="so many layers instead")
    parser.add_argument("--rows", type=int, help="of SmolTalk and UltraFeedback")
    parser.add_argument("--only", nargs="*", help="Hub names")
    given = parser.parse_args()
    build(given.home, Size(given.real, given.layers, given.rows), set(given.only) if given.only else None)


if __name__ == "__main__":
    main()
