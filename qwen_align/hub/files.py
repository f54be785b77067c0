"""The files of a repository: in a local folder, in the Hub's cache, or as the Hub lists them, and whether they are whole.

The order is that of the libraries which load them: a folder, then the cache, and one question to the Hub for what neither has.
An empty or half-fetched file, a link to nothing, a pointer of Git LFS, safetensors shorter than their header says and a config
that is no JSON count as missing. Left out: whether the bytes are the right ones.
"""

import json
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from huggingface_hub import constants
from safetensors import SafetensorError, safe_open

from qwen_align.errors import ConfigError

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_LFS_POINTER = b"version https://git-lfs"
_ZIP = b"PK\x03\x04"
_SHARD = re.compile(r"(.*-)\d{5}-of-(\d{5})(\..+)")


@dataclass(frozen=True)
class Need:
    """A repository, by the config key and the value that name it: a Hub name or a folder."""

    kind: ClassVar[str]
    key: str
    name: str
    revision: str | None = None
    advice: str = ""  # what helps without a network

    @property
    def setting(self) -> str:
        return f"{self.key}={self.name}"

    @property
    def at(self) -> str:
        return f" at revision {self.revision}" if self.revision else ""

    @property
    def offline(self) -> str:
        return f"; offline, {self.advice}" if self.advice else ""

    @property
    def on_hub(self) -> bool:
        """Whether it may be a name on the Hub."""
        return self.folder is None and _HUB_NAME.fullmatch(self.name) is not None

    @property
    def folder(self) -> Path | None:
        """The local folder of that name."""
        own = Path(self.name).expanduser()
        return own if own.is_dir() else None


class Files(NamedTuple):
    """Names of the files of a repository; `broken` ones are there and can't be read whole."""

    folder: Path | None
    whole: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        return self.whole | self.broken


def snapshot(name: str, kind: str, revision: str | None) -> Path | None:
    """The cache's folder, named by the commit, of a branch, a tag or a commit of a Hub name; None: it has none."""
    repo = Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"
    ref = repo / "refs" / (revision or "main")
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    return folder if commit and (folder := repo / "snapshots" / commit).is_dir() else None


def _is_whole(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
            if path.name.endswith((".index.json", "config.json")):
                json.loads(path.read_bytes())
            if not start or start == _LFS_POINTER or path.resolve().suffix == ".incomplete":
                return False
        if path.suffix == ".safetensors":
            safe_open(path, "np")  # compares the length that its header says
        return not start.startswith(_ZIP) or zipfile.is_zipfile(path)  # torch.save writes one; its index is at the end
    except (OSError, ValueError, SafetensorError):
        return False  # not to be read, or not what its name says


def files_of(need: Need) -> Files:
    """What a folder of that name, else the cache, has. A model's files lie in its folder, a data set's anywhere below."""
    folder = need.folder or snapshot(need.name, need.kind, need.revision)
    if folder is None:
        return Files(None)
    below = folder.iterdir() if need.kind == "model" else folder.rglob("*")
    whole = {path.relative_to(folder).as_posix(): _is_whole(path) for path in below if path.is_file()}
    return Files(folder, frozenset(n for n, ok in whole.items() if ok), frozenset(n for n, ok in whole.items() if not ok))


def _listed(need: Need) -> frozenset[str]:
    """The names of the files that the Hub has; ConfigError without such a repository or revision, or a connection."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RevisionNotFoundError

    ask = HfApi().model_info if need.kind == "model" else HfApi().dataset_info
    try:
        info = ask(need.name, revision=need.revision, timeout=10)
    except HFValidationError as error:
        raise ConfigError(f"{need.setting}: neither a folder nor a Hub name like org/name{need.offline}") from error
    except RevisionNotFoundError as error:
        raise ConfigError(f"{need.setting}: the Hub has nothing{need.at} of it; expected a commit, or main") from error
    except HfHubHTTPError as error:
        raise ConfigError(f"{need.setting}: the Hub says {str(error).splitlines()[0]}{need.offline}") from error
    except Exception as error:  # whatever the HTTP library underneath raises: no name, no route, no time
        main = snapshot(need.name, need.kind, None)
        other = main is not None and main.name != need.revision
        advice = f"; HF_HUB_OFFLINE=1 takes {main.name}, which the cache has" if main and other else need.offline
        raise ConfigError(f"{need.setting}: not in the local cache{need.at}, and the Hub cannot be reached{advice}") from error
    return frozenset(file.rfilename for file in info.siblings or ())


def complete(need: Need, lacks: Callable[[Files], str | None]) -> Files:
    """The files of a repository, ConfigError unless it has all; the Hub is only asked where the cache lacks some.

    `lacks` names the first missing file, None where there is none.
    """
    files, setting, asked = files_of(need), need.setting, False
    missing = lacks(files)
    if missing and missing not in files.broken and need.on_hub and not constants.HF_HUB_OFFLINE:
        files, asked = files._replace(whole=files.whole | (_listed(need) - files.broken)), True
        missing = lacks(files)
    if missing is None:
        return files
    if missing in files.broken:
        again = "" if need.folder else "; delete that folder, and it is fetched again"
        raise ConfigError(f"{setting}: {missing} in {files.folder} is empty, cut short or a pointer of Git LFS{again}")
    if need.folder:
        raise ConfigError(f"{setting}: that folder has no {missing}")
    if not need.on_hub:
        raise ConfigError(f"{setting}: neither a folder nor a Hub name like org/name{need.offline}")
    if asked:
        raise ConfigError(f"{setting}: the Hub has no {missing} of it{need.at}")
    there = f"the cache has no {missing} of it" if files.folder else f"not in the cache ({constants.HF_HUB_CACHE})"
    raise ConfigError(f"{setting}: {there}{need.at}, and HF_HUB_OFFLINE forbids to fetch it{need.offline}")


def with_all_shards(names: Iterable[str], first: int) -> list[str]:
    """Names, and beside each one like NAME-00001-of-00003.EXT the others of its count, which begin at `first`."""
    found = set()
    for name in names:
        part = _SHARD.fullmatch(name)
        count = int(part[2]) if part else 0
        found |= {f"{part[1]}{first + i:05}-of-{part[2]}{part[3]}" for i in range(count)} if part else {name}
    return sorted(found)
