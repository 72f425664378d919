"""Whether heads are needed: on a model whose two heads must be used, beside ten that need not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.commands.needed import Options, act
from analysis.detection.detect import anatomy
from analysis.interventions.needed import effect_of, fair_controls, match_of, mean_z
from analysis.interventions.operations import Intervention, constants
from analysis.models.graph import Graph
from analysis.prompts.pairs import Pair, Pairs
from analysis.records.needed import needed_path, read_needed
from tests.support.known_circuit import HEADS, PROBLEMS, build_copier
from train.recipes.tiny import build_tokenizer


def pairs(count: int = 12) -> Pairs:
    """Repeat the digit of the question; the corrupted prompt has another letter and digit."""
    tokenizer = build_tokenizer()

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False).input_ids)

    def one(question: str, answer: str) -> Pair:
        other = str((int(answer) + 3) % 10)
        known = (tokenizer.convert_tokens_to_ids(digit) for digit in (answer, other))
        return Pair(ids(f"{question}="), ids(f"{chr(ord(question[0]) + 4)}{other}="), *known)

    return Pairs([one(p.question, p.answer) for p in PROBLEMS[:count]])


@pytest.fixture(scope="module")
def copier() -> Any:
    return build_copier()


@pytest.mark.parametrize("metric", ["kl", "logit_diff", "nll"])
def test_what_must_be_used_is_needed_and_random_heads_are_not(copier: Any, metric: str) -> None:
    graph = anatomy(copier).graph
    heads = [graph.parse_head(name) for name in (*HEADS, "L1H0")]
    some, random = fair_controls(heads, graph, 8)
    assert some == heads and len(random) == 8
    found = effect_of(copier, pairs(6), heads, random, metric, batch_size=5)
    assert found.change.low is not None and found.change.low > 1
    assert max(map(abs, found.random)) < 0.01 * found.change.low
    assert found.p_value == pytest.approx(1 / 9)
    assert found.excess is not None and found.excess.low is not None and found.excess.low > 1
    assert found.right is not None and found.right.whole == min(found.right.random) == 1
    assert found.right.out < 0.3
    spare = effect_of(copier, pairs(6), random[0], random[1:], metric)
    assert spare.p_value is not None and spare.p_value > 0.05
    assert spare.excess is not None and abs(spare.excess.estimate.value) < 0.5


def test_the_means_are_those_of_the_operation_whatever_the_batch(copier: Any) -> None:
    parts, some = anatomy(copier), pairs(7)
    longer = Pair(some[0].clean_ids + some[1].clean_ids, some[0].clean_ids + some[2].clean_ids)
    some = Pairs([*some, longer])  # padding is no token
    every = Intervention("mean", tuple(parts.graph.heads))
    expected = constants(copier, every, [pair.clean_ids for pair in some])
    assert expected is not None
    for batch_size in (1, 3, 8):
        for (layer, _), mean in mean_z(parts, some, batch_size).items():
            torch.testing.assert_close(mean, expected.by_layer[layer][0].double(), check_dtype=0)


def test_copies_of_one_pair_give_no_interval(copier: Any) -> None:
    one = Pairs([pairs(1)[0]] * 4)
    found = effect_of(copier, one, [(0, 1)], [[(0, 0)]])
    assert found.change.value is not None and found.change.low is None
    assert found.excess is not None and found.excess.high is None


def test_fair_controls_keep_as_many_heads_as_leave_some() -> None:
    graph = Graph(4, 8, 8)
    few = [(0, 1), (2, 3), (2, 4)]
    kept, sets = fair_controls(few, graph)
    assert kept == few and len(sets) == 20 and match_of(kept, sets).layers == 1
    many = [(layer, head) for head in range(5) for layer in range(3)]
    kept, sets = fair_controls(many, graph)
    assert kept == many[: len(kept)] and 0 < len(kept) < len(many)
    match = match_of(kept, sets)
    assert match.layers >= 0.75 and match.overlap <= 0.5
    alone = [(0, 0), (1, 0)]
    assert fair_controls(alone, Graph(2, 1, 1)) == (alone, [])  # there is no other head
    assert fair_controls(few, graph, count=0) == (few, [])
    one, other = match_of([(0, 1)], [[(0, 2)], [(1, 2)]]), match_of([(0, 1)], [[(0, 2)]] * 2)
    assert (one.layers, one.overlap) == (0.5, 0.0) and (other.layers, other.overlap) == (1.0, 1.0)


def test_the_command_measures_a_checkpoint_and_the_base(
    finished_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished_run("sft", "evaluation=none"), tmp_path / "run"))
    act(Options(str(run), heads="in_circuit", most=2))
    shown = " ".join(capsys.readouterr().out.split())
    assert "heads (in circuit) at their" in shown and "base" in shown
    found = read_needed(run)[4]
    assert len(found.heads) == 2 and found.now is not None and found.base is not None
    assert found.match is not None and f"{found.match.sets} random sets" in shown
    act(Options(str(run), step="0", heads=",".join(found.heads), controls=0))
    assert read_needed(run)[0].of == "given"
    assert read_needed(run)[0].now.change == found.base.change  # type: ignore[union-attr]
    act(Options(str(run), step="0"))
    assert "no head is called emergent" in capsys.readouterr().out
    for options, said in (
        (Options(str(run), step="3"), "no valid record of step 3; it has: 0, 2, 4"),
        (Options(str(run), heads="L9H9"), "L9H9"),
        (Options(str(run), heads="L0H0", pairs=str(tmp_path / "none")), "no pairs file"),
    ):
        with pytest.raises(ValueError, match=said):
            act(options)
    content = json.loads(needed_path(run, 4).read_text()) | {"step": 2}
    needed_path(run, 4).write_text(json.dumps(content))
    assert 4 not in read_needed(run)  # it is of another step
