"""Conversations as token ids: the only way there, in training, in RLOO and in sampling.

The tokenizer's chat template writes the frame (roles, stop tokens). What a message says is text: a special token written out in
it (`<|im_end|>` in a user's question) is read as plain pieces and can't end a turn. An answer begins where the prompt before it
ends, as token ids, so what is trained is what the policy will be asked to write; every assistant turn can be trained, by any
template whose prompt stays as it is once an answer follows. Left out: tools, images, templates that rewrite earlier turns.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import NamedTuple, cast

from transformers import PreTrainedTokenizerBase

from qwen_align import byte_pair
from qwen_align.errors import ConfigError

Messages = list[dict[str, str]]
_STAND_IN = 0xF0000  # a private code point for each special token that a message spells out
_CHUNK = 256  # conversations that are read at once


class Encoded(NamedTuple):
    """Token ids of a conversation; `trained` holds [begin, end) of each assistant turn with its stop token."""

    ids: list[int]
    trained: list[tuple[int, int]]
    cut: bool  # longer than max_length


class _Piece(NamedTuple):
    text: str
    trained: bool


@lru_cache(maxsize=8)
def _special(tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], re.Pattern[str]]:
    """The special tokens, and what finds one of them."""
    added = tokenizer.added_tokens_decoder.values()
    found = sorted({*tokenizer.all_special_tokens, *(t.content for t in added if t.special)}, key=len, reverse=True)
    return found, re.compile("|".join(map(re.escape, found)) or r"(?!)")


def _protected(tokenizer: PreTrainedTokenizerBase, conversation: Messages) -> Messages:
    """The messages with a stand-in for each special token that they spell out."""
    special, pattern = _special(tokenizer)
    if not any(pattern.search(message["content"]) for message in conversation):
        return conversation
    stand_in = {token: chr(_STAND_IN + i) for i, token in enumerate(special)}
    return [{**m, "content": pattern.sub(lambda found: stand_in[found[0]], m["content"])} for m in conversation]


def _rendered(tokenizer: PreTrainedTokenizerBase, conversations: list[Messages], prompt: bool) -> list[str]:
    found = conversations and tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=prompt)
    return cast(list[str], found)


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Rendered texts as token ids; the frame's special tokens are special, those that stand-ins are for are text."""
    if not texts:
        return []
    reading = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    fast = byte_pair.reader(tokenizer)
    found = fast(texts) if fast else cast(list[list[int]], tokenizer(texts, **reading)["input_ids"])
    special, pattern = _special(tokenizer)
    stand_ins = re.compile(f"[{chr(_STAND_IN)}-{chr(_STAND_IN + len(special))}]")
    for i, text in enumerate(texts):
        if stand_ins.search(text):
            plain = lambda s: stand_ins.sub(lambda c: special[ord(c[0]) - _STAND_IN], s)  # noqa: E731
            frame = [*pattern.findall(text), ""]
            between = [plain(part) for part in pattern.split(text)]
            read = iter(tokenizer([s for s in between if s], split_special_tokens=True, **reading)["input_ids"])
            found[i] = []
            for part, token in zip(between, frame, strict=True):
                found[i] += (next(read) if part else []) + ([tokenizer.convert_tokens_to_ids(token)] if token else [])
    return found


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages]) -> list[list[int]]:
    """Each prompt as token ids, up to where the answer begins."""
    return _ids(tokenizer, _rendered(tokenizer, [_protected(tokenizer, prompt) for prompt in prompts], True))


def _pieces(tokenizer: PreTrainedTokenizerBase, chunk: list[tuple[Messages, int]]) -> Iterator[list[_Piece]]:
    """Each conversation's text in pieces: frames and questions, and the assistant's turns from message `first` on."""
    safe = [(_protected(tokenizer, conversation), first) for conversation, first in chunk]
    turns = [[i for i in range(first, len(c)) if c[i]["role"] == "assistant"] for c, first in safe]
    wholes = _rendered(tokenizer, [c for c, _ in safe], False)
    before = iter(_rendered(tokenizer, [c[:i] for (c, _), mine in zip(safe, turns, strict=True) for i in mine], True))
    stop = cast(str, tokenizer.eos_token)
    for whole, mine in zip(wholes, turns, strict=True):
        pieces, end = [], 0
        for prompt in islice(before, len(mine)):
            if not whole.startswith(prompt) or len(prompt) < end:
                wrong = "renders a prompt differently when an answer follows"
                raise ConfigError(f"model.chat_template: {wrong}; expected one like ChatML")
            pieces.append(_Piece(whole[end : len(prompt)], False))
            stopped = whole.find(stop, len(prompt))
            if stopped < 0:
                wrong = "the chat template does not end an answer with it, so the policy would never learn to stop"
                raise ConfigError(f"model.stop_token={stop}: {wrong}; expected the token that does")
            end = stopped + len(stop)
            pieces.append(_Piece(whole[len(prompt) : end], True))
        yield [*pieces, _Piece(whole[end:], False)]


def _joined(pieces: list[_Piece], read: Iterator[list[int]], max_length: int | None) -> Encoded:
    ids: list[int] = []
    trained: list[tuple[int, int]] = []
    for text, is_trained in pieces:
        begin = len(ids)
        ids += next(read) if text else []
        if is_trained and (max_length is None or begin < max_length):
            trained.append((begin, min(len(ids), max_length or len(ids))))
    return Encoded(ids[:max_length], trained, max_length is not None and len(ids) > max_length)


def encode(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages], first: Sequence[int], max_length: int | None = None
) -> Iterator[Encoded]:
    """Each conversation, cut at max_length tokens; of the assistant's turns those from message `first` on are `trained`."""
    for begin in range(0, len(conversations), _CHUNK):
        chunk = list(zip(conversations[begin : begin + _CHUNK], first[begin : begin + _CHUNK], strict=True))
        wholes = list(_pieces(tokenizer, chunk))
        read = iter(_ids(tokenizer, [text for whole in wholes for text, _ in whole if text]))
        yield from (_joined(whole, read, max_length) for whole in wholes)


def encode_answers(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Messages], *answers: Sequence[Messages]
) -> Iterator[tuple[list[int], ...]]:
    """Token ids of each prompt and of one answer from each list, up to its stop token; a prompt is read once for them all."""
    for begin in range(0, len(prompts), _CHUNK):
        some = prompts[begin : begin + _CHUNK]
        texts: list[list[str]] = []
        for side in answers:
            chunk = [(p + a, len(p)) for p, a in zip(some, side[begin : begin + _CHUNK], strict=True)]
            wholes = list(_pieces(tokenizer, chunk))
            texts = texts or [[before.text for before, *_ in wholes]]
            texts.append(["".join(text for text, _ in answer) for _, *answer, _ in wholes])
        read = iter(_ids(tokenizer, [text for column in texts for text in column]))
        yield from zip(*[[next(read) for _ in column] for column in texts], strict=True)


def whole_ids(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages]) -> list[list[int]]:
    """Each conversation, answers included, as token ids."""
    return [found.ids for found in encode(tokenizer, conversations, [0] * len(conversations))]


def identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what decides how texts become token ids."""
    inner = tokenizer.backend_tokenizer.to_str()
    return hashlib.sha256(f"{inner}{tokenizer.chat_template}{tokenizer.eos_token}".encode()).hexdigest()
