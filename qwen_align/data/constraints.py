"""Short instructions made from a seed, with constraints that can be checked exactly: instruction following without a download.

"List exactly 4 animals. Include dog. End with cow. Use no word twice." It stands in for SmolTalk and UltraFeedback; its
verifier's score is the true one, a reward model's an estimate. As in real data, a share of the demonstrations leaves part of an
instruction undone, and a share of the preference labels is wrong. The checksum of an instruction's constraints decides whether
it is held out, so no instruction of the evaluation view is ever trained on. Left out: sentences that mean something.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen_align.data import settings
from qwen_align.data.conversation import dataset
from qwen_align.errors import ConfigError
from qwen_align.verifier.constraints import Constraint, followed

if TYPE_CHECKING:
    from datasets import Dataset

TOPICS = {
    "animals": "dog cat horse bird fish cow lion bear",
    "colors": "red blue green white black brown pink gray",
    "foods": "bread rice apple soup cheese cake egg corn",
    "clothes": "hat coat shirt shoe belt dress glove scarf",
    "drinks": "tea coffee milk water juice beer wine soda",
    "tools": "hammer saw drill knife rope nail brush axe",
}
WORDS = [word for words in TOPICS.values() for word in words.split()]
LONGEST = 6  # words in an answer
_KINDS = ("include", "leave out", "starts", "ends", "order", "case", "distinct")
Clause = tuple[str, list[Constraint]]  # a sentence, and what it asks for


def _clause(kind: str, topic: str, rng: random.Random) -> Clause:
    one, other = rng.sample(TOPICS[topic].split(), 2)
    clauses: dict[str, tuple[str, Constraint]] = {
        "include": (f"Include {one}.", {"kind": "count", "of": [one], "least": 1}),
        "leave out": (f"Leave out {one}.", {"kind": "count", "of": [one], "most": 0}),
        "starts": (f"Start with {one}.", {"kind": "starts", "with": one}),
        "ends": (f"End with {one}.", {"kind": "ends", "with": one}),
        "order": (f"Put {one} before {other}.", {"kind": "order", "first": one, "then": other}),
        "case": ("Use capital letters.", {"kind": "case", "letters": "upper"}),
        "distinct": ("Use no word twice.", {"kind": "distinct"}),
    }
    sentence, constraint = clauses[kind]
    return sentence, [constraint]


def instruction(rng: random.Random, count: Sequence[int]) -> list[Clause]:
    """A number of words of one topic, and other clauses in a random order, so many in all; they may contradict each other."""
    topic = rng.choice(list(TOPICS))
    kinds = rng.sample(_KINDS, rng.randint(*count) - 1)
    number = rng.randint(2, LONGEST - 1)
    wording, keys = rng.choice((("exactly", ("least", "most")), ("at least", ("least",)), ("at most", ("most",))))
    length: Constraint = {"kind": "words"} | dict.fromkeys(keys, number)
    opening = f"List {wording} {number} {topic}.", [length, {"kind": "only", "of": TOPICS[topic].split()}]
    return [opening, *(_clause(kind, topic, rng) for kind in kinds)]


def _draft(constraints: Sequence[Constraint], rng: random.Random) -> str:
    """An answer that tends to follow the constraints."""
    by_kind = {c["kind"]: c for c in constraints if c["kind"] != "count"}
    length = by_kind.get("words", {})
    number = rng.randint(length.get("least", 1), length.get("most", LONGEST))
    free = by_kind["only"]["of"] if "only" in by_kind else WORDS
    words = rng.sample(free, number) if "distinct" in by_kind else rng.choices(free, k=number)
    for c in constraints:
        if c["kind"] == "count" and "least" in c:
            words[rng.randrange(number)] = c["of"][0]
    if "order" in by_kind and number > 1:
        first, then = sorted(rng.sample(range(number), 2))
        words[first], words[then] = by_kind["order"]["first"], by_kind["order"]["then"]
    words[0] = by_kind.get("starts", {}).get("with", words[0])
    words[-1] = by_kind.get("ends", {}).get("with", words[-1])
    text = " ".join(words)
    return text.upper() if "case" in by_kind else text


def answer(constraints: Sequence[Constraint], rng: random.Random, tries: int = 12) -> str | None:
    """An answer that follows all constraints; None where so many drafts do not, as with a contradiction."""
    drafts = (_draft(constraints, rng) for _ in range(tries))
    return next((text for text in drafts if followed(text, constraints) == 1.0), None)


def careless_answer(constraints: Sequence[Constraint], rng: random.Random) -> str:
    """An answer whose author overlooked at least one constraint, each with a chance of a half."""
    while True:
        heeded = [c for c in constraints if rng.random() < 0.5]
        text = (answer(heeded, rng) if heeded else None) or _draft(heeded, rng)
        if followed(text, constraints) < 1.0:
            return text


def is_held_out(constraints: str, share: float) -> bool:
    """Whether an instruction belongs to the evaluation view; the order of its constraints does not matter."""
    parts = sorted(json.dumps(constraint) for constraint in json.loads(constraints))
    return settings.is_held_out("".join(parts), share)


@dataclass
class Constraints:
    """Instructions, imperfect demonstrations, noisy preferences and a held-out evaluation view."""

    problems: int  # distinct instructions in demonstrations and prompts
    pairs: int  # how many of them have a preference pair, the first ones
    evaluation_problems: int  # distinct instructions in the evaluation view
    sentences: Sequence[int]  # fewest and most in an instruction; the first has two constraints, the others one each
    careless: float  # share of demonstrations that leave at least one constraint unfollowed
    label_noise: float  # share of preference pairs whose chosen answer follows fewer constraints than the rejected one
    margin: bool  # add a column margin, by how much chosen is said to be better
    held_out: float  # share of instructions kept for the evaluation view
    seed: int  # of the instructions, not of the training

    def __post_init__(self) -> None:
        settings.check_limits(problems=self.problems, pairs=self.pairs, evaluation_problems=self.evaluation_problems)
        settings.check_held_out(self.held_out)
        settings.check_bounds("sentences", self.sentences, low=1, high=len(_KINDS) + 1)
        if self.pairs > self.problems:
            raise ConfigError(f"data.pairs={self.pairs}: expected at most data.problems={self.problems}")
        for key, top in (("careless", 1.0), ("label_noise", 0.5)):
            if not 0 <= getattr(self, key) <= top:
                raise ConfigError(f"data.{key}={getattr(self, key)}: expected a share from 0 to {top:g}")

    def _instructions(self, wanted: int, held_out: bool) -> Iterator[tuple[dict[str, Any], list[Constraint], str]]:
        """Rows with prompt and constraints, the constraints themselves, and an answer that follows all of them."""
        rng = random.Random(f"{self.seed} {'evaluation' if held_out else 'train'}")
        seen: set[str] = set()
        misses = 0
        while len(seen) < wanted:
            clauses = instruction(rng, self.sentences)
            asked = " ".join(sorted(sentence for sentence, _ in clauses))
            constraints = [constraint for _, asked_for in clauses for constraint in asked_for]
            prompt = [{"role": "user", "content": " ".join(sentence for sentence, _ in clauses)}]
            text = json.dumps(constraints)
            misses += 1
            if misses > 20_000:
                key = "evaluation_problems" if held_out else "problems"
                found = f"only about {len(seen)} distinct instructions were found with data.sentences={list(self.sentences)}"
                raise ConfigError(f"data.{key}={wanted}: {found}; ask for fewer or widen them")
            if asked in seen or is_held_out(text, self.held_out) != held_out:
                continue
            if good := answer(constraints, rng):
                seen.add(asked)
                misses = 0
                yield {"prompt": prompt, "constraints": text}, constraints, good

    def demonstrations(self) -> "Dataset":
        """prompt, completion, constraints."""
        rng = random.Random(f"{self.seed} demonstrations")
        rows = []
        for row, constraints, good in self._instructions(self.problems, held_out=False):
            text = careless_answer(constraints, rng) if rng.random() < self.careless else good
            rows.append(row | {"completion": [{"role": "assistant", "content": text}]})
        return dataset(rows)

    def preferences(self) -> "Dataset":
        """prompt, chosen, rejected, constraints, chosen_score, rejected_score (true ones) and, if wanted, margin."""
        rng = random.Random(f"{self.seed} preferences")
        rows = []
        for row, constraints, good in self._instructions(self.pairs, held_out=False):
            scored: list[tuple[float, str]] = []
            while len({score for score, _ in scored}) < 2:
                other = careless_answer(constraints, rng) if rng.random() < self.careless else good
                texts = (careless_answer(constraints, rng), other)
                scored = sorted(((followed(text, constraints), text) for text in texts), reverse=True)
            if rng.random() < self.label_noise:
                scored.reverse()
            (chosen_score, chosen), (rejected_score, rejected) = scored
            row |= {"chosen": [{"role": "assistant", "content": chosen}], "chosen_score": chosen_score}
            row |= {"rejected": [{"role": "assistant", "content": rejected}], "rejected_score": rejected_score}
            rows.append(row | ({"margin": abs(chosen_score - rejected_score)} if self.margin else {}))
        return dataset(rows)

    def prompts(self) -> "Dataset":
        """prompt, constraints of training instructions."""
        return dataset([row for row, _, _ in self._instructions(self.problems, held_out=False)])

    def evaluation(self) -> "Dataset":
        """prompt, constraints of held-out instructions."""
        return dataset([row for row, _, _ in self._instructions(self.evaluation_problems, held_out=True)])
