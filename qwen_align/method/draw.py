"""Completions that are sampled in waves and survive a kill: each line is on disk before the next prompt is done.

Every wave has a seed of its own, so a run that is killed between waves ends with the completions of an uninterrupted one.
Killed inside a wave it keeps what was finished and draws the rest with a fresh seed: the batches differ then, and the old seed
would hand the finished prompts' random numbers out a second time. Greedy waves draw nothing at random and differ at most by the
rounding of another batch. What is on disk is flushed, not synced: it outlives the process, not a power cut.
"""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwen_align.generator import Completion, Conversation, Generator
from qwen_align.stage import run_folder


def waves(samples: int) -> list[int]:
    """Sizes that sum to `samples`: 1, then as many as all waves before (1, 1, 2, 4, 8 for 16).

    A prompt that leaves at its first accepted completion has then drawn less than twice what one at a time would have taken,
    in log2(samples) + 1 waves, and the last waves, in which few prompts are left, still fill a batch.
    """
    sizes = [1]
    while (drawn := sum(sizes)) < samples:
        sizes.append(min(drawn, samples - drawn))
    return sizes


class Draws:
    """The completions of one stage on disk.

    `resumed` is how many prompts' draws were found there instead of being sampled.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[tuple[str, str, int], list[Completion]] = {}
        self.resumed = 0
        lines = run_folder.read_jsonl(path)
        for line in lines:
            self.known[line["policy"], line["wave"], line["problem"]] = [Completion(*c) for c in line["completions"]]
        # A line torn by a kill must not run into the next one.
        run_folder.write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    def sample(
        self, source: Generator, prompts: Sequence[Conversation], wanted: Sequence[int], *, label: str, wave: str,
        n: int, seed: int, **drawing: Any,
    ) -> dict[int, list[Completion]]:  # fmt: skip
        """n completions for each wanted prompt, by its index; only those that are not on disk yet are sampled."""
        found = {i: self.known[label, wave, i] for i in wanted if (label, wave, i) in self.known}
        missing = [i for i in wanted if i not in found]
        self.resumed += len(found)
        if found:
            print(f"{label} {wave}: {len(found)} of {len(wanted)} problems are on disk already", flush=True)
            seed = zlib.crc32(f"{seed} {len(found)}".encode())
        if not missing:
            return found
        asked = [prompts[i] for i in missing]
        with self.path.open("a", encoding="utf-8") as file:
            for position, answers in source.stream(asked, n=n, seed=seed, title=f"{label} {wave}", **drawing):
                index = missing[position]
                kept = [[c.text, c.tokens, c.finished] for c in answers]
                line = {"policy": label, "wave": wave, "problem": index, "completions": kept}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                found[index] = self.known[label, wave, index] = answers
        return found
