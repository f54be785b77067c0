"""Find the final answer in a solution: which of its numbers and expressions is the one to judge.

The order is the one that GSM8K (arXiv 2110.14168) and MATH (arXiv 2103.03874) solutions are written in: the last
explicit marker (`\\boxed{...}` or `#### ...`), else what follows the last "answer is", else the last number. One answer
comes out, never a choice of several, so that a solution can't win by listing guesses. Every search looks at a bounded
piece of text, so hostile texts cost no more than long ones. An answer inside a reasoning model's thinking was never given: the
tags are DeepSeek-R1's (arXiv 2501.12948), lower case, and the first closing one ends it, as in every parser that models were
trained against. Left out: nested thinking; `<answer>` tags, which belong to Countdown.
"""

import re
from itertools import pairwise

THOUGHT = "\0"  # stands where a stretch of thinking was, so that nothing can be read across it
MAX_TRIES = 20  # unclosed boxes, or headings that look like markers, stepped over before giving up
MAX_BOX = 2_000  # characters
MAX_CLAUSE = 600  # characters

_THINKING = re.compile(r"<think>.*?(?:(</think>)|\Z)", re.DOTALL)
_CHAT_TOKEN = re.compile(r"<\|[A-Za-z_]{1,20}\|>")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*")
_BRACE = re.compile(r"\\[{}]|[{}]")
_UNBRACED = re.compile(r"-?[0-9][0-9.,]*")
_HASHES = re.compile(r"(?<!#)####(?!#)")
_MARKER = re.compile(rf"\\(?:boxed|fbox)|{_HASHES.pattern}")
_PHRASE = re.compile(r"answer(?:\s+is\b|\s*[:=])", re.IGNORECASE)
_OPENING = re.compile(r"(?:[\s:*_]|\$\$?|\\[(\[])*")

_SENTENCE_END = re.compile(r"(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bMrs)[.?](?=[\s\"'*)$\\]|$)|!(?=\s*$|\s+[A-Z*])|;|\n")
_ASIDE = re.compile(
    r",\s+(?!or\b|and\b)(?=[A-Za-z])"
    r"|\s(?:because|since|so|as|which|where|when|after|given|i\.e|for|in|on|at|during|each|every|out of)\b"
    r"|\s\((?!or\b)(?=[^()]*[=*×])"
)
_MATHS = re.compile(r"\$\$?([^$\n]{1,300})\$|\\\((.{1,300}?)\\\)|\\\[(.{1,300}?)\\\]", re.DOTALL)

_NUMBER = re.compile(
    r"(?:(?<![\w)\]}%.])[-−–](?=[\d.$\\€£]))?(?:\\?\$|[€£])?-?"
    r"(?:0[xX][0-9A-Fa-f]+|\d+ +\d+/\d+(?![\d.])|(?:\d+\s*)?\\[dtc]?frac\{-?\d+\}\{-?\d+\}|\d+\s?\^\s?\{?-?\d+\}?"
    r"|(?:\d+(?:(?:,|\{,\}|\\,)\d+)*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?:/\d+(?:,\d{3})*(?:\.\d+)?)*(?::\d+)*)"
    r"[¹²³¼-¾⁰-⁹⅐-⅞]*(?:\s?\\?%)?[A-Za-z]*(?:[ \u00a0]+(?:an? )?(?!or\b)[A-Za-z]{2,}){0,3}"
)


def without_thinking(completion: str | None) -> str:
    """The completion with THOUGHT for each stretch of thinking, "" for None; an unclosed `<think>` swallows the rest."""
    if not isinstance(completion, str):
        return ""
    if "think>" not in completion:
        return completion
    before, closing, after = completion.partition("</think>")
    if closing and "<think>" not in before:
        completion = after  # the prompt opened the thinking
    return _THINKING.sub(lambda found: THOUGHT if found[1] else "", completion)


def final_answer(solution: str, numeric: bool) -> str | None:
    """The text of the answer that the solution gives, "" if it announces one and gives none, None if there is no sign.

    `numeric` says that a number is asked for, which tells a Markdown heading `#### Step 2` from a marker.
    """
    solution = _CHAT_TOKEN.sub("\n", solution) if "<|" in solution else solution
    boxed, hashed = _boxed(solution), _hashed(solution, numeric)
    if boxed or hashed:
        return max(boxed or (-1, ""), hashed or (-1, ""))[1]
    phrase = _announced(solution, numeric)
    if phrase is not None:
        return phrase
    if not numeric and (formulas := _MATHS.findall(solution[-MAX_BOX:])):
        return "".join(formulas[-1])
    return _last_number(solution)


