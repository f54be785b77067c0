"""Read a final answer such as `\\$1{,}234.50`, `3\\frac{1}{2}` or `x = 2 \\cdot 3 cm` as one exact rational number.

GSM8K and much of MATH ask for a plain number. Comparing it as a rational is exact (0.333 is not 1/3) and far cheaper
than a computer algebra system. What a text wraps around its number is dropped: currency, thousands separators, units,
a name in front, a percent sign. Whatever leaves a doubt is not read: two numbers, a scale word (`5 million`), a
variable, digits that are not ASCII. Left out: roots, and powers other than of a literal to a literal.
"""

import re
import unicodedata
from fractions import Fraction
from itertools import groupby

from qwen_align.verifier.arithmetic import FRACTION, MAX_DIGITS, to_postfix, value_of

MAX_LENGTH = 300  # characters, and digits that an exponent may add; a longer text is no final answer

_SIGNS = str.maketrans(
    dict.fromkeys("−–—", "-")
    | dict.fromkeys("×✕·⋅∙∗", "*")
    | dict.fromkeys("÷∕⁄", "/")
    | dict.fromkeys("\u00a0\u2009\u202f€£¥", " ")
    | {"°": " degrees ", "≈": r"\approx "}
)
_LATEX = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\{,\}|,\\!", ","),
        (r"(?<=[0-9])\\[,;:](?=[0-9]{3}(?![0-9]))", ","),
        (r"\\[\[\]()]|\\[,;:!> ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"(?<=[0-9])(?:\\?\$)+(?=[0-9])", " "),
        (r"(?:\bUSD?)?\\?\$", ""),
        (r"\\%", "%"),
        (r"\\(?:left|right|displaystyle)(?![A-Za-z])", " "),
        (r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox)\s*\{([^{}]*)\}", r" \1 "),
        (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})", " degrees "),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\\[dtc]?frac\s*(?=[0-9{])", r"\\frac"),
        (r"\\frac([0-9])", r"\\frac{\1}"),
        (r"(\\frac\{[^{}]*\})\s*([0-9])", r"\1{\2}"),
    ]
]
_REPEATING = re.compile(r"([0-9]*)\.([0-9]*)\\(?:overline|bar)\{([0-9]+)\}")
_THIN_SPACE = re.compile(r"(?<=[0-9])[\u00a0\u2009\u202f](?=[0-9]{3}(?![0-9]))")
_ASCII_OR_EXPONENT = re.compile(r"[A-Za-z][²³]|[\x00-\x7f]")
_BOLD = re.compile(r"(?<![\w)*])(\*\*|__)(?=\S)([^*_]+)\1(?![\w*])")

# `0x12` is a lexeme of its own, so that it is read neither as a product nor as 0 of some unit `x`.
_LEXEME = re.compile(
    r"(?P<hex>0[xX][0-9A-Fa-f])"
    r"|(?P<mixed>[0-9]+(?:\s*\\frac\{[0-9]+\}\{[0-9]+\}|\s+[0-9]+/[0-9]+(?![0-9.,])))"
    r"|(?P<power>[0-9]+\s*\^\s*(?:\{\s*-?[0-9]+\s*\}|-?[0-9]+)(?!\s*\^))"
    r"|(?P<number>(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3}\b)?)"
    r"|(?P<fraction>\\frac\{)|(?P<times>(?<=[0-9)\s])[xX](?=\s*[0-9(]))"
    r"|(?P<word>[A-Za-zÀ-ÖØ-öø-ÿµΩ'’_]+[²³]?(?:\s*\^\s*(?:-?[0-9]|\{-?[0-9]\}))?)"
    r"|(?P<sign>[-+*/()\[\]{}])|(?P<equals>=)|(?P<other>\S)"
)
_NUMERIC = frozenset(["mixed", "power", "number", "fraction"])

