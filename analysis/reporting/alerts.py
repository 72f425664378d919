"""Rules over what a checkpoint's row says: a line in the log, an alert of the loggers, a webhook.

    called_emergent>=5   faithfulness<0.3   faithfulness/hi<0.3   heads/jaccard<=0.5

A name is a key of the row (rows.py), or one of NAMES for short. A value with an interval is
compared itself; NAME/lo and NAME/hi compare the ends of its 95 % interval. A rule alerts once while
it holds, and again when it holds anew. RUN/alerts.jsonl says which alerts were raised, so that a
run that is resumed does not repeat them.
"""

from __future__ import annotations

import json
import logging
import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.cli import nearest
from analysis.files import append_line, to_json

if TYPE_CHECKING:
    from analysis.reporting.publish import Publisher
    from analysis.trajectories.run import Run

log = logging.getLogger(__name__)

FILE = "alerts.jsonl"
_STATES = ("emergent", "pruned", "retained", "transient")
_CHANGES = ("turnover", "excess_turnover", "overlap", "overlap_previous", "jaccard")
# short names of what a row holds; those of WITH_ENDS have /lo and /hi as well
WITH_ENDS = {
    **{name: f"heads/{name}" for name in (*_STATES, *_CHANGES, "rank_correlation", "changed")},
    "faithfulness": "circuit/faithfulness",
    "heads": "circuit/heads",
    "kl": "circuit/kl_from_base",
    "metric_gap": "circuit/metric_gap",
    "pass@1": "eval/held_out/pass@1",
    "routing": "routing/changed",
}
NAMES = {
    **WITH_ENDS,
    **{f"called_{name}": f"heads/{name}/called" for name in ("emergent", "pruned", "changed")},
    **{f"settled_{name}": f"heads/{name}/settled" for name in ("emergent", "pruned")},
    "edges": "circuit/edges",
    "gap": "circuit/completeness_gap",
}
_KEY = re.compile(
    r"(circuit/(edges|completeness_gap|metric_corrupted|seconds)|head/L\d+H\d+"
    r"|heads/(emergent|pruned)/(called|settled|null|null_hi)|heads/changed/(called|retained)"
    rf"|(heads/({'|'.join((*_STATES, *_CHANGES))}|rank_correlation|changed)"
    r"|circuit/(heads|faithfulness|kl_from_base|metric_gap|size)|eval/[^/]+/pass@1"
    r"|routing/(changed|(changed|busiest)/L\d+))(/lo|/hi)?|routing/unused/L\d+)"
)
_OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_RULE = re.compile(r"\s*([^<>=\s]+)\s*(>=|<=|>|<)\s*([^<>=\s]+)\s*")


@dataclass(frozen=True)
class Rule:
    """NAME OP LIMIT. key: of the row."""

    text: str
    key: str
    sign: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Rule:
        """That of a text such as `faithfulness/hi<0.3`.

        Raises:
            ValueError: it is none, or its name is no value of a row; the nearest one is named.
        """
        found = _RULE.fullmatch(text)
        if found is None:
            raise ValueError(f"alerts: {text!r} is no rule such as faithfulness<0.3 (>=, <=, >, <)")
        name, sign, limit = found.groups()
        try:
            number = float(limit)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"alerts: {limit!r} in {text!r} is no number")
        return cls(text.strip(), _key_of(name, text), sign, number)

    def holds(self, value: float) -> bool:
        return bool(_OPERATORS[self.sign](value, self.limit))


def _key_of(name: str, text: str) -> str:
    base, slash, end = name.rpartition("/")
    if name in NAMES:
        return NAMES[name]
    if end in ("lo", "hi") and base in WITH_ENDS:
        return f"{WITH_ENDS[base]}{slash}{end}"
    if _KEY.fullmatch(name):
        return name
    where = f"alerts: there is no value {name!r} ({text!r})"
    if end in ("lo", "hi") and base in NAMES:
        raise ValueError(f"{where}; {base} has no interval")
    raise ValueError(f"{where}; {nearest(name, NAMES)}")


@dataclass(frozen=True)
class Alert:
    """A rule that has begun to hold. low, high: the interval of its value, where it has one."""

    rule: str
    step: int
    key: str
    value: float
    low: float | None = None
    high: float | None = None

    def text(self, run: str) -> str:
        """What is said: the value that was compared, and its interval."""
        what = f"{self.key} is {self.value:.4g}"
        if self.low is not None and self.high is not None:
            what += f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{run}: {what} at step {self.step} (rule {self.rule})"


class Alerts:
    """Rules, and which of them hold."""

    def __init__(self, rules: Sequence[str]) -> None:
        """
        Raises:
            ValueError: as `Rule.parse`.
        """
        self.rules = [Rule.parse(text) for text in rules]
        self._holding: set[str] = set()

    def check(self, step: int, values: Mapping[str, float]) -> list[Alert]:
        """The rules that hold at a row and did not at the one before.

        A value that is not in the row, or is no number, changes nothing.
        """
        found = []
        for rule in self.rules:
            value = values.get(rule.key)
            if value is None or not math.isfinite(value):
                continue
            if not rule.holds(value):
                self._holding.discard(rule.text)
            elif rule.text not in self._holding:
                self._holding.add(rule.text)
                ends = (values.get(f"{rule.key}/lo"), values.get(f"{rule.key}/hi"))
                found.append(Alert(rule.text, step, rule.key, float(value), *ends))
        return found


class Alarm:
    """Looks at the rows of a run as they come, and tells of each new alert, once."""

    def __init__(self, run: Path, rules: Sequence[str], webhook: str | None = None) -> None:
        """webhook: a URL that alerts are sent to; it is written nowhere.

        Raises:
            ValueError: as `Rule.parse` and `webhook.check_url`.
        """
        from analysis.reporting.webhook import check_url

        self.path = run
        self.alerts = Alerts(rules)
        self.webhook = None if webhook is None else check_url(webhook)
        self.raised: list[Alert] = []  # in this process
        self._seen: set[str] = set()  # marks of rows

    def look(self, run: Run, publisher: Publisher | None = None) -> list[Alert]:
        """Check the rows that are new, tell of what they alert of, and return it."""
        from analysis.reporting.rows import head_values, run_rows

        if not self.alerts.rules:
            return []
        done, new = _raised(self.path), []
        for row in run_rows(run):
            if row.is_trainers or row.mark in self._seen:
                continue
            self._seen.add(row.mark)
            values = row.values
            if row.count is not None:
                values = head_values(run.points[: row.count], run.file.max_head_curves)
            for alert in self.alerts.check(row.step, values):
                if (alert.rule, alert.step) not in done:
                    self._tell(run.file.name, alert, publisher)
                    new.append(alert)
        self.raised += new
        return new

    def _tell(self, name: str, alert: Alert, publisher: Publisher | None) -> None:
        from analysis.reporting.webhook import send

        text = alert.text(name)
        append_line(self.path / FILE, to_json(asdict(alert)))
        log.warning("alert: %s", text)
        if publisher is not None:
            publisher.alert(f"headlab: {alert.rule}", text)
        if self.webhook is not None:
            send(self.webhook, {"run": name, **asdict(alert), "text": text, "content": text})


def _raised(run: Path) -> set[tuple[str, int]]:
    """Rule and step of the alerts that were raised; a line that a crash cut is passed over."""
    try:
        lines = (run / FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return set()
    found = set()
    for line in lines:
        try:
            row = json.loads(line)
            found.add((str(row["rule"]), int(row["step"])))
        except (ValueError, TypeError, KeyError):
            continue
    return found
