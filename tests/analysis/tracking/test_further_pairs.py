"""The base is measured on further pairs too, for the tests of changes and for nothing else."""

from __future__ import annotations

import json

import pytest
import torch

from analysis.heads.changes import compare
from analysis.heads.resampling import WIDE, Wide, resample_heads, resample_wide
from analysis.prompts.pairs import Pair, Pairs
from analysis.records.record_files import read_record, write_record
from analysis.tracking.further import FILE, beside, freeze_further, pairs_of_file, shortage
from analysis.tracking.tracker import HeadTracker, freeze_pairs
from analysis.trajectories.trajectory import trajectory
from tests.support.models import random_pairs, tiny_model
from tests.support.planted import GRAPH, SELECTION, World, make_record
from tests.support.tracked import SETTINGS, tracked
from train.build import build_pairs
from train.recipes.tiny import build_tokenizer

WORLD = World(3, changed=5)


def test_further_pairs_share_no_prompt_with_those_of_the_run():
    prompts = [(1, 2), (2, 3), (3, 4), (1, 2), (5, 6), (7, 8), (5, 6), (3, 4)]
    pairs = Pairs([Pair(clean, (9, 9 + i)) for i, clean in enumerate(prompts)], "made up")
    split = pairs.split(2)
    assert (len(split), split.about, split.hash) == (2, "made up", Pairs(pairs[:2]).hash)
    assert split.further is not None
    assert [pair.clean_ids for pair in split.further] == [(3, 4), (5, 6), (7, 8)]
    assert pairs.split(6).further is None  # the others are copies


def test_they_are_saved_once_and_read_again(tmp_path):
    further = Pairs([Pair((1,), (2,))])
    assert freeze_further(tmp_path, None, None) is None
    assert freeze_further(tmp_path, further, None) is further
    other = freeze_further(tmp_path, Pairs([Pair((3,), (4,))]), None)
    assert other is not None and other.hash == further.hash
    assert (tmp_path / FILE).is_file()


def test_those_of_a_file_lie_beside_it(tmp_path):
    pairs = Pairs([Pair((n,), (n + 10,)) for n in range(2)])
    more = Pairs([Pair((n,), (n + 10,)) for n in range(1, 8)])  # the first is one of the pairs
    file = tmp_path / "mine.jsonl"
    pairs.save(file)
    assert pairs_of_file(file, times=4).further is None
    assert shortage(pairs, 1) is None
    assert shortage(pairs, 4) == "only 0 further pairs for the base, of 6 (tracking.base_pairs)"
    more.save(beside(file))
    found = pairs_of_file(file, times=4)
    assert beside(file).name == "base_mine.jsonl" and found.hash == pairs.hash
    assert found.further is not None
    assert [pair.clean_ids for pair in found.further] == [(n,) for n in range(2, 8)]
    assert shortage(found, 4) is None
    Pairs([*more[:2]] * 9).save(beside(file))  # which count once
    few = pairs_of_file(file, times=4)
    assert few.further is not None and list(few.further) == [more[1]]
    assert "only 1 further pairs for the base, of 6" in shortage(few, 4)
    assert pairs_of_file(file, times=1).further is None
    (tmp_path / "run").mkdir()
    freeze_pairs(tmp_path / "run", found)
    about = json.loads((tmp_path / "run" / "pairs.json").read_text())
    assert about["further"] == found.further.hash


def test_rows_are_of_the_same_draws_of_the_pairs_and_of_other_ones_of_the_further():
    scores = WORLD.scores(8)[0]
    alone = resample_heads(GRAPH, scores, SELECTION, 20, 0)
    silent = resample_wide(GRAPH, scores, torch.zeros(24, GRAPH.n_edges), SELECTION, 20, 0)
    assert silent.further == 24
    assert torch.allclose(silent.strength, alone.strength / 4)  # 8 of 32 pairs
    more = WORLD.further(24)
    wide = resample_wide(GRAPH, scores, more, SELECTION, 20, 0)
    whole = resample_heads(GRAPH, torch.cat([scores, more]), SELECTION, 1, 0)
    assert torch.allclose(wide.strength[0], whole.strength[0])
    assert torch.allclose(wide.threshold[0], whole.threshold[0])
    assert wide.strength[1:].std(0).mean() < alone.strength[1:].std(0).mean()


