"""A data set by Hub name or local folder, with one clear error when it cannot be had."""

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from qwen_align.errors import ConfigError
from qwen_align.hub.rows import Source, downloaded


def load(
    key: str,
    name: str,
    split: str,
    columns: tuple[str, ...],
    config: str | None = None,
    data_dir: str | None = None,
    revision: str | None = None,
) -> Dataset:
    """One split of a data set.

    Args:
        key: the config key that holds the name, for messages.
        name: a Hub name, or a folder with Parquet, JSONL or CSV files.
        columns: what it must have.
        config: which of the Hub data set's configurations.
        data_dir: which of its folders; all where it is None.
        revision: of the Hub data set; None: main.

    Raises:
        ConfigError: it cannot be loaded, or lacks a column.
    """
    try:
        source = Source(key, name, revision, config=config, data_dir=data_dir)
        place = source.folder or downloaded(source) or name
        rows = load_dataset(
            str(place), config, data_dir=data_dir, split=split, revision=None if source.folder else revision
        )
    except (OSError, ValueError, DatasetsError) as error:
        raise ConfigError(
            f"{key}={name}: cannot be loaded from the Hub, its cache or a folder ({str(error).splitlines()[0]}); "
            "offline, data=countdown makes its own problems"
        ) from error
    for column in columns:
        if column not in rows.column_names:
            raise ConfigError(f"{key}={name}: has no column {column}; it has {', '.join(rows.column_names)}")
    return rows
