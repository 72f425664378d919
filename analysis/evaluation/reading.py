r"""Is an answer the gold one? Read as a value of some kind; both must be of the same kind.

    option       gold is one capital letter: B, (B), \text{B}, B. 12, (B) 12, option B
    number       exactly, as a fraction: 1,234 and 10 000 and 1.234.567 (thousands), 3e5 and
                 3\times10^5, 1/2, \frac12, 2 1/2 and 2\frac12 (mixed, if the fraction is proper),
                 0.\overline{3}, 5 million, two. 12,34 and 1,2 are lists; 0.333 is not 1/3
    unit         words or a symbol after a number or formula, a currency before it. One side may
                 leave it out; if both have one they must be the same (5 m is not 5 cm)
    percent      50% is 0.5 and 1/2; above 1 the sign may also be left out like a unit (50% is 50)
    name         x = 5, f(x) = 2x, \angle A = 90, x \in [0, 1): what follows the name, unless both
                 have one and they differ. 2x = 10 and x+1 = 0 are equations, not names
    list         1, 2; 1 or 2; \pm 2; \{1, 2\} (in any order, unless there are words in it)
    tuple        (1, 2), [0, 1): in order and with the same brackets; unions of them in any order.
                 (1, 2) is not 1, 2 (it may be an interval); three or more are
    inequality   0 \le x < 1, as the interval of its only name
    ratio, time  12:30, 4:3, 4 to 3: part by part.    base     101_2: digits and base
    words        equal but for case and punctuation; formulas with words in them likewise
    formula      everything else is for math-verify (analysis/evaluation/verify_worker.py)

Whatever is of two kinds at once, and what can't be read, is not the gold answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from analysis.evaluation.units import read_quantity, same_quantity, same_unit, split_unit
from analysis.prompts.answers import Asked
from analysis.prompts.notation import normalise

Formulas = Callable[[str, str], bool]

_OPTION = re.compile(
    r"(?:(?:option|choice|answer)\s*:?\s*)?(?:\(\s*([A-J])\s*\)|\[([A-J])\]|([A-J]))"
    r"(?:(?<=[)\]])|[.):](?=\s|$)|\s*$)\s*(.*)",
    re.IGNORECASE,
)
_OTHER_OPTION = re.compile(r"\([A-Za-z]\)|(?<![A-Za-z\\])[A-Z](?![A-Za-z])|\b(?:or|not|and)\b")
_NAME = re.compile(
    r"(?:\\(?:angle|triangle|overline|vec|frac|operatorname|hat|bar|Delta|[a-z]+)(?![a-zA-Z])"
    r"|_\{?\w++\}?|[A-Za-z'(){},:| ])++$"
)
_NO_NAME = re.compile(
    r"\\(?:sqrt|sin|cos|tan|log|ln|exp|pm|infty|sum|int|prod|lim|cdot|times)\b|\)\("
)
_RELATION = re.compile(r"\\(?:le|ge|ne)(?![a-zA-Z])|[<>]")
_TEXT = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{3,}")
_FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        "sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan log exp det max min gcd lcm "
        "mod sqrt frac lim deg dim ker arg",
    )
)
_BASES = {
    name: str(base)
    for base, name in enumerate(
        ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"), start=2
    )
}
_OPENERS, _CLOSERS = "([{⦃", ")]}⦄"


# A ratio, an ellipsis, two numbers side by side, an index at a number, and a number before a
# fraction that is not proper, so neither mixed nor clearly a product.
_UNREADABLE = re.compile(
    r":|\\ldots|\?|\d\s+\d|\d_|[^\x00-\x7f]|\d\s*\\frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\}"
)


class Unreadable(ValueError):
    """Neither a value of a known kind nor a formula that math-verify should see."""


class _Many(NamedTuple):
    brackets: str  # "", "⦃⦄", "()", "[]", "(]", "[)", or "∪" for a union
    items: list[str]


def option(text: str, gold: bool = False) -> str | None:
    r"""The option letter that a text is, with or without the option's own text after it.

    >>> option("(B) 12"), option("option b"), option("A or B"), option("x = 1")
    ('B', 'B', None, None)
    """
    match = _OPTION.fullmatch(text.strip())
    if match is None or _OTHER_OPTION.search(match[4]):
        return None
    letter = match[1] or match[2] or match[3]
    return letter.upper() if not gold or letter.isupper() else None


def asked_for(gold: str) -> Asked:
    """What a question with this gold answer asks for."""
    text = normalise(gold) if len(gold) <= 1000 else ""
    if option(text, gold=True) is not None:
        return "option"
    return "words" if _has_words(text) else "value"


def _depths(text: str) -> list[int]:
    """How many brackets are open before each character."""
    depth, depths = 0, []
    for character in text:
        depth -= character in _CLOSERS
        depths.append(depth)
        depth += character in _OPENERS
    return depths


def _split(text: str, separator: str) -> list[str]:
    """Cut at what a pattern matches outside all brackets."""
    depths, parts, start = _depths(text), [], 0
    for match in re.finditer(separator, text):
        if depths[match.start()] == 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    return [*parts, text[start:].strip()]


def _enclosed(text: str) -> bool:
    """Whether the first bracket is closed by the last character and not before."""
    depths = _depths(text)
    inside = len(text) > 1 and text[0] in _OPENERS and text[-1] in _CLOSERS
    return inside and depths[-1] == 0 and min(depths[1:-1], default=1) > 0


def _items(text: str) -> list[str]:
    """The items of a list. If some commas have a space after them, the others are thousands."""
    comma = r",(?!\d{3}(?!\d))|,(?=\s)|(?<!\d),"
    separator = comma if re.search(r",\s", text) else ","
    words = r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])"
    found = _split(text, rf"(?:{separator}|;)\s*{words}|{separator}|;|{words}")
    items = []
    for item in found:
        parts = _split(item, r"\\pm(?![a-zA-Z])")
        if len(parts) == 2 and "=" not in parts[1]:
            items += [f"{parts[0]} + {parts[1]}".lstrip(" +"), f"{parts[0]} - {parts[1]}"]
        else:
            items.append(item)
    return items


def _many(text: str) -> _Many | None:
    """A text as several values; None if it is only one."""
    union = _split(text, r"\\cup(?![a-zA-Z])")
    if len(union) > 1:
        return _Many("∪", union)
    items = _items(text)
    if len(items) > 1:
        return _Many("", items)
    if not _enclosed(text):
        return None
    inner = _items(text[1:-1].strip())
    brackets = text[0] + text[-1]
    if brackets in ("{}", "⦃⦄"):
        return _Many("⦃⦄", inner)
    return _Many(brackets, inner) if len(inner) > 1 else None


def _bare(text: str) -> str:
    """Without brackets around one value."""
    while _enclosed(text) and text[0] + text[-1] in ("()", "{}") and len(_items(text[1:-1])) == 1:
        text = text[1:-1].strip()
    return text


def _named(text: str) -> tuple[str, str]:
    r"""Name and value of `x = 5`; the name is empty without one.

    >>> _named("x = 5"), _named("7+5 = 12"), _named("2x = 10")
    (('x', '5'), ('', '12'), ('', '2x = 10'))
    """
    text = re.sub(r"^(?:=|\\approx|\\sim|(?:about|approximately|roughly)\b)\s*", "", text)
    first, *rounded = _split(text, r"\\approx(?![a-zA-Z])")
    if rounded and not (_NAME.fullmatch(first) and "=" not in first):
        text = first  # an exact value, and then its approximation
    parts = _split(text.replace("\\approx", "="), r"(?<![<>!=])=(?!=)|\\in(?![a-zA-Z])")
    if len(parts) < 2 or not all(parts):
        return "", text
    if all(not re.search(r"[A-Za-z]", part) for part in parts[:-1]):
        return "", parts[-1]
    name = parts[0]
    if _NAME.fullmatch(name) and not _NO_NAME.search(name):
        return re.sub(r"[\s(){}]", "", name), parts[-1]
    return "", text


def _interval(text: str) -> tuple[str, str] | None:
    r"""An inequality of one name as an interval: `0 \le x < 1` is ("x", "[0,1)")."""
    signs = _RELATION.findall(text)
    parts = [part.strip() for part in _RELATION.split(text)]
    if not 1 <= len(signs) <= 2 or "\\ne" in signs or len(parts) != len(signs) + 1:
        return None
    if signs[0] in ("\\ge", ">"):
        turned = {"\\ge": "\\le", ">": "<", "\\le": "\\ge", "<": ">"}
        signs, parts = [turned[sign] for sign in reversed(signs)], parts[::-1]
    symbol = re.compile(r"\\?[A-Za-z]+(?:\([a-z]\))?")
    names = [i for i, part in enumerate(parts) if symbol.fullmatch(part)]
    names = [i for i in names if parts[i] not in ("e", "\\pi", "\\infty")]
    if len(names) != 1 or any(sign in ("\\ge", ">") for sign in signs):
        return None
    (name,) = names
    if len(signs) == 2 and name != 1:
        return None
    low = ("[" if signs[0] == "\\le" else "(") + parts[0] if name > 0 else "(-\\infty"
    high = (
        parts[-1] + ("]" if signs[-1] == "\\le" else ")") if name < len(parts) - 1 else "\\infty)"
    )
    return parts[name], f"{low},{high}"


def _words(text: str) -> str:
    """What of a text with words must agree."""
    return re.sub(r"[\s.,;:!?\"'$*_]+", " ", text).strip().casefold()


def _has_words(text: str) -> bool:
    text = re.sub(r"\\(?:begin|end)\s*\{[a-z]+\*?\}", "", text)
    found = (word.lower() for word in _TEXT.findall(text))
    letters = re.fullmatch(r"[A-Za-z]{2,}(?: [A-Za-z]+)*", text)
    return bool(letters) or any(word not in _FUNCTIONS for word in found)


def _same_unordered(mine: list[str], right: list[str], formulas: Formulas) -> bool:
    left = list(mine)
    for item in right:
        match = next((other for other in left if same(other, item, formulas)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def _names_and_values(many: _Many) -> tuple[list[str], list[str]]:
    names, values = map(list, zip(*map(_named, many.items), strict=True))
    if names[0] and not any(names[1:]):  # n = 1, 2, 3
        names = names[:1] * len(names)
    return names, values


def _ordered(mine: _Many, right: _Many, assigned: bool) -> bool | None:
    """Whether the order of two lists counts; None if lists with these brackets differ."""
    kinds = {mine.brackets, right.brackets}
    if kinds <= {"", "∪"} and "∪" in kinds:
        return False
    if kinds <= {"", "⦃⦄"}:
        return assigned or any(map(_has_words, right.items))
    if len(kinds) == 1 or (kinds == {"", "()"} and (assigned or len(right.items) > 2)):
        return True
    return None


def _same_many(mine: _Many, right: _Many, formulas: Formulas) -> bool:
    if len(mine.items) != len(right.items):
        return False
    names, values = _names_and_values(mine)
    gold_names, gold_values = _names_and_values(right)
    if all(names) and all(gold_names):
        return _same_unordered(
            [f"{name}={value}" for name, value in zip(names, values, strict=True)],
            [f"{name}={value}" for name, value in zip(gold_names, gold_values, strict=True)],
            formulas,
        )
    assigned = any(all(n) and len(set(n)) == len(n) for n in (names, gold_names))
    ordered = _ordered(mine, right, assigned)
    if ordered is None:
        return False
    if not ordered:
        return _same_unordered(values, gold_values, formulas)
    return all(same(*pair, formulas) for pair in zip(values, gold_values, strict=True))


def _parts(text: str) -> list[str] | None:
    """The parts of a time or a ratio, `am` or `pm` being one of them."""
    match = re.fullmatch(
        r"([\d.]+(?:(?:\s*:\s*| to )[\d.]+)+)\s*([ap]\.?\s?m\.?)?", text, re.IGNORECASE
    )
    if match is None:
        return None
    return [*re.split(r"\s*:\s*| to ", match[1]), re.sub(r"[.\s]", "", match[2] or "").lower()]


def _base(text: str) -> tuple[str, str] | None:
    base = r"\s*_\s*\{?\s*\(?\s*([1-9]\d?|[A-Za-z]+)\s*\)?\s*\}?"  # 1_000 is a number
    match = re.fullmatch(rf"(\w+){base}", text)
    match = match or re.fullmatch(r"(\w+)\s*\(?base\s*(\w+)\)?", text)
    if match is None or not match[1][0].isdigit():
        return None
    base = match[2].lower()
    return match[1].lower().lstrip("0"), _BASES.get(base, base)


def _same_quantities(mine: str, right: str, formulas: Formulas) -> bool | None:
    """Numbers and formulas with their units; None if there is none to compare."""
    quantity, gold_quantity = read_quantity(mine), read_quantity(right)
    if quantity and gold_quantity:
        return same_quantity(quantity, gold_quantity)
    (value, unit), (gold_value, gold_unit) = split_unit(mine), split_unit(right)
    if not (unit or gold_unit):
        return None
    if not same_unit(unit, gold_unit) or "%" in (unit, gold_unit):
        return False
    return same(value, gold_value, formulas)


def _same_single(mine: str, right: str, formulas: Formulas) -> bool:
    for read in (_parts, _base):
        readings = read(mine), read(right)
        if any(readings):
            return readings[0] == readings[1]
    decided = _same_quantities(mine, right, formulas)
    if decided is not None:
        return decided
    if _has_words(mine) or _has_words(right):
        return _words(mine) == _words(right)
    for text in (mine, right):
        if _UNREADABLE.search(text):
            raise Unreadable(text)
    return formulas(mine, right)


def _as_intervals(mine: str, right: str) -> tuple[str, str] | None:
    """Two texts with inequalities as intervals; None if their names differ."""
    relation, gold_relation = _interval(mine), _interval(right)
    if relation and gold_relation:
        return (relation[1], gold_relation[1]) if relation[0] == gold_relation[0] else None
    if relation and _split(right, r"\\in(?![a-zA-Z])")[-1][:1] in ("(", "["):
        return relation[1], right
    if gold_relation and _split(mine, r"\\in(?![a-zA-Z])")[-1][:1] in ("(", "["):
        return mine, gold_relation[1]
    return mine, right


def same(mine: str, right: str, formulas: Formulas) -> bool:
    r"""Whether two normalised texts are one value, by the rules of the module's docstring.

    Args:
        formulas: decides about two formulas.

    Raises:
        Unreadable: a text is none of the kinds.
    """
    mine, right = _bare(mine), _bare(right)
    if not mine or not right:
        raise Unreadable("an empty text")
    if mine == right or _has_words(right) and _words(mine) == _words(right):
        return True
    intervals = _as_intervals(mine, right)
    if intervals is None:
        return False
    mine, right = intervals
    several = None if read_quantity(mine) else _many(mine)
    gold_several = None if read_quantity(right) else _many(right)
    if several and gold_several:
        return _same_many(several, gold_several, formulas)
    for many in (several, gold_several):  # a set of one
        if many and many.brackets == "⦃⦄" and len(many.items) == 1:
            single = many.items[0]
            pair = (single, right) if many is several else (mine, single)
            return same(*pair, formulas)
    name, value = ("", mine) if several else _named(mine)
    gold_name, gold_value = ("", right) if gold_several else _named(right)
    equation, gold_equation = "=" in value, "=" in gold_value
    if equation or gold_equation:  # y = 2x is the equation 2x - y = 0
        return "=" in mine and "=" in right and _same_single(mine, right, formulas)
    if name and gold_name and name != gold_name and max(len(name), len(gold_name)) < 4:
        return False
    if (value, gold_value) != (mine, right):
        return same(value, gold_value, formulas)
    return False if several or gold_several else _same_single(mine, right, formulas)


def same_answer(answer: str, gold: str, formulas: Formulas) -> bool:
    """Whether an answer, as it was written, is the gold one, as it was written.

    Raises:
        Unreadable: one of them is of no known kind.
    """
    mine, right = normalise(answer), normalise(gold)
    letter = option(right, gold=True)
    if letter is not None:
        return option(mine) == letter
    return same(mine, right, formulas)
