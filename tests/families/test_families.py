"""Every family of decoders that transformers knows: found, proved and used, or refused.

A test is named after its family; tests/support/families/proof.py says what is compared with what,
tests/support/families/outcomes.py what is known to come out. The families that people train most
are tried at one destination of each kind in every run of the tests, all of them at every edge by
`make test-models`.
"""

from __future__ import annotations

import pytest
import torch

from tests.support.families.build import build
from tests.support.families.float64 import Float64
from tests.support.families.kinds import EVERYDAY, TEXT, WRAPPERS
from tests.support.families.outcomes import BY_ROWS, NO_HEADS, NOT_OFFERED, REFUSED, surprise
from tests.support.families.proof import prove

KINDS = (*TEXT, *WRAPPERS)


@pytest.mark.parametrize("kind", EVERYDAY)
def test_a_family_that_is_trained_much(kind):
    assert surprise(prove(kind, every=False)) is None


@pytest.mark.models
@pytest.mark.parametrize("kind", KINDS)
def test_a_family(kind):
    assert surprise(prove(kind, every=True)) is None


def test_the_families_of_the_tables_are_those_of_transformers():
    named = {
        *EVERYDAY,
        *REFUSED,
        *BY_ROWS,
        *NO_HEADS,
        *(k for e in NOT_OFFERED.values() for k in e),
    }
    assert named <= {*KINDS}
    assert not {*REFUSED} & {*BY_ROWS, *NO_HEADS, *EVERYDAY}
    assert len(TEXT) - len({*REFUSED} & {*TEXT}) >= 121
    assert len(WRAPPERS) - len({*REFUSED} & {*WRAPPERS}) >= 18


def test_a_model_is_the_same_each_time_and_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    first, second = (build("gpt_oss").state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(tensor.std() > 0 for tensor in first.values())


def test_what_would_be_float32_is_float64_inside_only():
    with Float64():
        assert torch.ones(2, dtype=torch.float32).dtype == torch.float64
        assert torch.ones(2).to(torch.float32).float().softmax(0).dtype == torch.float64
    assert torch.ones(2).dtype == torch.float32
