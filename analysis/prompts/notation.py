r"""One spelling for what is written in many: unicode, LaTeX, Markdown, plain text.

`normalise` changes how a value is written and never which value it is. What it knows:

    decoration    $ $, \( \), \[ \], ** **, \left, \displaystyle, spacing, a full stop at the end
    fonts         \text{cm}, \mathbf{5}, \mbox{ or }: their content, between spaces
    unicode       −, ×, ÷, ½, x², √2, π, ∞, ≤, ∪, °, full-width digits
    spellings     \dfrac, \frac12, {1 \over 2}, sqrt(2), \sqrt2, 2**3, <=, \leq, \%, inf, 10{,}000,
                  5 x 10, a ratio of 3 to 4

Set braces \{ \} come out as ⦃ ⦄, so that { } only groups. All is linear in the text.
"""

from __future__ import annotations

import re
import unicodedata

_SCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ₀₁₂₃₄₅₆₇₈₉", "0123456789+-n0123456789", strict=True))
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_VULGAR = re.compile("[¼½¾⅐-⅞]")

_SYMBOLS = {
    **dict.fromkeys("−–—‒‐‑", "-"),
    **dict.fromkeys("·⋅∙", r"\cdot "),
    **dict.fromkeys("“”″", '"'),
    **dict.fromkeys("‘’′", "'"),
    **dict.fromkeys("\u00a0\u2007\u2009\u200a\u202f\u3000", " "),
    **dict.fromkeys("\u200b\u2060\ufeff", ""),
    "×": r"\times ",
    "÷": "/",
    "∗": "*",
    "⁄": "/",
    "∶": ":",
    "∞": r"\infty ",
    "≤": r"\le ",
    "⩽": r"\le ",
    "≥": r"\ge ",
    "⩾": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "±": r"\pm ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "ℝ": r"\mathbb{R} ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "π": r"\pi ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "γ": r"\gamma ",
    "θ": r"\theta ",
    "λ": r"\lambda ",
    "φ": r"\phi ",
    "…": r"\ldots ",
}
_SYMBOL = re.compile("|".join(map(re.escape, _SYMBOLS)))

_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|up|normal)?|math(?:rm|bf|it|sf|tt|normal)|mbox|hbox|bm|boldsymbol"
    r"|operatorname\*?)\s*\{([^{}]*)\}"
)
_OVER = re.compile(r"\{([^{}]*?)\\over(?![a-zA-Z])([^{}]*)\}")
_MATH = re.compile(r"\$\$([^$]+)\$\$|(?<!\\)\$(?=[^\s$])([^$\n]*[^\s$\\])\$(?!\d)")
_MARKED = [  # bold, italics, code; not the stars of a product or of a power
    re.compile(rf"(?<![\w)}}*]){mark}(?=\S)({inner}*(?<=\S)){mark}(?![\w({{*])")
    for mark, inner in ((r"\*\*", "[^*]"), ("__", "[^_]"), (r"\*", "[^*]"), ("`", "[^`]"))
]

