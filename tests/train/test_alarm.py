"""Alerts of headlab's own trainers: what their keys may be, and how one stops a run."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (['alerts.rules=["faithfull<0.3"]'], "alerts: there is no value 'faithfull'.*faithfulness"),
        (['alerts.rules=["gap>0.1"]', "tracking=none"], "alerts.rules needs tracking"),
        (
            ['alerts.rules=["gap>0.1"]', "alerts.halt=true", "tracking.where=sidecar"],
            "alerts.halt stops a run that is tracked by its trainer",
        ),
        (
            ['alerts.rules=["gap>0.1"]', "alerts.webhook='https://hooks/SECRET'"],
            "alerts.webhook is the name of an environment variable",
        ),
        (['alerts.rules=["gap>0.1"]', "alerts.webhook=NOT_SET"], "no environment variable NOT_SET"),
        (['alerts.rules=["gap>0.1"]', "alerts.webhook=HOOK"], "is no http"),
        (["logger.to=[wand]"], "logger.to is 'wand'; choose one of: wandb, trackio, tensorboard"),
        (["logger.to=[trackio]"], r"logger.to: trackio is not installed; pip install 'headlab"),
    ],
)
def test_alerts_and_loggers_that_can_not_be(compose, words, what, monkeypatch):
    from train import config

    monkeypatch.setenv("HOOK", "ftp://SECRET")
    monkeypatch.setattr(config, "is_installed", lambda name: name != "trackio")
    with pytest.raises(ValueError, match=what) as error:
        config.check(compose("sft", *words))
    assert "SECRET" not in str(error.value)


def test_an_alarm_that_halts(compose, tmp_path, monkeypatch):
    """What it tells of asks for a stop, as a signal does; on the main process, for all agree."""
    from train import callbacks
    from train.alarm import alarm_of

    assert alarm_of(compose("sft"), tmp_path) is None
    monkeypatch.setenv("HOOK", "https://hooks/SECRET")
    words = ['alerts.rules=["gap>0.1"]', "alerts.webhook=HOOK", "alerts.halt=true"]
    alarm = alarm_of(compose("sft", *words), tmp_path)
    assert alarm.webhook == "https://hooks/SECRET"
    monkeypatch.setattr(callbacks, "present", lambda *a: None)
    halt = type("Halt", (), {"asked": False})()
    shown = callbacks.PresentCallback(tmp_path, None, True, alarm, halt)
    shown.present()
    assert not halt.asked
    alarm.raised.append("something")
    shown.present()
    assert halt.asked
