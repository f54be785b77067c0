"""DPO's reference log-probs, computed before the first step: for the pairs that will be trained, and written down as they come.

TRL computes them for all pairs, keeps them in memory until the last one, and begins again after every interrupt: more work than
the run itself where max_steps ends it early. Here each micro-batch is one that the first epoch will train, so reference and
policy round alike and the first loss is that of no difference. The numbers are TRL's own (`compute_ref_log_probs`).

`reference.jsonl` in the run folder: what they depend on, then a line a pair. Left out: several processes and DeepSpeed, where
TRL's way remains.
"""

import json
import math
import zlib
from array import array
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from tqdm import tqdm
from trl import DPOTrainer

from qwen_align.stage import run_folder

FILE = "reference.jsonl"
_IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
_SIDES = ("ref_chosen_logps", "ref_rejected_logps")
Pair = dict[str, Any]


def order(trainer: DPOTrainer, rows: int) -> list[int]:
    """Which of so many rows will be trained, as the first epoch reads them; what only later epochs read comes last."""
    loader = trainer.get_train_dataloader()
    *_, steps = trainer.set_initial_training_values(trainer.args, loader)
    batches = steps * trainer.args.gradient_accumulation_steps
    first = [row for batch in islice(loader.batch_sampler or (), batches) for row in batch]
    later = sorted(set(range(rows)) - set(first)) if batches > len(loader) else []
    return first + later


def _mark(pair: Pair) -> int:
    """A number that tells a pair's token ids from others'."""
    return zlib.crc32(array("q", [part for name in _IDS for part in (*pair[name], -1)]).tobytes())


def _depends_on(trainer: DPOTrainer) -> dict[str, Any]:
    args = trainer.args
    settings = {name: getattr(args, name) for name in ("bf16", "fp16", "ld_alpha", "max_length")}
    return {"model": trainer._precompute_model_hash, **settings}


def _written(path: Path, depends_on: dict[str, Any], dataset: Dataset) -> dict[int, list[float]]:
    """row -> log-probs of an earlier attempt; the file is left with those alone, so lines can be appended."""
    lines = run_folder.read_jsonl(path)
    kept = [line for line in lines[1:] if line["row"] < len(dataset)] if lines and lines[0] == depends_on else []
    kept = [line for line in kept if line["mark"] == _mark(dataset[line["row"]])]
    run_folder.write_text(path, "".join(json.dumps(line) + "\n" for line in (depends_on, *kept)))
    return {line["row"]: line["log_probs"] for line in kept}


def _batches(rows: list[int], size: int) -> Iterable[list[int]]:
    return (rows[i : i + size] for i in range(0, len(rows), size))


def with_log_probs(trainer: DPOTrainer, dataset: Dataset, batch_size: int) -> Dataset:
    """The data set with the reference's log-probs of both answers, NaN for pairs that won't be read.

    Goes on where an interrupted attempt stopped; a micro-batch that it left in the middle is computed anew.
    """
    path = Path(str(trainer.args.output_dir)).parent / FILE
    found, rows = _written(path, _depends_on(trainer), dataset), order(trainer, len(dataset))
    todo = [batch for batch in _batches(rows, batch_size) if not found.keys() >= set(batch)]
    print(f"reference log-probs of {len(rows)} of {len(dataset)} pairs, {len(found)} of them known", flush=True)
    with path.open("a", encoding="utf-8") as file:
        for batch in tqdm(todo, desc="reference", mininterval=1.0):
            pairs = [dataset[row] for row in batch]
            inputs = trainer._prepare_inputs(trainer.data_collator(pairs))
            sides = trainer.compute_ref_log_probs(trainer.ref_model or trainer.model, inputs)
            for row, pair, *values in zip(batch, pairs, *(side.tolist() for side in sides), strict=True):
                found[row] = values
                file.write(json.dumps({"row": row, "mark": _mark(pair), "log_probs": values}) + "\n")
            file.flush()
    nothing = [math.nan, math.nan]
    columns = zip(*(found.get(row, nothing) for row in range(len(dataset))), strict=True)
    return concatenate_datasets([dataset, Dataset.from_dict(dict(zip(_SIDES, columns, strict=True)))], axis=1)
