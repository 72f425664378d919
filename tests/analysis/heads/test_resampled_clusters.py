"""Clusters of pairs that share a prompt are resampled whole: in draws, records and p-values."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis.heads.changes import evidence_of
from analysis.heads.resampling import Selection, resample_heads, resample_weights
from analysis.intervals import difference_p_values
from analysis.records.record import check_comparable
from analysis.records.record_files import read_record, write_record
from tests.support.comparisons import EARLY, GRAPH, LATE, make_record, plant


def test_distinct_pairs_are_drawn_one_by_one() -> None:
    """To the last bit as torch draws them."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(7, (50, 7), generator=generator)
    counts = torch.stack([row.bincount(minlength=7) for row in drawn]).float()
    assert torch.equal(resample_weights(range(7), 50, 3), torch.cat([torch.ones(1, 7), counts]) / 7)


def test_pairs_of_a_cluster_are_drawn_together() -> None:
    groups = [0, 1, 0, 2, 2, 2]
    weights = resample_weights(groups, 200, 0)
    assert torch.equal(weights[0], torch.full((6,), 1 / 6))
    torch.testing.assert_close(weights.sum(1), torch.ones(201))
    assert torch.equal(weights[:, 0], weights[:, 2])
    assert torch.equal(weights[:, 3:5], weights[:, 4:])
    of_clusters = resample_weights(range(3), 200, 0)[:, groups]
    torch.testing.assert_close(weights, of_clusters / of_clusters.sum(1, keepdim=True))


def repeated(edges: tuple[str, ...], times: int) -> tuple[torch.Tensor, list[int]]:
    """Scores of six pairs, each some times over, and their clusters."""
    return plant(edges, 6, noise=0.3).repeat(times, 1), list(range(6)) * times


def heads_of(edges: tuple[str, ...], times: int):
    torch.manual_seed(0)
    scores, groups = repeated(edges, times)
    record = make_record(0, scores, 12)
    resampled = resample_heads(GRAPH, scores, Selection(12), 60, 0, groups=groups)
    return replace(record, groups=groups if times > 1 else None, resampled=resampled).heads


def test_repeating_pairs_gives_no_smaller_p_value() -> None:
    once, often = ([heads_of(edges, times) for edges in (EARLY, LATE)] for times in (1, 5))
    p = [evidence_of(*heads).p_value for heads in (once, often)]
    assert p[0].min() < 1
    torch.testing.assert_close(*p, rtol=1e-3, atol=1e-9)
    assert (once[0].clusters, often[0].clusters) == (6, 6)


def test_a_record_keeps_its_clusters_where_pairs_share_prompts(tmp_path: Path) -> None:
    scores, groups = repeated(EARLY, 2)
    record = replace(make_record(0, scores, 12), groups=groups, n_distinct=6)
    path = write_record(tmp_path, record, scores)
    back = read_record(tmp_path, 0)
    assert back is not None
    assert (back.groups, back.distinct, back.heads.clusters) == (groups, 6, 6)
    assert torch.equal(back.weights, resample_weights(groups, 60, 0))
    write_record(tmp_path, replace(record, groups=None, n_distinct=None), scores)
    assert "groups" not in json.loads(path.read_text())
    with pytest.raises(ValueError, match="one by clusters of pairs that share a prompt"):
        check_comparable(back, replace(record, groups=None))
    path = write_record(tmp_path, record, scores)
    content = json.loads(path.read_text())
    for wrong in ([0, 1], [*groups[:-1], 7], [-1, *groups[1:]]):
        path.write_text(json.dumps({**content, "groups": wrong}))
        with pytest.raises(ValueError, match="groups must give each of the pairs a cluster"):
            read_record(tmp_path, 0)


def test_the_freedom_of_students_t_is_of_clusters() -> None:
    torch.manual_seed(0)
    after = torch.randn(41, 3)
    few, many = (difference_p_values(torch.zeros_like(after), after, n) for n in (3, 60))
    assert (few > many).all()
