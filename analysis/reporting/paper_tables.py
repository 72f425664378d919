"""What "Thinking Sparks!" (arXiv 2509.25758v2) prints, as data for analysis/reporting/paper.py.

Numbers are texts, with the decimals that were printed. A cell belongs to a label, as
`headlab evaluate` takes it (label=), and to a task.

SE is the standard error of the paper's own number p over so many problems, sqrt(p (1 - p) /
problems). That is exact for one sample of each problem, which then gives a multiple of one problem
(by rounding or, as the paper mostly does, by cutting off decimals). A number that is no such
multiple is a mean over samples, of which the same formula is an upper bound, marked `<`. At 0 and
100 the formula gives 0, which is no certainty.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal
from math import sqrt

PROBLEMS = {"aime24": 30, "aime25": 30, "amc": 83, "gpqa": 198, "math500": 500}
NAMES = {"aime24": "AIME24", "aime25": "AIME25", "amc": "AMC", "gpqa": "GPQA", "math500": "MATH"}


@dataclass(frozen=True)
class Group:
    """Rows about one model.

    label: what its labels begin with.  none: the row of the unchanged model.
    rows: pass@1 in per cent by row, one text for each of the table's tasks.
    """

    label: str
    title: str
    none: str
    rows: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Table:
    """A table: its groups share the tasks."""

    title: str
    tasks: tuple[str, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()


ABLATION = Table(
    "Ablation: 5 to 10 heads zeroed",
    ("aime24", "aime25", "gpqa", "amc"),
    (
        Group(
            "ablation/R1-Distill-Qwen-1.5B",
            "R1-Distill-Qwen-1.5B",
            "none",
            {
                "none": ("30.0", "26.6", "18.6", "66.2"),
                "reasoning": ("26.6", "16.6", "17.1", "59.0"),
                "base": ("30.0", "23.3", "12.1", "53.0"),
                "TriviaQA": ("0", "0", "0", "0"),
            },
        ),
        Group(
            "ablation/R1-Distill-Qwen-7B",
            "R1-Distill-Qwen-7B",
            "none",
            {
                "none": ("40.0", "43.3", "35.3", "81.9"),
                "reasoning": ("53.3", "46.6", "35.8", "78.3"),
                "base": ("53.3", "43.3", "37.3", "83.1"),
                "TriviaQA": ("50.0", "50.0", "34.3", "79.5"),
            },
        ),
    ),
)

SCALING = Table(
    "Scaling: heads of trained models, zeroed or scaled",
    ("aime24", "amc", "math500"),
    (
        Group(
            "scaling",
            "Qwen2.5-Math-1.5B",
            "none",
            {
                "none": ("13.3", "38.5", "56.0"),
                "SFT heads zeroed": ("0", "0.05", "0.10"),
                "SFT heads x1.3": ("0", "37.3", "58.2"),
                "GRPO-GSM8K heads x0.5": ("3.33", "42.1", "63.0"),
                "GRPO-GSM8K heads x1.3": ("3.33", "30.1", "60.2"),
            },
        ),
    ),
    (
        "How to read the cells 0.05 and 0.10 is open. SE takes them as per cent, like all others;",
        "then they are no multiple of one problem. As shares they would be 5 % and 10 %.",
    ),
)

THINK = Table(
    "Think on and off",
    ("aime24", "aime25", "amc", "gpqa", "math500"),
    (
        Group(
            "think",
            "Qwen3-8B",
            "off",
            {
                "on": ("80.0", "73.3", "89.1", "63.1", "93.8"),
                "off": ("30.0", "13.3", "67.4", "44.9", "81.4"),
                "off heads zeroed": ("36.6", "20.0", "61.4", "49.4", "83.6"),
                "off heads x0.5": ("20.0", "23.3", "56.6", "51.0", "81.8"),
            },
        ),
    ),
)

TABLES = (ABLATION, SCALING, THINK)


@dataclass(frozen=True)
class HeadCount:
    """Heads in circuits on AIME 2024: how many, and the first five names.

    run: what the name of our run (in its run.json) begins with.
    """

    row: str
    run: str
    count: int
    names: tuple[str, ...]


GRPO_OPENR1 = ("L0H8", "L5H1", "L7H1", "L18H11", "L11H8")  # printed once, for which rate is open
HEADS = (
    HeadCount("distilled", "paper-distilled", 32, ("L5H0", "L5H2", "L5H4", "L6H10", "L7H7")),
    HeadCount("SFT", "paper-openr1-sft", 34, ("L0H8", "L11H3", "L3H3", "L5H1", "L7H3")),
    HeadCount("GRPO OpenR1, lr 1e-6", "paper-openr1-grpo", 19, GRPO_OPENR1),
    HeadCount("GRPO OpenR1, lr 2e-5", "paper-openr1-lr2e-5-grpo", 19, GRPO_OPENR1),
    HeadCount("GRPO GSM8K", "paper-gsm8k-grpo", 20, ("L0H8", "L5H1", "L7H2", "L3H3", "L21H2")),
)
BASE_HEADS = HeadCount("base", "", 56, ("L0H7", "L21H10", "L2H6", "L11H1", "L14H10"))


def is_multiple(text: str, problems: int) -> bool:
    """Whether a printed percentage is some number of right answers out of so many problems."""
    unit = Decimal(1).scaleb(Decimal(text).as_tuple().exponent)  # type: ignore[arg-type]
    shares = (Decimal(100 * count) / problems for count in range(problems + 1))
    return any(
        share.quantize(unit, rounding) == Decimal(text)
        for share in shares
        for rounding in (ROUND_FLOOR, ROUND_HALF_UP)
    )


def standard_error(text: str, problems: int) -> tuple[float, bool]:
    """Of a printed percentage, in per cent: sqrt(p (1 - p) / problems); and whether it is exact."""
    p = float(text) / 100
    return 100 * sqrt(p * (1 - p) / problems), is_multiple(text, problems)