# A letter or two right behind a number may be variables (`3x`, `2ab`), unless they are one of these.
_SHORT_UNITS = frozenset(
    "m g s h l L N J W V F C km cm mm kg mg ml mL dL kL lb oz ft in yd mi hr am pm st nd rd th pt qt kW Hz Pa cc".split()
)
_POWER_OF_UNIT = re.compile(r"[²³]?(?:\s*\^.*)?$")
_JOINING = frozenset(["and", "a", "an", "one", "two", "three"])
_SCALES = frozenset(
    "or hundred thousand million billion trillion point squared cubed factorial mod plus minus times over divided half"
    " halves third thirds fourth fourths quarter fifth fifths sixth sixths eighth eighths tenth tenths hundredth"
    " hundredths pi tau sqrt log ln exp sin cos tan".split()
)
_CHANGING = frozenset(
    "minus negative not isn't isn’t never or point hex sqrt root log ln exp sin cos tan twice double triple half third"
    " quarter factorial".split()
)

Lexeme = re.Match[str]


def read(text: str) -> Fraction | None:
    """The one rational number that the text states, percent signs ignored; None if it states none or leaves a doubt."""
    if len(text) > MAX_LENGTH:
        return None
    if text.isdecimal() and text.isascii():
        return Fraction(text)
    lexemes = _side(list(_LEXEME.finditer(_plain(text))))
    numeric = [position for position, lexeme in enumerate(lexemes) if lexeme.lastgroup in _NUMERIC]
    if not numeric:
        return None
    first, last = numeric[0], numeric[-1]
    while first and lexemes[first - 1].lastgroup == "sign" and lexemes[first - 1][0] in "-+([{":
        first -= 1
    while last + 1 < len(lexemes) and lexemes[last + 1][0] in (")", "]", "}"):
        last += 1
    inside = lexemes[first : last + 1]
    if not _leads_in(lexemes[:first], inside) or not _is_unit(lexemes[last + 1 :], lexemes[last].end()):
        return None
    return _value(inside)


def _plain(text: str) -> str:
    """The text without LaTeX and Markdown that only concern the looks; nothing if it has digits other than ASCII."""
    if not text.isascii():
        text = _THIN_SPACE.sub(",", text).translate(_SIGNS)
        if any(char.isnumeric() for char in _ASCII_OR_EXPONENT.sub("", text)):
            return ""
    if "\\" in text or "$" in text or "{" in text or "~" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
        text = _REPEATING.sub(_repeating, text)
    if "*" in text or "_" in text:
        text = _BOLD.sub(r"\2", text).strip(" *_")
    if "\\approx" in text:
        exact, _, rounded = text.partition("\\approx")
        text = exact if re.search("[0-9]", exact) else rounded
    return text


def _repeating(decimal: Lexeme) -> str:
    """0.1\\overline{6} is (16 - 1) / 90."""
    once = f"0{decimal[1]}{decimal[2]}"
    return f"(({once}{decimal[3]} - {once}) / {'9' * len(decimal[3])}{'0' * len(decimal[2])})"


def _side(lexemes: list[Lexeme]) -> list[Lexeme]:
    """The last side of an equation that holds a number; nothing if another side may hold an answer of its own."""
    sides = [list(side) for equals, side in groupby(lexemes, lambda lexeme: lexeme.lastgroup == "equals") if not equals]
    numeric = [side for side in sides if any(lexeme.lastgroup in _NUMERIC for lexeme in side)]
    if any(lexeme[0] in (",", ";", "and", "or") for side in numeric[:-1] for lexeme in side):
        return []
    return numeric[-1] if numeric else []


def _leads_in(before: list[Lexeme], inside: list[Lexeme]) -> bool:
    """Whether what stands before the number is prose that leaves its value alone: `x + 5` does not say 5."""
    if not before:
        return True
    if any(lexeme.lastgroup in ("hex", "times") or _is_symbol(lexeme[0]) or lexeme[0] in "+*" for lexeme in before):
        return False
    if any(lexeme[0].lower() in _CHANGING for lexeme in before[-2:]):
        return False
    if any(len(lexeme[0]) == 1 and lexeme[0] not in "aAI" for lexeme in before if lexeme.lastgroup == "word"):
        return False
    name, start = before[-1], inside[0]
    if name.lastgroup == "other":
        return True
    signed = start[0] in "+-" and start.end() == inside[1].start()
    spaced = name.end() < start.start()
    return name.lastgroup == "word" and name[0].isalpha() and spaced and (start.lastgroup != "sign" or signed)


