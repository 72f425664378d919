"""Roles of heads: against eager models, hand-made patterns, scipy, and maps on the vocabulary."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from analysis import Pair, Pairs
from analysis.commands.roles import Options, act
from analysis.heads.attention import (
    PATTERN_SCORES,
    copying,
    eager,
    excess_kurtosis,
    pattern_scores,
    score_patterns,
    score_weights,
    see_patterns,
)
from analysis.heads.resampling import resample_weights
from analysis.heads.roles import (
    Score,
    head_roles,
    read_roles,
    roles_path,
    summarise,
    write_roles,
)
from analysis.intervals import LEVELS
from analysis.models.anatomy import anatomy
from analysis.prompts.pairs import encode
from analysis.prompts.regions import Region, find_regions
from analysis.records.record import read_record
from analysis.records.run_file import RunFile
from analysis.reporting.report import write_report
from analysis.reporting.roles import TITLES, role_cell, role_cells
from analysis.reporting.tables import HEAD_TITLES, head_cells
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.tracker import HeadTracker
from analysis.trajectories.run import Run
from tests.support.models import random_pairs, tiny_model
from tests.support.places import ROOT
from tests.support.warm import warm_python
from train.recipes.tiny import build_random, build_tokenizer

SETTINGS = TrackingSettings(fraction=0.1, resamples=50, ig_steps=2)


def patterns_of(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """By transformers' own output of a model that was built eager."""
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"
    twin = type(model)(config).to(next(model.parameters()).dtype).eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        return list(twin(input_ids=ids, output_attentions=True, use_cache=False).attentions)


def defined_scores(pattern: np.ndarray, pair: Pair, region: Region) -> list[float]:
    """The sums of one head, token by token, as the docstring of attention.py says them."""
    ids, length = pair.clean_ids, len(pair.clean_ids)
    previous = [pattern[t, t - 1] for t in range(1, length)]
    earlier = {t: [j for j in range(t - 1) if ids[j] == ids[t]] for t in range(length)}
    induction = [sum(pattern[t, j + 1] for j in js) for t, js in earlier.items() if js]
    found = [previous, induction]
    for region_tokens in (region.operands, region.answer, region.think):
        reads = [position % length for position in pair.positions]
        below = {read: [k for k in region_tokens if k <= read] for read in reads}
        found.append([sum(pattern[read, k] for k in ks) for read, ks in below.items() if ks])
    return [float(np.mean(values)) if values else math.nan for values in found]


def published_kurtosis(pattern: np.ndarray, chunks: tuple[int, ...]) -> float:
    """With the sentence averages and NaNs of the code of Thought Anchors."""
    n = max(chunks) + 1
    tokens = [[t for t, chunk in enumerate(chunks) if chunk == j] for j in range(n)]
    average = np.array([[pattern[np.ix_(a, b)].mean() for b in tokens] for a in tokens])
    vertical = [average[j + 4 :, j].mean() if j + 4 < n else math.nan for j in range(n)]
    return float(stats.kurtosis(vertical, fisher=True, bias=True, nan_policy="omit"))


