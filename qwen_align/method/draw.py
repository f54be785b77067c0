"""Completions that are sampled in waves and survive a kill: each line is on disk before the next prompt is done.

Every wave has a seed of its own, so a run that is killed between waves ends with the completions of an uninterrupted one.
Killed inside a wave it keeps what was finished and draws the rest with a fresh seed: the batches differ then, and the old seed
would hand the finished prompts' random numbers out a second time. Greedy waves draw nothing at random and differ at most by the
rounding of another batch. What is on disk is flushed, not synced: it outlives the process, not a power cut.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qwen_align import run_folder
from qwen_align.generator import Completion, Conversation, Generator, Sampling

if TYPE_CHECKING:
    from qwen_align.model import Policy


def waves(samples: int) -> list[int]:
    """Sizes that sum to `samples`: 1, then as many as all waves before (1, 1, 2, 4, 8 for 16).

    A prompt that leaves at its first accepted completion has then drawn less than twice what one at a time would have taken,
    in log2(samples) + 1 waves, and the last waves, in which few prompts are left, still fill a batch.
    """
    sizes = [1]
    while (drawn := sum(sizes)) < samples:
        sizes.append(min(drawn, samples - drawn))
    return sizes


class CompletionLog:
    """The completions of a stage's policies for its prompts, sampled once and kept on disk.

    `resumed` is how many prompts' completions were found there instead of being sampled.

    Args:
        path: completions.jsonl; None keeps nothing.
        source: what samples.
        prompts: of the stage's problems.
    """

    def __init__(self, path: Path | None, source: Generator, prompts: Sequence[Conversation]) -> None:
        self.path, self.source, self.prompts = path, source, prompts
        self.known: dict[tuple[str, str, int], list[Completion]] = {}
        self.resumed = 0
        if path is not None:
            lines = run_folder.read_jsonl(path)
            for line in lines:
                found = [Completion(*c) for c in line["completions"]]
                self.known[line["policy"], line["wave"], line["problem"]] = found
            run_folder.write_jsonl(path, lines)  # a line torn by a kill must not run into the next one

    def sample(
        self, policy: "Policy", label: str, wave: str, sampling: Sampling, wanted: Sequence[int] | None = None
    ) -> list[list[Completion]]:
        """The policy's completions for each wanted prompt, None being all; only those not on disk yet are sampled."""
        wanted = range(len(self.prompts)) if wanted is None else wanted
        missing = [i for i in wanted if (label, wave, i) not in self.known]
        if finished := len(wanted) - len(missing):
            print(f"{label} {wave}: {finished} of {len(wanted)} problems are on disk already", flush=True)
            self.resumed += finished
            sampling = replace(sampling, seed=zlib.crc32(f"{sampling.seed} {finished}".encode()))
        if missing:
            asked = [self.prompts[i] for i in missing]
            for position, found in self.source.stream(asked, sampling, f"{label} {wave}", policy):
                self._keep(label, wave, missing[position], found)
        return [self.known[label, wave, i] for i in wanted]

    def _keep(self, label: str, wave: str, problem: int, found: list[Completion]) -> None:
        self.known[label, wave, problem] = found
        if self.path is not None:
            kept = [[c.text, c.tokens, c.finished] for c in found]
            line = {"policy": label, "wave": wave, "problem": problem, "completions": kept}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