def _is_unit(after: list[Lexeme], end: int) -> bool:
    """Whether what stands after the number is a unit or more prose: `5 - x`, `5x`, `5!` and `5 million` don't say 5."""
    words = [lexeme[0] for lexeme in after if lexeme.lastgroup == "word"]
    if "or" in words:
        return False
    while words and words[0].lower() in _JOINING:
        words = words[1:]
    if words and words[0].lower() in _SCALES:
        return False
    for position, lexeme in enumerate(after):
        if lexeme.lastgroup in ("hex", "times") or _is_symbol(lexeme[0]) or lexeme[0] in "+*{}":
            return False
        if lexeme[0] in "-/" and (position + 1 == len(after) or after[position + 1].lastgroup != "word"):
            return False
        if lexeme[0] == "-" and len(after[position + 1][0]) == 1:
            return False
        name = _POWER_OF_UNIT.sub("", lexeme[0])
        if lexeme.lastgroup == "word" and (len(name) == 1 or (len(name) == 2 and lexeme.start() == end)):
            article = name in ("a", "A", "I") and lexeme.start() > end and position + 1 < len(after)
            if not article and name not in _SHORT_UNITS:
                return False
    return True


def _is_symbol(text: str) -> bool:
    """Whether a character is mathematics that is not read here: a relation, a Greek letter, a dash of another kind."""
    if text.isascii() or len(text) > 1:
        return text in ("\\", "^", "!", "&", "<", ">", "|")
    return unicodedata.category(text) in ("Sm", "Pd") or "\u0370" <= text < "\u0400" or "\U0001d400" <= text < "\U0001d800"


def _value(lexemes: list[Lexeme]) -> Fraction | None:
    tokens: list[str] = []
    for lexeme in lexemes:
        written = _tokens(lexeme)
        # `(1,234)` is a pair of numbers as well as one number.
        if written is None or ("," in lexeme[0] and lexemes[0][0] in "(["):
            return None
        if lexeme[0] == "(" and tokens and (tokens[-1] in ")]}" or tokens[-1].isdecimal()) and "/" not in tokens:
            tokens.append("*")  # 2(3 + 4); behind a division, as in 6/2(1 + 2), it has two readings
        tokens += written
    postfix = to_postfix(tokens)
    value = None if postfix is None else value_of(postfix)
    return None if value is None else Fraction(value)


def _tokens(lexeme: Lexeme) -> list[str] | None:
    """The lexeme in the integer arithmetic of `to_postfix`; None for what has no place inside an expression."""
    kind, text = lexeme.lastgroup, lexeme[0]
    if kind == "number":
        digits, _, exponent = text.replace(",", "").lower().partition("e")
        whole, _, decimals = digits.partition(".")
        shift = int(exponent or 0) - len(decimals)
        if abs(shift) > MAX_LENGTH:
            return None
        written = whole + decimals + "0" * shift
        return [written] if shift >= 0 else ["(", written, "/", "1" + "0" * -shift, ")"]
    if kind == "mixed":
        whole, over, under = re.findall("[0-9]+", text)
        return ["(", whole, "+", over, "/", under, ")"] if int(over) < int(under) else None
    if kind == "power":
        base, exponent = re.findall("-?[0-9]+", text)
        if len(exponent) > 4 or len(base) * abs(int(exponent)) > MAX_DIGITS:
            return None
        power = str(int(base) ** abs(int(exponent)))
        return ["(", "1", "/", power, ")"] if exponent[0] == "-" else [power]
    if kind == "fraction":
        return [FRACTION]
    return ["*"] if kind == "times" else [text] if kind == "sign" else None
