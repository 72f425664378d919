r"""Find the final answer in a completion, in time linear in its text.

Only what follows `</think>` counts. Taken, in this order, from

    <answer>...</answer>     the last one; a box or "the answer is" inside it is followed
    \boxed{...}, \fbox{...}  the last one, with those before it that only a comma, "and", "or" or
                             a name (`y =`) separates: two boxes are one list
    #### ...                 the last line that begins so
    the answer is ...        or `Answer: ...`: the rest of that sentence, up to "because" or "not"
    the last value           of the last line that has one: a number, fraction, product, list,
                             mixed number or formula as a whole. `3/4` is not 4, `10-3` not -3,
                             `30 cm^3` is 30, `23 or 24` is a list

If the question asks for words, a text of a few words is the answer; if it asks for an option, the
letter that the last sentence names is, if it names only one and denies nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from analysis.prompts.notation import normalise

Asked = Literal["value", "option", "words"]
MAX_BOX = 1000  # characters of a box that is one of several
MAX_RUN = 300  # characters of a value in plain text
TAIL = 4096  # characters at the end of a text in which the last value is looked for

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(\{|-?\d+(?:[.,]\d+)*|[A-Za-z](?![A-Za-z]))")
_BRACE = re.compile(r"\\[{}]|[{}]")
_BETWEEN = re.compile(
    r"(?:\s|[,;$&~]|\\[()\[\],;:! ]|\\q?quad|\\text\s*\{|\}|\band\b|\bor\b"
    r"|(?<![A-Za-z\\])[A-Za-z](?:_\w)?\s*=)*+"
)
_ANNOUNCED = re.compile(
    r"(?i)\banswer\b(?:\s+(?:to|of|for)\b[^.:=\n]{0,80}?)?(?:\s*\*\*)?"
    r"\s*(?:\b(?:is|equals|would be|must be|should be|will be)\b(?:\s*:)?|[:=])[\s*]*"
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)(?<!\b[A-Z]\.)|\n")
_EXPLAINED = re.compile(
    r"(?i)[\s,;(]+(?:because|since|as|so|where|which|for example|i\.e|not|rather than)\b"
)
_ADVERBS = re.compile(
    r"(?i)(?:(?:therefore|thus|hence|then|simply|just|exactly|equal to|given by|option|choice"
    r"|a total of)\b[\s,:]*)*"
)
_JOINED = re.compile(r"(?<!\\)[,;]|and|or|&")
_FEW_WORDS = re.compile(r"[A-Za-z][A-Za-z'-]*(?: [A-Za-z'-]+){0,4}")
_BULLET = re.compile(r"^\s*(?:[-*•>]|\d{1,2}[.)])\s+(?=\S)")
_SCALE = re.compile(r" (?:hundred|thousand|million|billion|trillion|dozen)\b", re.IGNORECASE)
_DENIED = re.compile(
    r"(?i)(?:\bnot?|n't|\bnever|\bneither|\bless than|\bmore than|\bat least|\bat most"
    r"|\bgreater than|\bfewer than)(?:\s+(?:be|equal to|equal))?\s*$"
)
_DENIAL = re.compile(
    r"(?i)\b(?:not?|never|neither|nor|wrong|incorrect|false|except|unlike)\b|n't\b"
)
# What an announced answer may begin with; if it has no digit, a few words are an answer, too.
_BEGINS = re.compile(
    r"[\s*_$(\[{|+±≈-]*(?:[\d\\€£¥₹¼-¾√π∞∅]|\.\d|[A-Za-z](?:_\w|\([a-z]\))?\s*(?:=|<|>|≤|≥|∈)"
    r"|[A-Za-z](?![A-Za-z']))"
)
_TAKEN_BACK = re.compile(r"(?i)\b(?:wrong|incorrect|not (?:right|correct))\b")
_OPTION = re.compile(
    r"\(([A-Za-z])\)|(?<![A-Za-z0-9\\'^_=+*/-])([A-Z])(?![A-Za-z0-9'^_=+*/-]|\s*=)"
)

_ARTICLE = re.compile(  # or a pronoun
    r"(?<![A-Za-z(])(?:A(?= (?!(?:or|and|is|was|because|since|as)\b)[a-z])|I(?= [a-z]|'[a-z]))"
)

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d+(?!\w))?%?|\.\d+%?"
_GROUP = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
_TOKEN = re.compile(
    rf"""
    (?P<break> \\approx(?![a-z]) | \\(?:Rightarrow|to|implies|boxed|fbox)(?![a-z]) | :(?=\s)(?<!\s:)
             | [.!?](?=\s|$)(?<!\d!) )
  | (?P<command> \\[a-zA-Z]+ (?:\s*\[[^\]\[]*\])? (?:\s*{_GROUP})* )
  | (?P<number> {_NUMBER} )
  | (?P<joint> \b(?:and|or)\b )
  | (?P<word> [A-Za-z]{{2,}} (?:[\^_]\{{?-?\w+\}}?)? (?:[-/][A-Za-z0-9]+(?:\^\{{?-?\w+\}}?)?)*
            | (?<=\d\s)[A-Za-z](?:/[a-z]+)?(?:\^\{{?[23]\}}?)?(?=\s|$) )
  | (?P<letter> [A-Za-z] )
  | (?P<sign> [-+*/^_<>=:,;!'%$€£¥₹¢()\[\]{{}}⦃⦄|] )
  | (?P<space> \s+ )
  | (?P<other> . )
    """,
    re.VERBOSE,
)


def _box_at(text: str, match: re.Match[str]) -> tuple[str, int] | None:
    """What a box holds and where it ends; None if it is not closed."""
    if match[1] != "{":
        return match[1], match.end()
    depth = 0
    for brace in _BRACE.finditer(text, match.end()):
        if brace[0] == "{":
            depth += 1
        elif brace[0] == "}" and depth == 0:
            return text[match.end() : brace.start()], brace.end()
        elif brace[0] == "}":
            depth -= 1
    return None


def last_boxed(text: str) -> str | None:
    r"""What the last boxes of a text hold; None without one, or if the last is not closed.

    >>> last_boxed(r"first \boxed{1}. Then \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    >>> last_boxed(r"so $\boxed{3}$ and $\boxed {5}$, see step 3")
    '3,5'
    """
    found: list[str] = []
    follows = len(text)
    for match in reversed(list(_BOX.finditer(text))):
        box = _box_at(text, match) if not found or follows - match.end() < MAX_BOX else None
        if box is None:
            break
        content, close = box
        between = text[close:follows] if follows - close <= 100 else "."
        if found and not (_BETWEEN.fullmatch(between) and _JOINED.search(between)):
            break  # another answer, or a box around this one
        if not found or content.strip() != found[0].strip():
            found.insert(0, content)
        follows = match.start()
    return ",".join(found) if found else None


def _last_tagged(text: str) -> str | None:
    start = text.rfind("<answer>", 0, max(text.rfind("</answer>"), 0))
    if start < 0:
        return None
    return text[start + len("<answer>") : text.find("</answer>", start)]


def announced(text: str) -> str | None:
    """The rest of the sentence after the last "the answer is" of a text, or None.

    >>> announced("So the final answer is 42 apples, because 6*7=42. Done.")
    '42 apples'
    """
    matches = list(_ANNOUNCED.finditer(text))
    if not matches:
        return None
    rest = text[matches[-1].end() :]
    end = _SENTENCE_END.search(rest)
    rest = rest[: end.start()] if end else rest
    because = _EXPLAINED.search(rest)
    rest = rest[: because.start()] if because and because.start() else rest
    rest = rest[_ADVERBS.match(rest).end() :].strip(" \t*_")  # type: ignore[union-attr]
    short = len(rest.split()) <= 5 and not re.search(r"\d", rest) and re.search(r"\w", rest)
    return rest if short or _BEGINS.match(rest) else None


def _runs(line: str) -> Iterator[tuple[int, int]]:
    """Where the values of a normalised line stand: tokens of formulas with no word between."""
    start, end, valued = -1, -1, False
    item, lettered = -1, False  # the list item that is being read, and whether it has a letter
    before, space = "", False  # the token before, and whether there is a space after it
    for token in _TOKEN.finditer(line):
        kind = str(token.lastgroup)
        if kind == "space":
            space = True
            continue
        if kind == "letter":
            breaks = space and before not in "+-*/^<>=,;" and before not in ("and", "or")
        elif kind in ("number", "command"):
            breaks = space and len(before) == 1 and before.isalpha()
        else:
            breaks = kind in ("break", "word", "other")
        if breaks and valued:
            yield start, end
        if breaks:
            start, valued = -1, False
        if not breaks or kind in ("letter", "number", "command"):
            if start < 0 or before in (",", ";", "and", "or"):
                item, lettered = token.start(), False
            start = token.start() if start < 0 else start
            end = token.end()
            valued = valued or kind in ("number", "command")
            lettered = lettered or kind == "letter"
        if token[0] == "=" and valued and not lettered:
            start = item  # a step of a computation, not an item of a list
        before, space = token[0], False
    if valued:
        yield start, end


def _trimmed(run: str) -> str:
    """A value without the punctuation and connectives around it, and without single brackets."""
    before = None
    while before != run and len(run) < MAX_RUN:
        before = run
        run = re.sub(r"^(?:[\s,;:*/^_!'<>=|]|(?:and|or)\b)+", "", run)
        run = re.sub(r"(?:[\s,;:*/^_'<>=(\[{⦃+-]|\b(?:and|or))+$", "", run)
        for left, right in ("([", ")]"), ("{⦃", "}⦄"):
            more = sum(map(run.count, left)) - sum(map(run.count, right))
            if more < 0 and run[-1:] in tuple(right):
                run = run[:-1]
            elif more > 0 and run[:1] in tuple(left):
                run = run[1:]
    return run


def last_value(text: str) -> str | None:
    r"""The last value of the last line that has one; None if there is none, or if it is denied.

    >>> last_value("the volume is 30 cm^3"), last_value("It takes 2 1/2 hours.")
    ('30', '2 1/2')
    """
    for line in reversed(text[-TAIL:].splitlines()):
        line = _BULLET.sub("", line, count=1)
        line = normalise(line)
        runs = list(_runs(line))
        if runs:
            start, end = runs[-1]
            scale = _SCALE.match(line, end)
            value = _trimmed(line[start:end]) + (scale[0] if scale else "")
            denied = _DENIED.search(line[max(0, start - 40) : start])
            return None if denied or _TAKEN_BACK.search(line, end) else value or None
    return None


def named_option(text: str) -> str | None:
    """The option letter that the last sentence of a text names, if only one and nothing is denied.

    >>> named_option("I looked at A and C. The correct option is (B).")
    'B'
    """
    sentences = [s for s in re.split(r"[.!?]\s+|\n", text[-TAIL:].strip()) if s.strip()]
    if not sentences or _DENIAL.search(sentences[-1]):
        return None
    last = normalise(sentences[-1])
    last = _ARTICLE.sub("", last)
    letters = {(m[1] or m[2]).upper() for m in _OPTION.finditer(last)}
    return letters.pop() if len(letters) == 1 else None


def extract_answer(completion: str, asked: Asked = "value") -> str | None:
    r"""The final answer in a completion, or None; see the module's docstring for the rules.

    Args:
        asked: what the question asks for.

    >>> extract_answer("<think>7+5=12</think><answer>12</answer>")
    '12'
    >>> extract_answer("the sum of 7 and 5 is 12.")
    '12'
    >>> extract_answer("<think>7+5=12") is None
    True
    """
    _, closed, rest = completion.rpartition("</think>")
    if not closed and "<think>" in completion:
        return None
    tagged = _last_tagged(rest)
    if tagged is not None:
        return inner_answer(tagged)
    boxed = last_boxed(rest)
    if boxed is not None:
        return inner_answer(boxed)
    rest = rest[-TAIL:]
    marked = rest.rpartition("####")
    if marked[1] and marked[2].strip():
        return marked[2].strip().splitlines()[0].strip()
    said = announced(rest)
    if said is not None:
        return said
    if asked == "option":
        return named_option(rest)
    whole = normalise(rest) if asked == "words" else ""
    return whole if _FEW_WORDS.fullmatch(whole) else last_value(rest)


def inner_answer(text: str) -> str:
    r"""The answer in what should hold only the answer: in its box, or after "the answer is".

    >>> inner_answer(r"So the final answer is $\boxed{42}$.")
    '42'
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return inner_answer(boxed)
    said = announced(text[-TAIL:])
    return text.strip() if said is None else said
