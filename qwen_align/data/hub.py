"""A data set by Hub name or local folder, with one clear error when it cannot be had."""

from typing import TYPE_CHECKING

from qwen_align.errors import ConfigError
from qwen_align.hub.rows import Source, downloaded

if TYPE_CHECKING:
    from datasets import Dataset


def load(source: Source, split: str, columns: tuple[str, ...], limit: int | None = None) -> "Dataset":
    """These columns of one split, and of its rows the first `limit`, or all; a folder has no configuration and no revision."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    config, revision = (None, None) if source.folder else (source.config, source.revision)
    try:
        place = source.folder or downloaded(source) or source.name
        rows = load_dataset(str(place), config, data_dir=source.data_dir, split=split, revision=revision)
    except (OSError, ValueError, DatasetsError) as error:
        why = f"cannot be loaded from the Hub, its cache or a folder ({str(error).splitlines()[0]})"
        raise ConfigError(f"{source.setting}: {why}{source.offline}") from error
    for column in columns:
        if column not in rows.column_names:
            raise ConfigError(f"{source.setting}: has no column {column}; it has {', '.join(rows.column_names)}")
    return rows.select(range(min(limit or len(rows), len(rows)))).select_columns(list(columns))