def some_pairs() -> tuple[Pairs, list[Region]]:
    """Two prompts of unequal length with repeated tokens, and regions in them."""
    generator = torch.Generator().manual_seed(3)
    clean = [tuple(torch.randint(3, 9, (n,), generator=generator).tolist()) for n in (25, 19)]
    pairs = Pairs([Pair(clean[0], clean[0][::-1]), Pair(clean[1], clean[1], positions=(3, -1))])
    sentences = tuple(t // 2 for t in range(25))
    return pairs, [
        Region((2, 3, 9), (20, 21, 24), (5,), sentences),
        Region((5, 6), (), (1, 2), tuple(range(-1, 18))),
    ]


def test_patterns_are_those_of_an_eager_model(architecture: str) -> None:
    model = tiny_model(architecture)
    ids = torch.randint(3, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    seen: dict[int, torch.Tensor] = {}
    see_patterns(anatomy(model), ids, seen.__setitem__)
    expected = patterns_of(model, ids)
    assert list(seen) == list(range(len(expected)))
    for layer, pattern in enumerate(expected):
        torch.testing.assert_close(seen[layer], pattern, atol=1e-6, rtol=0)


def test_the_implementation_of_attention_comes_back(architecture: str) -> None:
    model = tiny_model(architecture)
    ids = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    before = model.config._attn_implementation
    with torch.no_grad():
        logits = model(input_ids=ids).logits

    def fail(layer: int, pattern: torch.Tensor) -> None:
        raise KeyError(layer)

    with pytest.raises(KeyError):
        see_patterns(anatomy(model), ids, fail)
    with eager(model):
        assert model.config._attn_implementation == "eager"
    assert model.config._attn_implementation == before
    assert not any(module._forward_hooks for module in model.modules())
    with torch.no_grad():
        assert model(input_ids=ids).logits.equal(logits)


def test_scores_are_those_of_the_definitions(architecture: str) -> None:
    model = tiny_model(architecture)
    pairs, regions = some_pairs()
    found = pattern_scores(model, pairs, regions, batch_size=2)
    assert found.shape == (2, len(PATTERN_SCORES), 8)
    torch.testing.assert_close(
        pattern_scores(model, pairs, regions, batch_size=1), found, equal_nan=True
    )
    for row, (pair, region) in enumerate(zip(pairs, regions, strict=True)):
        patterns = torch.cat(patterns_of(model, torch.tensor([pair.clean_ids])), 1)[0].numpy()
        for head, pattern in enumerate(patterns.astype(float)):
            wanted = defined_scores(pattern, pair, region)
            np.testing.assert_allclose(found[row, :5, head], wanted, atol=2e-6)
            kurtosis = published_kurtosis(pattern, region.chunks)
            if np.isfinite(kurtosis):
                np.testing.assert_allclose(found[row, 5, head], kurtosis, rtol=1e-3)
            else:  # a window so short that no attention reaches four chunks back
                assert found[row, 5, head].isnan()


def hand_made(kind: str, ids: tuple[int, ...]) -> torch.Tensor:
    """[1, 1, T, T]"""
    length = len(ids)
    A = torch.zeros(length, length, dtype=torch.float64)
    for t in range(length):
        after = [j + 1 for j in range(t - 1) if ids[j] == ids[t]]
        A[t, {"previous": max(t - 1, 0), "induction": after[-1] if after else 0}[kind]] = 1
    return A[None, None]


def test_a_planted_head_scores_one_in_its_role_alone() -> None:
    repeated = tuple(range(3, 13))
    pair = Pair(repeated * 2, repeated * 2)
    W = score_weights(pair, Region((), (), (), tuple(range(-1, 19))))[None]
    on = torch.tensor([[19, *range(19)]]), torch.tensor([15])
    previous, induction = (
        score_patterns(hand_made(kind, pair.clean_ids), W, *on)[0, :, 0]
        for kind in ("previous", "induction")
    )
    assert previous[:2].tolist() == pytest.approx([1, 0])
    assert induction[:2].tolist() == pytest.approx([1 / 19, 1])  # t = 1 looks at the first token
    assert previous[2:].isnan().all()  # no regions, and nothing is seen four tokens on
    single = score_weights(Pair((3, 4, 5), (3, 4, 5)), Region((), (), (), (-1, 0, 1)))
    assert not single[1].any()
    assert not single[5].any()


def test_a_head_that_reads_the_operands() -> None:
    pair = Pair(tuple(range(3, 13)), tuple(range(3, 13)), positions=(4, -1))
    region = Region((2, 3), (8, 9), (), tuple(range(-1, 9)))
    A = torch.zeros(1, 1, 10, 10, dtype=torch.float64)
    A[0, 0, 4, 2], A[0, 0, 4, 0] = 0.5, 0.5
    A[0, 0, 9, 2], A[0, 0, 9, 3], A[0, 0, 9, 9] = 0.25, 0.5, 0.25
    chunks = torch.tensor([[9, *range(9)]])
    scores = score_patterns(A, score_weights(pair, region)[None], chunks, torch.tensor([5]))
    operands, answer, think, receiver = scores[0, 2:, 0].tolist()
    assert operands == pytest.approx((0.5 + 0.75) / 2)
    assert answer == pytest.approx(0.25)  # position 4 comes before the answer
    assert math.isnan(think)
    assert math.isnan(receiver)  # too few chunks


def test_kurtosis_is_scipys() -> None:
    x = torch.randn(4, 3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inside = torch.arange(12) < 9
    wanted = stats.kurtosis(x[..., :9].numpy(), axis=-1)
    np.testing.assert_allclose(excess_kurtosis(x, inside).numpy(), wanted)
    assert excess_kurtosis(torch.ones(12), inside).isnan()


def test_copying_is_that_of_the_map_on_the_vocabulary(architecture: str) -> None:
    """Eigenvalues of the whole [V, V] map, with each gain put on by hand."""
    model = tiny_model(architecture)
    parts, found = anatomy(model), copying(model)
    V, groups = 50, parts.graph.n_heads // parts.graph.n_kv_heads
    with torch.no_grad():
        E = parts.embedding(torch.arange(V))
        U = model.lm_head.weight
    centre = architecture == "gpt2"

    def flat(x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(-1, keepdim=True) if centre else x

    for index, score in enumerate(found.tolist()):
        block = parts.blocks[index // 4]
        head = index % 4
        read = flat(E) * block.attention_norm.gain
        written = torch.stack(
            [v @ block.sides[2].weight[head // groups].T @ block.W_O[head] for v in read]
        )
        logits = (flat(written) * parts.final_norm.gain) @ U.T
        e = np.linalg.eigvals(logits.detach().numpy())
        assert score == pytest.approx(e.sum().real / np.abs(e).sum(), abs=1e-6)


def test_a_head_that_copies_and_one_that_suppresses() -> None:
    model = tiny_model("llama")
    parts = anatomy(model)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
        for norm in (parts.final_norm, *(block.attention_norm for block in parts.blocks)):
            norm.module.weight.fill_(1)
        attention = model.model.layers[1].self_attn
        W_V = attention.v_proj.weight[:8]  # shared by heads 0 and 1
        attention.o_proj.weight[:, :8] = W_V.T
        attention.o_proj.weight[:, 8:16] = -W_V.T
    assert copying(model)[4:6].tolist() == pytest.approx([1, -1])


def chat_pairs(tokenizer: Any, *texts: str) -> Pairs:
    ids = [encode(tokenizer, text) for text in texts]
    return Pairs([Pair(one, one) for one in ids])


def words(tokenizer: Any, pairs: Pairs, row: int, tokens: tuple[int, ...]) -> str:
    return "".join(tokenizer.decode([pairs[row].clean_ids[t]]) for t in tokens)


def test_regions_of_chat_prompts() -> None:
    tokenizer = build_tokenizer()
    start = "<|im_start|>system\nUse 1 line.<|im_end|>\n<|im_start|>user\n"
    asked = "<|im_end|>\n<|im_start|>assistant\n"
    pairs = chat_pairs(
        tokenizer,
        f"{start}What is 12 + 34?{asked}<think>12é",
        f"{start}Say 7 twice.{asked}<think>\n\n</think>\n\n",
        f"{start}No chat: 5 + 6 =",
        f"{start}Hello{asked}",
    )
    found = find_regions(pairs, tokenizer)
    said = [
        [
            words(tokenizer, pairs, row, tokens)
            for tokens in (region.operands, region.answer, region.think)
        ]
        for row, region in enumerate(found.each)
    ]
    assert said[0][:1] + said[0][2:] == ["1234", "<think>"]
    assert said[0][1].startswith("<think>12")
    assert len(found.each[0].answer) == 5  # é is two tokens here
    assert said[1] == ["7", "<think>\n\n</think>\n\n", "<think></think>"]
    assert said[2] == ["56", "", ""]
    assert said[3] == ["", "", ""]
    assert found.unit == "tokens"
    assert found.each[3].chunks == tuple(range(-1, len(pairs[3].clean_ids) - 1))


def test_regions_without_a_tokenizer_or_a_template() -> None:
    tokenizer = build_tokenizer()
    pairs = chat_pairs(tokenizer, "12 + 34 =", "5 + 67 =")
    bare = find_regions(pairs)
    assert bare.each[0] == Region((), (), (), tuple(range(-1, 8)))
    tokenizer.chat_template = None
    found = find_regions(pairs, tokenizer)
    assert [words(tokenizer, pairs, row, r.operands) for row, r in enumerate(found.each)] == [
        "1234",
        "567",
    ]
    assert found.each[0].answer == ()


def test_sentences_are_the_unit_where_there_are_enough() -> None:
    tokenizer = build_tokenizer()
    text = "So 3.5 is it. Is it?\n\nYes! " + "Go on. " * 9
    pairs = chat_pairs(tokenizer, text, text + "End")
    found = find_regions(pairs, tokenizer)
    assert found.unit == "sentences"
    chunks = found.each[1].chunks
    parts = [
        words(tokenizer, pairs, 1, tuple(t for t, c in enumerate(chunks) if c == j))
        for j in range(chunks[-1] + 1)
    ]
    assert parts[:4] == ["So 3.5 is it.", " Is it?\n\n", "Yes!", " Go on."]
    assert parts[-1] == " End"
    assert len(parts) == 13
    short = chat_pairs(tokenizer, text, "One. Two.")
    assert find_regions(short, tokenizer).unit == "tokens"


def test_intervals_are_a_bootstrap_over_the_pairs_that_define_a_score() -> None:
    generator = torch.Generator().manual_seed(0)
    per_pair = torch.rand(6, len(PATTERN_SCORES), 2, generator=generator, dtype=torch.float64)
    per_pair[0, 2], per_pair[:, 3] = torch.nan, torch.nan
    names = ["L0H0", "L0H1"]
    roles = summarise(per_pair, torch.tensor([0.5, -1.0]), names, "tokens", 200, seed=4)
    counts = resample_weights(6, 200, 4)[1:].double().numpy() * 6
    values = per_pair[1:, 2, 1].numpy()
    means = (counts[:, 1:] * values).sum(1) / counts[:, 1:].sum(1)
    operands = roles.scores["operands"]
    assert operands.pairs == 5
    assert operands.value[1] == pytest.approx(values.mean())
    assert [operands.low[1], operands.high[1]] == pytest.approx(np.quantile(means, LEVELS))
    assert roles.scores["answer"].pairs == 0
    assert role_cells(roles, 1)[list(TITLES).index("answer")] == "-"
    assert role_cells(roles, 1)[list(TITLES).index("copying")] == "-1.00"


def test_cells_read_well() -> None:
    score = Score([0.414, -1.2, math.nan], [0.38, -1.31, math.nan], [0.45, -0.9, math.nan], 3)
    cells = [role_cell(score, head) for head in range(3)]
    assert cells == ["0.41 [0.38, 0.45]", "-1.20 [-1.31, -0.90]", "-"]


def test_roles_survive_their_file(tmp_path: Path) -> None:
    roles = head_roles(tiny_model("qwen2"), random_pairs(4, (20, 16)), resamples=20)
    write_roles(tmp_path, 40, "abc", roles)
    content = json.loads((tmp_path / "roles" / "step-000040.json").read_text())
    assert content["scores"]["think"]["value"] == [None] * 8
    back = read_roles(tmp_path, 40)
    assert back is not None
    for head in range(8):
        assert role_cells(back, head) == role_cells(roles, head)
    assert (back.heads, back.unit) == (roles.heads, "tokens")
    assert read_roles(tmp_path, 41) is None
    roles_path(tmp_path, 40).write_text(json.dumps({**content, "schema": 0}))
    with pytest.raises(ValueError, match="has schema 0"):
        read_roles(tmp_path, 40)


def test_roles_of_a_peft_model_are_those_of_its_merged_copy() -> None:
    from peft import LoraConfig, get_peft_model

    base = tiny_model("llama")
    config = LoraConfig(
        r=2,
        target_modules=["q_proj", "v_proj", "o_proj"],
        init_lora_weights=False,
        modules_to_save=["embed_tokens", "lm_head"],
        lora_dropout=0.5,
    )
    model = get_peft_model(base, config).double().train()
    pairs = random_pairs(4, (20, 16))
    found = head_roles(model, pairs, resamples=20)
    assert model.training
    merged = copy.deepcopy(model).eval().merge_and_unload()
    wanted = head_roles(merged, pairs, resamples=20)
    for name in TITLES:
        assert found.scores[name].value == pytest.approx(
            wanted.scores[name].value, abs=1e-5, nan_ok=True
        )


def tracked(run: Path, tiny_dir: Path) -> tuple[Any, Pairs]:
    """A run of one record, of the tiny model on arithmetic prompts of its chat template."""
    from transformers import AutoModelForCausalLM

    tokenizer = build_tokenizer()

    def ids(a: int, b: int) -> tuple[int, ...]:
        asked = [{"role": "user", "content": f"{a} + {b}"}]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        return encode(tokenizer, text + "<answer>")

    pairs = Pairs([Pair(ids(a, 9 - a), ids(9 - a, a + 1)) for a in range(1, 7)])
    model = AutoModelForCausalLM.from_pretrained(tiny_dir)
    RunFile("r", "track").write(run)
    HeadTracker(run, pairs, SETTINGS, tokenizer).track(model, 0, show_progress=False)
    return model, pairs


def test_a_tracked_run_has_roles_in_its_table_and_report(tmp_path: Path, tiny_dir: Path) -> None:
    run = tmp_path / "run"
    model, pairs = tracked(run, tiny_dir)
    wanted = head_roles(model, pairs, build_tokenizer(), resamples=50)
    loaded = Run.read(run)
    cells = {line[0]: line for line in head_cells(loaded)}
    record = read_record(run, 0)
    assert record is not None
    inside = record.in_circuit.nonzero().flatten().tolist()
    assert len(inside) == len(cells)
    for head in inside:
        line = cells[wanted.heads[head]]
        assert line[-len(TITLES) :] == role_cells(wanted, head)
        assert len(line) == len(HEAD_TITLES)
    assert all("[" in line[HEAD_TITLES.index("to answer")] for line in cells.values())
    assert all(line[HEAD_TITLES.index("to think tag")] == "-" for line in cells.values())
    page = write_report([Run.read(run)], tmp_path / "report.html").read_text()
    assert "2506.19143" in page
    assert "to think tag 0, receiver kurtosis 6; receiver kurtosis over tokens" in page


def test_the_command_measures_what_is_missing(
    tmp_path: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    tracked(run, tiny_dir)
    written = roles_path(run, 0).read_text()
    act(Options(str(run)))
    first = capsys.readouterr().out
    assert "to operands" in first
    for base in (None, {"path": str(tiny_dir), "dtype": "float32"}):
        roles_path(run, 0).unlink()
        if base:
            (run / "base.json").write_text(json.dumps(base))
        act(Options(str(run)))
        assert capsys.readouterr().out == first
        assert roles_path(run, 0).read_text() == written
    build_random(tiny_dir, seed=1)
    with pytest.raises(ValueError, match="other weights than step 0"):
        act(Options(str(run), redo=True))
    (run / "base.json").unlink()
    shutil.rmtree(tiny_dir)
    with pytest.raises(ValueError, match="no checkpoint of step 0"):
        act(Options(str(run), redo=True))
    with pytest.raises(ValueError, match="no valid record of step 7; it has: 0"):
        act(Options(str(run), step="7"))
    with pytest.raises(ValueError, match="there is no run"):
        act(Options(str(tmp_path / "nowhere")))


def test_a_training_run_leaves_roles_that_its_checkpoints_give_again(
    finished_run: Any, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run("sft", "evaluation=none"), tmp_path / "run"))
    live = [read_roles(run, step) for step in (0, 2, 4)]
    for step, roles in zip((0, 2, 4), live, strict=True):
        assert roles is not None
        assert roles.scores["operands"].pairs > 0  # the tokenizer has come through
        act(Options(str(run), step=str(step), redo=True))
        again = read_roles(run, step)
        assert again is not None
        for name in TITLES:
            for end in ("value", "low", "high"):
                assert getattr(again.scores[name], end) == pytest.approx(
                    getattr(roles.scores[name], end), rel=1e-3, abs=1e-4, nan_ok=True
                )
    assert live[0] != live[2]


def test_a_kill_between_roles_and_record_leaves_the_step_to_do(tmp_path, monkeypatch) -> None:
    tracker = HeadTracker(tmp_path, random_pairs(4), SETTINGS)
    model = tiny_model("qwen2")

    def kill(*args: Any) -> None:
        raise KeyboardInterrupt

    for place in ("write_roles", "write_record"):
        with monkeypatch.context() as patch:
            patch.setattr(f"analysis.tracking.tracker.{place}", kill)
            with pytest.raises(KeyboardInterrupt):
                tracker.track(model, 0, show_progress=False)
        assert not tracker.is_tracked(0)
    tracker.track(model, 0, show_progress=False)
    assert tracker.is_tracked(0)
    assert read_roles(tmp_path, 0) is not None


def test_roles_that_fail_do_not_cost_the_record(tmp_path, monkeypatch) -> None:
    def fail(*args: Any) -> None:
        raise ValueError("no roles today")

    tracker = HeadTracker(tmp_path, random_pairs(4), SETTINGS)
    monkeypatch.setattr("analysis.tracking.tracker.find_regions", fail)
    with pytest.raises(ValueError, match="no roles today"):
        tracker.track(tiny_model("qwen2"), 0, show_progress=False)
    assert tracker.is_tracked(0)
    assert read_roles(tmp_path, 0) is None


TWO_RANKS = """
import sys
from pathlib import Path
import torch.distributed as dist
from tests.support.models import random_pairs, tiny_model
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.tracker import HeadTracker
dist.init_process_group("gloo")
settings = TrackingSettings(fraction=0.1, resamples=50, ig_steps=2)
pairs = random_pairs(5, (20, 16, 18))
tracker = HeadTracker(Path({run!r}), pairs, settings)
"""
TRACK = """
tracker.track(tiny_model("qwen2"), 3, show_progress=False)
"""
FAIL_ON_ONE = """
import analysis.tracking.tracker

def fail(*args):
    raise ValueError("no roles today")

if dist.get_rank() == 1:
    analysis.tracking.tracker.find_regions = fail
try:
    tracker.track(tiny_model("qwen2"), 3, show_progress=False)
except (ValueError, RuntimeError) as error:
    print(f"rank {dist.get_rank()}: {error}", flush=True)
"""


def two_ranks(run: Path, code: str) -> str:
    """What two ranks print that run TWO_RANKS and this code."""
    script = run.parent / "two.py"
    script.write_text(TWO_RANKS.format(run=str(run)) + code)
    words = ["-m", "launch.torchrun", "--standalone", "--nproc-per-node=2", str(script)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [warm_python(), *words], env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.distributed
def test_roles_that_fail_on_one_rank_do_not_cost_the_record(tmp_path: Path) -> None:
    said = two_ranks(tmp_path / "two", FAIL_ON_ONE)
    assert "rank 0: another rank failed" in said
    assert "rank 1: no roles today" in said
    assert read_record(tmp_path / "two", 3) is not None


@pytest.mark.distributed
def test_two_ranks_find_the_roles_of_one(tmp_path: Path) -> None:
    two_ranks(tmp_path / "two", TRACK)
    tracker = HeadTracker(tmp_path / "one", random_pairs(5, (20, 16, 18)), SETTINGS)
    tracker.track(tiny_model("qwen2"), 3, show_progress=False)
    one, two = (roles_path(tmp_path / name, 3).read_text() for name in ("one", "two"))
    assert one == two
