"""What a run's tracking will need is told part by part, without a trace."""

from __future__ import annotations

from dataclasses import replace

import torch

from analysis.tracking.forecast import tracking_forecast
from analysis.tracking.settings import TrackingSettings
from tests.support.models import random_pairs, tiny_model


def test_the_parts_of_a_checkpoint_and_of_a_run_are_told(tmp_path):
    model, pairs = tiny_model("llama", torch.float32), random_pairs(8)
    settings = TrackingSettings(metric="logit_diff", resamples=20)
    state = torch.get_rng_state()
    found = tracking_forecast(model, pairs, settings, tmp_path)
    assert torch.equal(state, torch.get_rng_state()) and not any(tmp_path.iterdir())
    assert found.further == 0.0 and found.needed > 0.0  # no further pairs are there
    random_pairs(24, seed=1).save(tmp_path / "base_pairs.jsonl")
    more = tracking_forecast(model, pairs, settings, tmp_path, needed=0)
    assert more.further > more.bootstrap and more.needed == 0.0
    assert found.peak >= found.attribution.peak
    fixed = replace(found, circuit=1.0, roles=2.0, bootstrap=3.0, further=10.0, needed=5.0)
    each = fixed.attribution.seconds + 6.0
    assert fixed.run(3, loading=0.5) == 3 * (each + 0.5) + 15.0