def test_they_decide_what_is_called_and_leave_the_raw_sets_alone(tmp_path):
    before, after = WORLD.scores(32)
    plain, now = make_record(0, before, 100), make_record(10, after, 100)
    wide = resample_wide(GRAPH, before, WORLD.further(96), SELECTION, 100, 0)
    base = make_record(0, before, 100, wide=wide)
    one, two = compare(plain.heads, now.heads), compare(base.heads, now.heads)
    for name, mask in one.masks.items():
        assert torch.equal(mask, two.masks[name])
    assert one.jaccard.value == two.jaccard.value and one.null == two.null
    changed = two.masks["emergent"] | two.masks["pruned"]
    assert (two.p_value[~changed] == 1).all()
    assert (two.p_value != one.p_value).any()
    # a head that has changed by the pairs of the run only has not changed
    assert compare(make_record(0, before, 100, wide=_of(now)).heads, now.heads).found.sum() == 0
    for record in (base, now):
        write_record(tmp_path, record, before)
    read = read_record(tmp_path, 0)
    assert read.wide.further == 96 and torch.equal(read.wide.sweep, wide.sweep)
    assert read_record(tmp_path, 10).wide is None
    point = trajectory([read, read_record(tmp_path, 10)])[1]
    assert torch.equal(point.change.p_value, two.p_value)
    same = next(s for s in point.sensitivity if s.by == "top_n" and s.value == SELECTION.top_n)
    assert same.called["emergent"] == int(point.change.called["emergent"].sum())


def _of(record):
    """What further pairs say if they find a base that is like a later checkpoint."""
    return Wide(1, *(getattr(record.resampled, name) for name in WIDE))


def test_the_tracker_scores_them_at_the_base_only(tmp_path, tiny_dir):
    model, pairs = tracked(tmp_path / "plain", tiny_dir)
    further = Pairs([Pair(pair.corrupted_ids, pair.clean_ids) for pair in pairs])
    run = tmp_path / "wide"
    tracker = HeadTracker(run, Pairs(list(pairs), further=further), SETTINGS)
    tracker.track(model, 0, show_progress=False)
    again = HeadTracker(run, pairs, SETTINGS)  # finds them in the run's directory
    again.track(model, 5, show_progress=False)
    base, plain = read_record(run, 0), read_record(tmp_path / "plain", 0)
    assert base.wide.further == len(further) and read_record(run, 5).wide is None
    assert torch.equal(base.resampled.strength, plain.resampled.strength)
    assert Pairs.load(run / FILE).hash == further.hash
    again.track(model, 0, show_progress=False)
    assert torch.equal(read_record(run, 0).wide.strength, base.wide.strength)


def test_a_base_without_the_behaviour_has_no_heads_that_they_could_tell_of(tmp_path, monkeypatch):
    model, pairs = tiny_model("llama"), random_pairs(6)
    tracker = HeadTracker(tmp_path, Pairs(list(pairs), further=random_pairs(4, seed=1)), SETTINGS)
    scored = []
    scores_of = HeadTracker._scores_of

    def counted(self, shared, *rest):
        scored.append(len(shared.pairs))
        return scores_of(self, shared, *rest)

    monkeypatch.setattr(HeadTracker, "_scores_of", counted)
    record = tracker.track(model, 0, show_progress=False)
    assert record.lacks_behaviour and record.wide is None
    assert scored == [6]


@pytest.mark.parametrize(
    "more",
    [[], ["pairs=answer_style"], ["FILE"], ["pairs=answer_style", "FILE"]],
    ids=["generator", "answers", "few", "file"],
)
def test_a_run_has_the_same_pairs_with_further_ones(compose, tmp_path, more):
    """Those of the run are the first of its source, however many are made for the base."""
    lines = [json.dumps({"problem": f"{n} + 1", "answer": str(n + 1)}) for n in range(300)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    given = [m if m != "FILE" else f"data.source=file:{tmp_path / 'rows.jsonl'}" for m in more]
    words = [f"run_dir={tmp_path}", "data=arithmetic", "pairs.size=6", *given]
    tokenizer = build_tokenizer()
    alone = build_pairs(compose("sft", *words, "tracking.base_pairs=1"), tokenizer)
    pairs = build_pairs(compose("sft", *words), tokenizer)
    assert (pairs.hash, alone.further) == (alone.hash, None)
    assert pairs.further is not None and 0 < len(pairs.further) <= 18
    whole = Pairs([*pairs, *pairs.further])
    assert set(whole.groups[: len(pairs)]).isdisjoint(whole.groups[len(pairs) :])
