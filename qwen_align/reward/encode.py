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
_SMALL_BATCH = 4  # rows of a batch before its padding matters more than its size
_PROMPT_SHARE = 8  # an over-long pair keeps at least one part in so many for the end of its prompt


class Encoded(NamedTuple):
    """Token ids of prompt and answer in their frame; the answer's segment begins at `split`."""

    ids: list[int]
    split: int
    truncated: bool


def flatten(prompt: Conversation) -> str:
    """A prompt as one text: plain text or a single message as it is, several as paragraphs that begin with User: and so on."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in prompt)


def truncate(prompt: list[int], answer: list[int], room: int) -> tuple[list[int], list[int]]:
    """The end of the prompt and the beginning of the answer that fit into `room` tokens, the answer whole where it can be."""
    kept = min(len(prompt), max(room - len(answer), room // _PROMPT_SHARE))
    return prompt[len(prompt) - kept :], answer[: room - kept]


def _span(owners: list[int | None], text: int) -> tuple[int, int]:
    """Where the tokens of a text begin and end, by the text that each token comes from."""
    return owners.index(text), len(owners) - owners[::-1].index(text)


@dataclass
class PairEncoder:
    """Encodes and pads for one tokenizer; ConfigError for one without a separator, or a max_length without room for text."""

    tokenizer: "PreTrainedTokenizerBase"
    architecture: str = "pair"  # one sequence; siamese: two
    max_length: int = 512  # tokens of a sequence, frame included; of each of the two for siamese
    type_vocab_size: int = 0  # segment types that the network knows; below 2 it gets none

    def __post_init__(self) -> None:
        tokenizer, is_pair = self.tokenizer, self.architecture == "pair"
        # Segment types are asked for: a tokenizer that does not name them as its inputs has them all the same.
        probe = tokenizer(*(("a", "b") if is_pair else ("a",)), return_token_type_ids=True)
        ids, owners = probe["input_ids"], probe.sequence_ids(0)
        first, end = _span(owners, 0)
        second, last = _span(owners, 1) if is_pair else (end, end)
        self.before, self.between, self.after = ids[:first], ids[end:second], ids[last:]
        self.room = self.max_length - len(self.before) - len(self.between) - len(self.after)
        self.typed = is_pair and self.type_vocab_size > 1 and probe["token_type_ids"][second] == 1
        if is_pair and not self.between:
            expected = "expected an encoder such as DeBERTa, DistilBERT or BERT"
            raise ConfigError(f"reward.base: its tokenizer puts nothing between a prompt and an answer; {expected}")
        if self.room < _PROMPT_SHARE:
            raise ConfigError(f"reward.max_length={self.max_length}: leaves no room for text; expected 16 or more")
        special = (i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
        self.special = {*tokenizer.all_special_ids, *special} - {tokenizer.unk_token_id}

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of plain texts, none of them a special token but the unknown one."""
        if not texts:
            return []
        unknown = [] if self.tokenizer.unk_token_id is None else [self.tokenizer.unk_token_id]
        found = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)
        return [
            ids if self.special.isdisjoint(ids) else [i for j in ids for i in (unknown if j in self.special else [j])]
            for ids in found["input_ids"]
        ]

    def encode(self, prompts: Sequence[Conversation], completions: Sequence[str]) -> list[Encoded]:
        """Token ids for each prompt with its completion; a prompt that comes several times is read once."""
        texts = [flatten(prompt) for prompt in prompts]
        unique = list(dict.fromkeys(texts))
        read = dict(zip(unique, self._ids(unique), strict=True))
        answers = self._ids(completions)
        return [self._framed(read[text], answer) for text, answer in zip(texts, answers, strict=True)]

    def _framed(self, prompt: list[int], answer: list[int]) -> Encoded:
        if self.architecture == "siamese":
            kept, whole = prompt[max(len(prompt) - self.room, 0) :], answer[: self.room]
            first, second = [*self.before, *kept, *self.after], [*self.before, *whole, *self.after]
        else:
            kept, whole = truncate(prompt, answer, self.room)
            first, second = [*self.before, *kept, *self.between], [*whole, *self.after]
        return Encoded(first + second, len(first), len(kept) < len(prompt) or len(whole) < len(answer))

    def collate(self, rows: Sequence[Encoded]) -> "dict[str, Tensor]":
        """What the network takes, padded on the right, (rows, tokens) each; siamese: prompts beside answers."""
        if self.architecture == "siamese":
            prompts = self._padded([row.ids[: row.split] for row in rows])
            answers = self._padded([row.ids[row.split :] for row in rows])
            return {f"prompt_{key}": value for key, value in prompts.items()} | answers
        inputs = self._padded([row.ids for row in rows])
        if self.typed:
            inputs["token_type_ids"] = _tensor([[0] * row.split + [1] * (len(row.ids) - row.split) for row in rows])
        return inputs

    def _padded(self, ids: list[list[int]]) -> "dict[str, Tensor]":
        padded = _tensor(ids, self.tokenizer.pad_token_id or 0)
        return {"input_ids": padded, "attention_mask": _tensor([[1] * len(row) for row in ids])}


def _tensor(rows: list[list[int]], padding: int = 0) -> "Tensor":
    import torch
    from torch.nn.utils.rnn import pad_sequence

    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=padding)


def batches(rows: Sequence[Encoded], tokens: int) -> list[list[int]]:
    """Indices of the rows in batches of similar length, longest first, each of at most `tokens` after padding (or one row).

    A batch ends early where a row is a fifth shorter than its longest, so a small set is not padded to its longest text.
    """
    found: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: len(rows[i].ids), reverse=True):
        longest = len(rows[found[-1][0]].ids) if found else 0
        similar = len(rows[i].ids) >= 0.8 * longest or (found and len(found[-1]) < _SMALL_BATCH)
        if found and similar and (len(found[-1]) + 1) * longest <= tokens:
            found[-1].append(i)
        else:
            found.append([i])
    return found
