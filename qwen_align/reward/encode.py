"""From (prompt, completion) to token ids: the only way there, in training and in scoring alike.

A pair is framed as the tokenizer frames one ([CLS] prompt [SEP] answer [SEP] for BERT's family), or, for `siamese`, prompt and
answer each get a frame of their own. A reward model that reads other ids than it was trained on scores wrongly without a word
(TRL glues prompt and answer when it is handed the model itself), so nothing here depends on who asks.

Text is only text: a special token written out in it ([SEP], which would forge the frame) is read as plain pieces, or as the
unknown token where a vocabulary knows no other way to read it. What is too long loses the beginning of its prompt first, down
to an eighth of the room, and then the end of its answer. Left out: chat templates, images, tools.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from qwen_align.errors import ConfigError
from qwen_align.reward import Conversation

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

ARCHITECTURES = ("pair", "siamese")
_FEWEST = 4  # rows of a batch before its padding matters more than its size
_PROMPT_SHARE = 8  # an over-long pair keeps at least one part in so many for the end of its prompt


class Encoded(NamedTuple):
    """Token ids of prompt and answer in their frame; the answer's segment begins at `split`."""

    ids: list[int]
    split: int
    truncated: bool


class _Frame(NamedTuple):
    before: list[int]
    between: list[int]
    after: list[int]


def flatten(prompt: Conversation) -> str:
    """A prompt as one text: plain text or a single message as it is, several as paragraphs that begin with User: and so on."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in prompt)


def cut(prompt: list[int], answer: list[int], room: int) -> tuple[list[int], list[int]]:
    """The end of the prompt and the beginning of the answer that fit into `room` tokens, the answer whole where it can be."""
    kept = min(len(prompt), max(room - len(answer), room // _PROMPT_SHARE))
    return prompt[len(prompt) - kept :], answer[: room - kept]


@dataclass
class PairEncoder:
    """Encodes and pads for one tokenizer.

    Args:
        tokenizer: of the reward model.
        architecture: pair (one sequence) or siamese (two).
        max_length: tokens of a sequence, frame included; of each of the two for siamese.
        type_vocab_size: how many segment types the network knows; below 2 it is told none.

    Raises:
        ConfigError: a tokenizer that puts nothing between prompt and answer, or a max_length that leaves no room.
    """

    tokenizer: "PreTrainedTokenizerBase"
    architecture: str = "pair"
    max_length: int = 512
    type_vocab_size: int = 0

    def __post_init__(self) -> None:
        tokenizer = self.tokenizer
        both = ("a", "b") if self.architecture == "pair" else ("a",)
        probe = tokenizer(*both, return_token_type_ids=True)  # a class that does not name them has them all the same
        ids, owners = probe["input_ids"], probe.sequence_ids(0)
        first = owners.index(0)
        end = len(owners) - owners[::-1].index(0)
        if self.architecture == "pair":
            second = owners.index(1)
            last = len(owners) - owners[::-1].index(1)
            self.frame = _Frame(ids[:first], ids[end:second], ids[last:])
            self.typed = self.type_vocab_size > 1 and probe["token_type_ids"][second] == 1
            if not self.frame.between:
                raise ConfigError(
                    "reward.base: its tokenizer puts nothing between a prompt and an answer; expected an encoder such as "
                    "DeBERTa, DistilBERT or BERT"
                )
        else:
            self.frame, self.typed = _Frame(ids[:first], [], ids[end:]), False
        if self.max_length < sum(map(len, self.frame)) + _PROMPT_SHARE:
            raise ConfigError(f"reward.max_length={self.max_length}: leaves no room for text; expected 16 or more")
        added = tokenizer.added_tokens_decoder
        known = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
        self.forged = known - {tokenizer.unk_token_id}

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of plain texts, none of them a special token but the unknown one."""
        if not texts:
            return []
        unknown = self.tokenizer.unk_token_id
        plain = [] if unknown is None else [unknown]
        found = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)
        clean = []
        for ids in found["input_ids"]:
            if not self.forged.isdisjoint(ids):
                ids = [i for old in ids for i in (plain if old in self.forged else [old])]
            clean.append(ids)
        return clean

    def encode(self, prompts: Sequence[Conversation], completions: Sequence[str]) -> list[Encoded]:
        """Token ids for each prompt with its completion; a prompt that comes several times is read once."""
        texts = [flatten(prompt) for prompt in prompts]
        unique = list(dict.fromkeys(texts))
        read = dict(zip(unique, self._ids(unique), strict=True))
        answers = self._ids(completions)
        return [self._framed(read[text], answer) for text, answer in zip(texts, answers, strict=True)]

    def _framed(self, prompt: list[int], answer: list[int]) -> Encoded:
        before, between, after = self.frame
        room = self.max_length - len(before) - len(between) - len(after)
        if self.architecture == "siamese":
            kept, whole = prompt[max(len(prompt) - room, 0) :], answer[:room]
            first, second = [*before, *kept, *after], [*before, *whole, *after]
        else:
            kept, whole = cut(prompt, answer, room)
            first, second = [*before, *kept, *between], [*whole, *after]
        truncated = len(kept) < len(prompt) or len(whole) < len(answer)
        return Encoded(first + second, len(first), truncated)

    def collate(self, rows: Sequence[Encoded]) -> "dict[str, Tensor]":
        """What the network takes, padded on the right, (rows, tokens) each; siamese: prompts beside answers."""
        if self.architecture == "siamese":
            prompts = self._padded([row.ids[: row.split] for row in rows])
            return {f"prompt_{key}": value for key, value in prompts.items()} | self._padded(
                [row.ids[row.split :] for row in rows]
            )
        inputs = self._padded([row.ids for row in rows])
        if self.typed:
            types = inputs["input_ids"].new_zeros(inputs["input_ids"].shape)
            for i, row in enumerate(rows):
                types[i, row.split : len(row.ids)] = 1
            inputs["token_type_ids"] = types
        return inputs

    def _padded(self, sequences: list[list[int]]) -> "dict[str, Tensor]":
        import torch

        longest = max(map(len, sequences))
        ids = torch.full((len(sequences), longest), self.tokenizer.pad_token_id or 0)
        mask = torch.zeros((len(sequences), longest), dtype=torch.long)
        for i, sequence in enumerate(sequences):
            ids[i, : len(sequence)] = torch.tensor(sequence)
            mask[i, : len(sequence)] = 1
        return {"input_ids": ids, "attention_mask": mask}


def batches(rows: Sequence[Encoded], tokens: int) -> list[list[int]]:
    """Indices of the rows in batches of similar length, longest first, each of at most `tokens` after padding (or one row).

    A batch ends early where a row is a fifth shorter than its longest, so a small set is not padded to its longest text.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids), reverse=True)
    found: list[list[int]] = []
    for i in order:
        longest = len(rows[found[-1][0]].ids) if found else 0
        alike = len(rows[i].ids) >= 0.8 * longest or (found and len(found[-1]) < _FEWEST)
        if found and alike and (len(found[-1]) + 1) * longest <= tokens:
            found[-1].append(i)
        else:
            found.append([i])
    return found
