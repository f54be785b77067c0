"""The reference's log-probs for DPO and KTO, computed before the first step: of the rows that will be trained, kept on disk.

TRL computes them for all rows, keeps them in memory until the last one, and begins again after every interrupt: more work than
the run itself where max_steps ends it early. Here each micro-batch is one that the first epoch will train, so reference and
policy round alike and the first loss is that of no difference. The numbers are TRL's own (`compute_ref_log_probs`).

`reference.jsonl` in the run folder: what they depend on, then a line a row. Left out: several processes and DeepSpeed, where
TRL's way remains.
"""

import json
import math
import zlib
from array import array
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from tqdm import tqdm

from qwen_align import run_folder
from qwen_align.compat.trl import PreferenceSteps

FILE = "reference.jsonl"
Row = dict[str, Any]


def order(trainer: PreferenceSteps, rows: int) -> list[int]:
    """Which of so many rows will be trained, as the first epoch reads them; what only later epochs read comes last."""
    loader = trainer.get_train_dataloader()
    *_, steps = trainer.set_initial_training_values(trainer.args, loader)
    batches = steps * trainer.args.gradient_accumulation_steps
    first = [row for batch in islice(loader.batch_sampler or (), batches) for row in batch]
    later = sorted(set(range(rows)) - set(first)) if batches > len(loader) else []
    return first + later


def _checksum(row: Row) -> int:
    """Of a row's token ids."""
    ids = [row[name] for name in sorted(row) if name.endswith("_ids")]
    return zlib.crc32(array("q", [part for one in ids for part in (*one, -1)]).tobytes())


def _depends_on(trainer: PreferenceSteps) -> dict[str, Any]:
    args = trainer.args
    settings = {name: getattr(args, name, None) for name in ("bf16", "fp16", "ld_alpha", "max_length")}
    return {"model": trainer.reference_hash, **settings}


def _written(path: Path, depends_on: dict[str, Any], dataset: Dataset) -> dict[int, list[float]]:
    """row -> log-probs of an earlier attempt; the file is left with those alone, so lines can be appended."""
    lines = run_folder.read_jsonl(path)
    kept = [line for line in lines[1:] if line["row"] < len(dataset)] if lines and lines[0] == depends_on else []
    kept = [line for line in kept if line["checksum"] == _checksum(dataset[line["row"]])]
    run_folder.write_text(path, "".join(json.dumps(line) + "\n" for line in (depends_on, *kept)))
    return {line["row"]: line["log_probs"] for line in kept}


def _batches(rows: list[int], size: int) -> Iterable[list[int]]:
    return (rows[i : i + size] for i in range(0, len(rows), size))


def with_log_probs(trainer: PreferenceSteps, dataset: Dataset, batch_size: int, columns: Sequence[str]) -> Dataset:
    """The data set with the reference's log-probs in these columns, NaN for rows that won't be read.

    Goes on where an interrupted attempt stopped; a micro-batch that it left in the middle is computed anew.
    """
    path = Path(str(trainer.args.output_dir)).parent / FILE
    found, rows = _written(path, _depends_on(trainer), dataset), order(trainer, len(dataset))
    todo = [batch for batch in _batches(rows, batch_size) if not found.keys() >= set(batch)]
    print(f"reference log-probs of {len(rows)} of {len(dataset)} rows, {len(found)} of them known", flush=True)
    with path.open("a", encoding="utf-8") as file:
        for batch in tqdm(todo, desc="reference", mininterval=1.0):
            some = [dataset[row] for row in batch]
            for row, content, *values in zip(batch, some, *trainer.score_with_reference(some), strict=True):
                found[row] = values
                file.write(json.dumps({"row": row, "checksum": _checksum(content), "log_probs": values}) + "\n")
            file.flush()
    width = len(next(iter(found.values())))  # KTO without a KL term has one
    by_column = zip(*(found.get(row, [math.nan] * width) for row in range(len(dataset))), strict=True)
    added = Dataset.from_dict(dict(zip(columns, by_column, strict=False)))
    return concatenate_datasets([dataset, added], axis=1)