# In this order; each pattern is linear, and none makes what an earlier one looks for.
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\(?:left|right|middle|m?right|[bB]igg?[lrm]?)(?![a-zA-Z])\s*\.?(?=\W)", ""),
        (r"\\(?:displaystyle|textstyle|limits|rm|bf|nonumber|boldmath)(?![a-zA-Z])", " "),
        (r"(?<!\\)\\\{|\\lbrace(?![a-zA-Z])", "⦃"),
        (r"(?<!\\)\\\}|\\rbrace(?![a-zA-Z])", "⦄"),
        (r"(?<!\\)\\!\s*", ""),
        (r"\s*\{\s*,\s*\}\s*", ","),
        (r"\{\s*:\s*\}", ":"),
        (r"(?<!\\)\\[,;:> ]|\\q?quad(?![a-zA-Z])|\\(?:thin|med|thick|en)?space(?![a-zA-Z])|~", " "),
        (r"(?<!\\)\\[()\[\]]", " "),
        (r"(?<!\\)\\([%$&#_])", r"\1"),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)(?!\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\\frac\s+\{", r"\\frac{"),
        (r"√\s*(\d+|[a-zA-Z])", r"\\sqrt{\1}"),
        (r"√", r"\\sqrt"),
        (r"\\?\bsqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt\s*(\d)(?!\d)", r"\\sqrt{\1}"),
        (r"\\(?:leq|leqslant|lte)(?![a-zA-Z])|<=", r"\\le "),
        (r"\\(?:geq|geqslant|gte)(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\neq(?![a-zA-Z])|!=", r"\\ne "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\varnothing(?![a-zA-Z])|⦃\s*⦄", r"\\emptyset "),
        (r"\\(?:dots|cdots|dotsc)(?![a-zA-Z])|\.\.\.+", r"\\ldots "),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])", r"^\\circ "),
        (r"(?i)(?<![a-z\\])(?:infinity|inf)(?![a-z])|(?<![a-zA-Z\\])oo(?![a-zA-Z])", r"\\infty "),
        (r"\+\s*\\infty", r"\\infty"),
        (r"(?<![a-zA-Z\\])pi(?![a-zA-Z])", r"\\pi "),
        (r"(?i)(?<![a-z\\])(?:percentage|percent|per cent|pct)(?![a-z])", "%"),
        (r"\*\*", "^"),
        (r"(?<=\d) x (?=\d)", r" \\times "),
        (r"(?i)(\bratio\b[^.:]{0,60}?\d) to (?=\d)", r"\1:"),
        (r"([a-z])_(\d)", r"\1_{\2}"),
        (r"\s+", " "),
    ]
]


def _vulgar(match: re.Match[str]) -> str:
    top, bottom = unicodedata.normalize("NFKC", match.group()).split("\u2044")
    return rf"\frac{{{top}}}{{{bottom}}}"


def strip_delimiters(text: str) -> str:
    r"""Without what stands around all of a text: spaces, $ $, \( \), quotes, a final full stop.

    >>> strip_delimiters(r" $$\frac{1}{2}$$. ")
    '\\frac{1}{2}'
    """
    before = None
    while before != text:
        before, text = text, text.strip()
        for left, right in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ('"', '"')):
            inner = text[len(left) : len(text) - len(right)]
            if text.startswith(left) and text.endswith(right) and left not in inner:
                text = inner if len(text) >= len(left + right) else text
        if text.endswith((".", ",", ";")) and not text.endswith(("..", "\\,", "\\;")):
            text = text[:-1]
    return text


def normalise(text: str) -> str:
    r"""The same value in the spelling that the other functions of the verifier read.

    >>> normalise("**½**"), normalise(r"5\,\text{cm}²"), normalise(r"$10{,}000$")
    ('\\frac{1}{2}', '5 cm ^{2}', '10,000')
    """
    text = strip_delimiters(re.sub(r"\s+", " ", text))
    text = _MATH.sub(lambda math: f" {math[1] or math[2]} ", text)
    for mark in _MARKED:
        text = mark.sub(r"\1", text)
    text = _SUPERSCRIPT.sub(lambda m: f"^{{{''.join(map(_SCRIPTS.__getitem__, m[0]))}}}", text)
    text = _SUBSCRIPT.sub(lambda m: f"_{{{''.join(map(_SCRIPTS.__getitem__, m[0]))}}}", text)
    text = _VULGAR.sub(_vulgar, text)
    text = _SYMBOL.sub(lambda match: _SYMBOLS[match[0]], text)
    text = unicodedata.normalize("NFKC", text)
    for _ in range(2):  # a font in a font
        text = _FONT.sub(r" \1 ", text)
    text = strip_delimiters(text)
    text = _OVER.sub(r"\\frac{\1}{\2}", text)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return strip_delimiters(text)
