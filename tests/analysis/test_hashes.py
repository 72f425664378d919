"""One way to a short hash and to an interval, with the values that files hold already."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.files import hash_of_parts, short_hash
from analysis.intervals import LEVELS, percentile


def test_short_hashes_are_the_beginning_of_sha256():
    assert short_hash("abc") == short_hash(b"abc") == "ba7816bf8f01cfea"  # FIPS 180-2, B.1
    assert short_hash("abc", 8) == "ba7816bf"
    assert hash_of_parts([b"a", memoryview(b"bc")]) == short_hash("abc")
    assert short_hash("ä") == short_hash("ä".encode())


def test_an_interval_leaves_row_0_out_and_skips_nan_only_when_asked():
    values = torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = np.quantile(values[1:].numpy(), LEVELS, axis=0)
    assert np.array_equal(percentile(values).numpy(), expected)
    assert np.array_equal(percentile(values.numpy(), skip_nan=True).numpy(), expected)
    values[7, 1] = torch.nan
    found = percentile(values)
    assert found[:, 1].isnan().all() and not found[:, [0, 2]].isnan().any()
    skipped = percentile(values, skip_nan=True)[:, 1].tolist()
    kept = values[1:, 1][~values[1:, 1].isnan()]
    assert skipped == pytest.approx(np.quantile(kept.numpy(), LEVELS))
