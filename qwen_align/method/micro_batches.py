"""The rows of one update over its micro-batches: the same rows and the same gradient, with less padding.

An update's loss is a mean over its rows or tokens, so it is the same whichever micro-batch a row is in. Sorted by length, rows
are padded to others like them; rollouts without advantage add nothing to loss or gradient and leave.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Sampler
from transformers import TrainingArguments

Batch = dict[str, Any]  # name -> a tensor with a row for each completion, or what is not about rows


class ByLength(Sampler[int]):
    """A sampler's rows, those of each update sorted by length.

    Args:
        inner: gives rows in the order of training.
        lengths: of each row.
        update: rows in an update, over all processes.
    """

    def __init__(self, inner: Any, lengths: Any, update: int) -> None:
        self.inner, self.lengths, self.update = inner, lengths, update

    def __iter__(self) -> Iterator[int]:
        rows = list(self.inner)
        for begin in range(0, len(rows), self.update):
            some = rows[begin : begin + self.update]
            # An epoch's last update can have a smaller micro-batch, whose mean gives its rows more weight.
            yield from sorted(some, key=lambda row: self.lengths[row]) if len(some) == self.update else some

    def __len__(self) -> int:
        return len(self.inner)

    def set_epoch(self, epoch: int) -> None:
        """Of a sampler whose order depends on it."""
        if hasattr(self.inner, "set_epoch"):
            self.inner.set_epoch(epoch)


def sort_updates(loader: DataLoader[Any], rows: Dataset, args: TrainingArguments) -> DataLoader[Any]:
    """Let a trainer's data loader give each update's rows by length, the sum of their columns of token ids."""
    update = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    ids = [name for name in rows.column_names if name.endswith("_ids")]
    table = rows.select_columns(ids).with_format("arrow")[:]
    lengths = sum(np.asarray(pc.list_value_length(table[name])) for name in ids)
    batches: Any = loader.batch_sampler  # behind those that share it out or skip
    while hasattr(batches, "batch_sampler"):
        batches = batches.batch_sampler
    assert isinstance(batches, BatchSampler)
    batches.sampler = ByLength(batches.sampler, lengths, update)
    return loader


def cut(batch: Batch) -> Batch:
    """Without the columns that are padding in every row."""
    begin = int(batch["prompt_mask"].any(0).int().argmax())
    end = max(int(batch["completion_mask"].sum(1).max()), 1)
    width = batch["completion_mask"].shape[1]

    def narrowed(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() < 2:
            return value
        if name.startswith("prompt"):
            return value[:, begin:]
        return value[:, :end] if value.shape[1] == width else value

    return {name: narrowed(name, value) for name, value in batch.items()}


def cost(pieces: Sequence[Tensor], lengths: Tensor, groups: Tensor, prompts: Tensor, shared: bool) -> int:
    """Tokens that the model computes, padding included, for rows split so."""
    total = 0
    for rows in pieces:
        count = len(groups[rows].unique()) if shared else len(rows)
        total += count * int(prompts[rows].max()) + len(rows) * int(lengths[rows].max())
    return total


def arranged(batches: Sequence[Batch], drop: bool, shared: bool) -> list[Batch]:
    """One update's micro-batches of rollouts, by length, padding cut off.

    Args:
        batches: of TRL, equally large, with prompt_ids, prompt_mask, completion_ids, completion_mask and advantages.
        drop: leave out rows without advantage; the others' advantages are scaled so that the mean still divides by all rows. A
            micro-batch keeps one row at least, since every process has to take part in each.
        shared: whether a prompt is computed once for the rows of a micro-batch that have it.
    """
    pieces, size = len(batches), len(batches[0]["advantages"])
    rows = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0] if _is_rows(batches[0][name], size)}
    lengths, prompts = rows["completion_mask"].sum(1), rows["prompt_mask"].sum(1)
    _, groups = torch.unique(rows["prompt_ids"], dim=0, return_inverse=True)
    kept = torch.arange(len(lengths), device=lengths.device)
    if drop:
        magnitude = rows["advantages"].abs()
        matter = magnitude > 1e-6 * magnitude.max()  # the rest is what rounding leaves of equal rewards
        kept = torch.cat([kept[matter], kept[~matter][: max(pieces - int(matter.sum()), 0)]])
    longest = lengths.new_zeros(int(groups.max()) + 1).scatter_reduce(0, groups[kept], lengths[kept], "amax")
    together = longest[groups[kept]] * len(longest) + groups[kept]
    ways = [kept[torch.argsort(key, stable=True)].tensor_split(pieces) for key in (together, lengths[kept])]
    best = min(ways, key=lambda way: cost(way, lengths, groups, prompts, shared))
    found = []
    for batch, chosen in zip(batches, best, strict=True):
        one = batch | {name: value[chosen] for name, value in rows.items()}
        found.append(cut(one | {"advantages": one["advantages"] * (len(chosen) / size)}))
    return found


def _is_rows(value: Any, size: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == size


def each_update(batches: Sequence[Batch], accumulation: int, arrange: Callable[[Sequence[Batch]], list[Batch]]) -> list[Batch]:
    """Arrange the micro-batches of each update among themselves; those of one generation may be for several updates."""
    count = len(batches)
    window = min(count, accumulation) if count % accumulation == 0 or accumulation % count == 0 else 1
    return [one for begin in range(0, count, window) for one in arrange(batches[begin : begin + window])]
