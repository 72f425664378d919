r"""Numbers as people write them, with the unit that stands beside them.

A number is read exactly, as a fraction; a unit is a currency sign, a percent or degree sign, a
known abbreviation, or up to six plain words after a number. Words that change a number (half,
squared, than, or) are no unit.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

MAX_EXPONENT = 999  # a power of ten beyond it is not written out

_SPELLINGS = """
millimeter mm millimetre; centimeter cm centimetre; decimeter dm; meter m metre; kilometer km
kilometre; inch in inches; foot ft feet; yard yd; mile mi; milligram mg; gram g gm; kilogram kg;
pound lb lbs; ounce oz; milliliter ml mL millilitre; centiliter cl; liter l L litre; second s sec;
millisecond ms; minute min mins; hour h hr hrs; mile/hour mph; kilometer/hour kmh kph; degree deg;
radian rad; hertz Hz; kilohertz kHz; newton N; joule J; kilojoule kJ; watt W; kilowatt kW; volt V;
pascal Pa; kilopascal kPa; mole mol; kelvin K; $ dollar usd buck; € euro eur; £ gbp;
₹ inr rs rupee; ¥ yen jpy; ¢ cent; chf; cad; aud; cny; sek; square sq; cubic cu; th st nd rd
"""
_ABBREVIATIONS = {
    spelling: unit
    for unit, *spellings in map(str.split, _SPELLINGS.split(";"))
    for spelling in (unit, *spellings)
}
_SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_NO_UNIT = frozenset(
    re.findall(
        r"[a-z]+",
        "and or to not no nor but than over plus minus times divided by half halves third "
        "thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh eighth "
        "eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths squared "
        "cubed factorial point root mod modulo more less least most if when is was are were be "
        "never none wrong incorrect maybe perhaps except pi sqrt sin cos tan log ln exp choose "
        "power base remainder negative",
    )
)

_WORDS = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty",
)
_DIGITS = (
    r"(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|[1-9]\d{0,2}(?:[ '_]\d{3})+|\d+)(?:\.\d+)?"
    r"|\.\d+|\d+\.|[1-9]\d{0,2}(?:\.\d{3}){2,}|[1-9]\d{0,2}(?:[. ]\d{3})+,\d+"
    r"|\d*\.\d*\\(?:overline|bar|dot)\{\d+\}|\d*\.\d*\\(?:bar|dot) \d"
)
_DECIMAL = re.compile(_DIGITS)
_FRACTION = re.compile(
    rf"\\frac\{{\s*([+-]?)\s*({_DIGITS})\s*\}}\s*\{{\s*([+-]?)\s*({_DIGITS})\s*\}}"
)
_SLASHED = re.compile(rf"({_DIGITS})\s*/\s*([+-]?)({_DIGITS})")
_POWER = re.compile(
    rf"({_DIGITS})(?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{{?\s*([+-]?\d+)\s*\}}?"
    r"|[eE]([+-]?\d+))"
)
_TEN = re.compile(r"10\s*\^\s*\{?\s*([+-]?\d+)\s*\}?")
_MIXED = re.compile(r"(\d+)\s*\\frac\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d+)\s+(\d+)\s*/\s*(\d+)")

_CURRENCY = re.compile(
    r"([+-]?)\s*(?:(?:US|CA|A)?([$€£¥₹])"
    r"|(USD|EUR|GBP|INR|Rs|JPY|CHF|CAD|AUD|CNY|SEK)\.?(?=[\s\d]))\s*(.+)",
    re.DOTALL,
)
_WORD = r"[A-Za-z]+\.?(?:\s*\^\s*\{?\s*-?\d\s*\}?)?"
_UNIT = re.compile(
    rf"\s*(%|[$€£¥₹¢]|\^\\circ\s*[CFK]?|(?<![A-Za-z\\]){_WORD}"
    rf"(?:\s*(?:/|\\cdot|\*)\s*{_WORD}|\s+{_WORD})*)$"
)
_MEASURED = re.compile(r"[\d)}%!]\s*$|\\(?:pi|infty) ?$")  # what a unit may stand behind


class Quantity(NamedTuple):
    value: Fraction
    unit: str  # canonical; empty without one


def _decimal(text: str) -> Fraction:
    repeating = re.fullmatch(r"(\d*)\.(\d*)\\(?:overline|bar|dot)[{ ](\d+)\}?", text)
    if repeating:
        whole, fixed, period = repeating.groups()
        scale = 10 ** len(fixed)
        head = Fraction(int(whole + fixed or "0"), scale)
        return head + Fraction(int(period), scale * (10 ** len(period) - 1))
    if re.fullmatch(r"[1-9]\d{0,2}(?:\.\d{3}){2,}", text):
        text = text.replace(".", "")
    elif re.fullmatch(r"[1-9]\d{0,2}(?:[. ]\d{3})+,\d+", text):
        text = text.replace(".", "").replace(" ", "").replace(",", ".")
    return Fraction(re.sub(r"[, '_]", "", text))


def _thousands(text: str) -> bool:
    """Commas of thousands stand after a digit that is not 0: 0,001 is a list."""
    return "," not in text or not text.startswith("0")


def _unsigned(text: str) -> Fraction | None:
    if _DECIMAL.fullmatch(text):
        return _decimal(text) if _thousands(text) else None
    mixed = _MIXED.fullmatch(text)
    if mixed:
        whole, top, bottom = map(int, (mixed[i] or mixed[i + 3] for i in (1, 2, 3)))
        return whole + Fraction(top, bottom) if 0 < top < bottom else None
    fraction = _FRACTION.fullmatch(text) or _SLASHED.fullmatch(text)
    if fraction:
        parts = fraction.groups()
        above, below = _decimal(parts[-3]), _decimal(parts[-1])
        if below == 0:
            return None
        return -above / below if parts.count("-") == 1 else above / below
    power = _POWER.fullmatch(text)
    if power:
        exponent = int(power[2] or power[3])
        return (
            _decimal(power[1]) * Fraction(10) ** exponent if abs(exponent) <= MAX_EXPONENT else None
        )
    ten = _TEN.fullmatch(text)
    if ten and abs(int(ten[1])) <= MAX_EXPONENT:
        return Fraction(10) ** int(ten[1])
    return None


def read_number(text: str) -> Fraction | None:
    r"""The value of a normalised text that is a number and nothing else.

    >>> read_number("-2 1/2"), read_number(r"3 \times 10^{5}"), read_number("12,34")
    (Fraction(-5, 2), Fraction(300000, 1), None)
    """
    text = text.strip()
    if text.lower() in _WORDS:
        return Fraction(_WORDS.index(text.lower()))
    sign = re.match(r"[+-]?\s*", text)[0]  # type: ignore[index]
    value = _unsigned(text[len(sign) :].strip())
    return -value if value is not None and "-" in sign else value


def canonical_unit(text: str) -> str | None:
    """One spelling of a unit, or None for words that are none.

    >>> canonical_unit("cm^2"), canonical_unit("square centimeters"), canonical_unit("or so")
    ('centimeter^2', 'centimeter^2', None)
    """
    text = re.sub(r"\s*\^\s*\{?\s*(-?\d)\s*\}?", r"^\1", text.strip())
    if text in ("%", *"$€£¥₹¢"):
        return text
    if text.startswith("^\\circ"):
        return ("degree " + text.removeprefix("^\\circ").strip()).strip()
    text = re.sub(r"\s*(?:/|\bper\b)\s*", " / ", text)
    words = re.sub(r"\\cdot|\*", " ", text).split()
    if len(words) > 6 or any(word.lower().strip(".") in _NO_UNIT for word in words):
        return None
    found, power = [], ""
    for word in words:
        name, _, exponent = word.rstrip(".").partition("^")
        if len(name) > 3 and name.endswith("s") and not name.endswith("ss"):
            name = name[:-1]
        name = _ABBREVIATIONS.get(name) or _ABBREVIATIONS.get(name.lower()) or name
        if len(name) == 1 and name.isalpha():
            return None
        if name in ("square", "cubic"):
            power = "^2" if name == "square" else "^3"
            continue
        exponent = f"^{exponent}" if exponent else power
        found.append((name if name.isupper() else name.lower()) + exponent)
        power = ""
    return " ".join(found).replace(" / ", "/").replace("/ ", "/") if found else None


def split_unit(text: str) -> tuple[str, str]:
    r"""A text without its unit, and the unit in one spelling (empty without one).

    One letter right after a digit is a factor, not a unit: `2h` is not 2.

    >>> split_unit("5 km/h"), split_unit(r"36\pi cm^2"), split_unit("2xy")
    (('5', 'kilometer/hour'), ('36\\pi', 'centimeter^2'), ('2xy', ''))
    """
    money = _CURRENCY.fullmatch(text)
    if money:
        sign, symbol, name, rest = money.groups()
        return sign + rest.strip(), symbol or _ABBREVIATIONS[name.lower()]
    match = _UNIT.search(text)
    if match is None or not _MEASURED.search(text, 0, match.start(1)):
        return text, ""
    unit = match[1]
    if unit[0].isalpha():
        name = re.match(r"[A-Za-z]*", unit)[0]  # type: ignore[index]
        attached = text[match.start(1) - 1] != " "
        known = name in _ABBREVIATIONS or name.lower() in _ABBREVIATIONS
        if (attached and len(name) == 1) or ((attached or len(name) < 3) and not known):
            return text, ""
    canonical = canonical_unit(unit)
    return (text, "") if canonical is None else (text[: match.start(1)].strip(), canonical)


def read_quantity(text: str) -> Quantity | None:
    r"""A normalised text as a number with its unit; None if it is not one.

    >>> read_quantity("$1,234.50")
    Quantity(value=Fraction(2469, 2), unit='$')
    >>> read_quantity("5 million people")
    Quantity(value=Fraction(5000000, 1), unit='people')
    """
    value = read_number(text)
    if value is not None:
        return Quantity(value, "")
    number, unit = split_unit(text)
    words = unit.split()
    if unit and unit in "$€£¥₹":  # $5 million, $18 per day
        number, more = split_unit(number)
        words = more.removeprefix("/").split()
        unit = f"{unit}{'/' * more.startswith('/')}"
    scale = _SCALES.get(words[0], 1) if words else 1
    words = words[scale > 1 :]
    value = read_number(number)
    if value is None or any(word in _SCALES for word in words):
        return None
    prefix = unit if unit and unit[0] in "$€£¥₹" else ""
    rest = " ".join(words)
    return Quantity(value * scale, rest if rest.startswith(prefix) else prefix + rest)


def same_unit(mine: str, right: str) -> bool:
    """Whether two units, or none, may be of one value: degrees may leave their scale out."""
    if not mine or not right or mine == right:
        return True
    short, long = sorted((mine, right), key=len)
    return short == "degree" and long in ("degree C", "degree F")


def same_quantity(mine: Quantity, right: Quantity) -> bool:
    """Equal values, by the rules for units and percent of analysis/evaluation/reading.py."""
    percents = [quantity.unit == "%" for quantity in (mine, right)]
    if percents[0] == percents[1]:
        return mine.value == right.value and same_unit(mine.unit, right.unit)
    percent, plain = (mine, right) if percents[0] else (right, mine)
    if plain.unit:
        return False
    return plain.value == percent.value / 100 or (plain.value == percent.value > 1)
