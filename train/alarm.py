"""The alarm of a configuration: `alerts.rules`, and where it tells of them."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from analysis.reporting.alerts import Alarm
from analysis.reporting.webhook import from_environment


def alarm_of(cfg: DictConfig, run: Path) -> Alarm | None:
    """That of a run; None if it has no rules.

    Raises:
        ValueError: a rule is none, the webhook is no address, or nothing tracks the run.
    """
    alerts = cfg.alerts
    if not alerts.rules:
        return None
    if not cfg.tracking.enabled:
        raise ValueError("alerts.rules needs tracking; leave out tracking=none")
    if alerts.halt and cfg.tracking.where == "sidecar":
        raise ValueError(
            "alerts.halt stops a run that is tracked by its trainer; tracking.where=sidecar tells "
            "of alerts only"
        )
    webhook = None if alerts.webhook is None else from_environment(alerts.webhook)
    return Alarm(run, list(alerts.rules), webhook)