def marked(solution: str, numeric: bool) -> list[str]:
    """Every explicit marker (`\\boxed{...}` or `#### ...`) with what follows it up to the next one, in order."""
    starts = [marker.start() for marker in _MARKER.finditer(solution)]
    real = []
    for begin, end in pairwise([*starts, len(solution)]):
        after = solution[end : end + MAX_BOX].replace("#", " ")  # what follows a line tells a heading from an answer
        if _boxed(solution[begin:end]) or _hashed(solution[begin:end] + after, numeric):
            real.append(begin)
    return [solution[a:b] for a, b in pairwise([*real, len(solution)])]


def _boxed(solution: str) -> tuple[int, str] | None:
    """Position and content of the last closed box."""
    end = len(solution)
    for _ in range(MAX_TRIES):
        start = max(solution.rfind("\\boxed", 0, end), solution.rfind("\\fbox", 0, end))
        if start < 0:
            return None
        inside = _BOX.sub("", solution[start : start + MAX_BOX], count=1)
        content = _braced(inside) if inside[:1] == "{" else (_UNBRACED.match(inside) or [None])[0]
        if content is not None or start + MAX_BOX < len(solution):
            return start, (content or "").strip()
        end = start
    return None


def _braced(text: str) -> str | None:
    depth = 0
    for brace in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if not depth:
            return text[1 : brace.start()]
    return None


def _hashed(solution: str, numeric: bool) -> tuple[int, str] | None:
    """Position and content of the last `####` that is no heading of a section."""
    end = len(solution)
    for _ in range(MAX_TRIES):
        start = solution.rfind("####", 0, end)
        if start < 0:
            return None
        while start and solution[start - 1] == "#":
            start -= 1
        end = start
        if not _HASHES.match(solution, start):
            continue
        line, _, rest = solution[start + 4 : start + 4 + MAX_BOX].lstrip().partition("\n")
        if numeric and rest.strip() and re.match(r"[*_\s]*(?:(?!\w\s*=)[A-Za-z]|[0-9]+[.)]\s+[A-Za-z])", line):
            continue
        return start, _clause(line, numeric)
    return None


def _announced(solution: str, numeric: bool) -> str | None:
    """What follows the last "answer is"; "answer:" counts too if an answer follows on its line."""
    for phrase in list(_PHRASE.finditer(solution))[:-4:-1]:
        start = _OPENING.match(solution, phrase.end(), phrase.end() + MAX_CLAUSE).end()  # type: ignore[union-attr]
        clause = _clause(solution[start : start + MAX_CLAUSE], numeric)
        if phrase[0][-1] in "sS" or not numeric or re.search(r"\d", clause):
            return clause
    return None


def _clause(text: str, numeric: bool) -> str:
    """The sentence that the text begins with, without what it goes on to say about its number."""
    while True:
        stop = _SENTENCE_END.search(text)
        sentence = text[: stop.start()] if stop else text
        if stop is None or not sentence.rstrip(" *").endswith(":"):
            break
        text = text[stop.end() :]  # "The answer is as follows:" announces the next line
        text = text[_OPENING.match(text).end() :]  # type: ignore[union-attr]
    if numeric and (number := re.search(r"\d", sentence)) and (aside := _ASIDE.search(sentence, number.start())):
        sentence = sentence[: aside.start()]
    return sentence.strip()


def _last_number(solution: str) -> str | None:
    digit = re.search(r"\d", solution[::-1])
    if digit is None:
        return None
    end = len(solution) - digit.start()
    window = max(0, end - 300)
    numbers = list(_NUMBER.finditer(solution[window : end + 60]))
    if not numbers:
        return ""
    number = numbers[-1]
    if number.start() == 0 and window:
        return ""  # the number is longer than the window
    sign = re.match(r"[-−–]", number[0])
    before = solution[window : window + number.start()].rstrip()
    if sign and re.search(r"[\w)\]}]$", before) and re.search(r"[\d)\]}]$|\b[A-Za-z]$", before):
        return number[0][1:]  # a difference such as `10 -3`
    return number[0]
