"""Comparisons of records and graph files whose difference is known, and of two tiny models."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from markupsafe import escape
from transformers import AutoModelForCausalLM

from analysis.circuits.circuit import Circuit, head_mask
from analysis.circuits.faithfulness import evaluate_circuit
from analysis.circuits.graph_files import write_graph
from analysis.cli import parse
from analysis.commands.compare import act
from analysis.comparison.cross_faithfulness import random_circuit
from analysis.comparison.definitions import Subject
from analysis.comparison.edges import compare_edges, edge_memberships
from analysis.comparison.pairs import compare_subjects, profile
from analysis.comparison.subjects import Options, read_subject, read_subjects
from analysis.heads.changes import jaccard
from analysis.heads.resampling import Selection, resample_heads, select
from analysis.models.graph import Graph
from analysis.records.record import Record, read_record, read_scores, write_record
from analysis.records.run_file import RunFile
from analysis.reporting.text import has_interval
from analysis.tracking.settings import TrackingSettings
from analysis.tracking.tracker import HeadTracker
from tests.support.models import random_pairs, tiny_model
from tests.support.places import ROOT
from tests.support.warm import warm_python

GRAPH = Graph(2, 4, 2)
EDGE = {GRAPH.edge_name(index): index for index in range(GRAPH.n_edges)}
EARLY = ("input->a0.h0<q>", "a0.h0->logits", "input->m0", "m0->m1", "m1->logits")
LATE = ("input->a0.h0<q>", "a0.h0->m1", "m1->logits", "input->a1.h3<q>", "a1.h3->logits")


def make_record(step: int, per_pair: torch.Tensor, top_n: int, resamples: int = 60) -> Record:
    mean, n_pairs, selection = per_pair.mean(0), len(per_pair), Selection(top_n)
    return Record(
        step=step,
        graph=GRAPH,
        pairs_hash="h",
        settings={"metric": "kl", "resamples": resamples, "seed": 0},
        origin={"model": {"weights": "w", "adapter": None, "path": "", "dtype": "float32"}},
        selection={"top_n": top_n, "tau": None},
        completeness_gap=0.0,
        metric_clean=0.0,
        metric_corrupted=2.0,
        n_pairs=n_pairs,
        seconds=1.0,
        circuit=select(GRAPH, mean, selection),
        mean=mean,
        evaluation=torch.tensor([[0.4], [0.0], [2.0]]).repeat(1, n_pairs),
        resampled=resample_heads(GRAPH, per_pair, selection, resamples, 0),
    )


def plant(edges: tuple[str, ...], n_pairs: int = 12, noise: float = 0.01) -> torch.Tensor:
    """Scores [pairs, E] in which some edges are strong and all others weak."""
    scores = 0.001 + 0.01 * torch.rand(n_pairs, GRAPH.n_edges)
    index = [EDGE[name] for name in edges]
    scores[:, index] = 1 + noise * torch.randn(n_pairs, len(edges))
    return scores


def write_run(path: Path, name: str, scores: dict[int, torch.Tensor], top_n: int) -> Path:
    """A run with a record for each step."""
    RunFile(name, "sft", "loss").write(path)
    for step, per_pair in scores.items():
        write_record(path, make_record(step, per_pair, top_n), per_pair)
    return path


def options(tmp_path: Path, *arguments: str) -> Options:
    return parse(Options, [f"out={tmp_path / 'out'}", "cross=false", *arguments])


def subject(name: str, per_pair: torch.Tensor, top_n: int) -> Subject:
    record = make_record(7, per_pair, top_n)
    return Subject(name, name, Path(name), GRAPH, record.circuit, record.mean, record)


def names_of(found: list[dict]) -> set[str]:
    return {entry["edge"] for entry in found}


def test_planted_heads_and_edges(tmp_path, capsys):
    """Heads and edges that were put in are those found; the raw, the called, the text, the JSON."""
    torch.manual_seed(0)
    early, late = {0: plant(EARLY), 4: plant(EARLY)}, {0: plant(EARLY), 8: plant(LATE)}
    one = write_run(tmp_path / "one", "one", early, len(EARLY))
    two = write_run(tmp_path / "two", "two", late, len(LATE))
    act(options(tmp_path, f"a={one}", f"b={two}@8"))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines()[:-1])) <= 80
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    (pair,) = found["comparisons"]
    numbers = pair["heads"]["numbers"]
    assert {h["head"]: h["change"] for h in pair["heads"]["members"]} == {
        "a0.h0": "shared",
        "a1.h3": "gained",
    }
    assert numbers["gained"] == {"value": 1, "low": 1, "high": 1}
    assert numbers["jaccard"]["value"] == 0.5
    gained = next(h for h in pair["heads"]["members"] if h["head"] == "a1.h3")
    assert gained["called"] is True
    assert (gained["inclusion_a"], gained["inclusion_b"]) == (0, 1)
    assert gained["effect"]["value"] == pytest.approx(1, abs=1e-4)
    assert "heads gained: L1H3* (0.00 → 1.00)" in text
    edges = pair["edges"]
    assert names_of(edges["shared"]) == set(EARLY) & set(LATE)
    assert names_of(edges["lost"]) == set(EARLY) - set(LATE)
    assert names_of(edges["gained"]) == set(LATE) - set(EARLY)
    assert all((e["inclusion_a"], e["inclusion_b"]) == (0, 1) for e in edges["gained"])
    assert edges["numbers"]["jaccard"]["value"] == pytest.approx(2 / 8)
    assert edges["null_turnover"] == 0
    bases = pair["against_bases"]["emergent"]
    assert bases["raw"] == {"both": [], "only a": [], "only b": ["a1.h3"]}
    assert bases["called"] == bases["raw"]
    assert found["subjects"]["b"]["step"] == 8
    assert found["subjects"]["b"]["origin"]["model"]["weights"] == "w"
    layers = found["layers"]["b"]["heads"]
    assert [layer["value"] for layer in layers] == [1, 1]
    assert "empty, because cross=false" in text
    assert "Take care" not in text


def test_edges_against_an_oracle():
    """The streamed bootstrap of edges is the one made all at once."""
    torch.manual_seed(1)
    scores = [torch.rand(9, GRAPH.n_edges) ** 4 for _ in range(2)]
    a, b = (subject(name, rows, 12) for name, rows in zip("ab", scores, strict=True))
    assert a.record is not None and b.record is not None
    records = (a.record, b.record)
    inside = [torch.cat([*edge_memberships(records[i], scores[i])]) for i in (0, 1)]
    assert inside[0].shape == (61, GRAPH.n_edges)
    order = torch.argsort(GRAPH.edges[:, 1], stable=True)
    assert torch.equal(inside[0][0], a.edges[order])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(9, (60, 9), generator=generator)  # each resample, from its definition
    for row in (0, 30, 59):
        mean = scores[1][drawn[row]].mean(0)
        assert torch.equal(inside[1][1 + row], select(GRAPH, mean, Selection(12))[order])
    found = compare_edges(a, b, (scores[0], scores[1]))
    expected = jaccard(*inside)
    assert found.numbers["jaccard"].value == float(expected[0])
    assert found.numbers["gained"].value == float((inside[1][0] & ~inside[0][0]).sum())
    assert torch.allclose(found.inclusion[1][order].double(), inside[1][1:].double().mean(0))
    nulls = [1 - jaccard(rows[1:], rows[1:].roll(1, 0)).mean() for rows in inside]
    assert found.null_turnover == pytest.approx(float(sum(nulls) / 2))
    chance = (inside[0][1:] & ~inside[0][1:].roll(1, 0)).sum(1).double().mean()
    assert found.null["gained"][0] == pytest.approx(float(chance))


def test_a_record_is_equal_to_itself():
    torch.manual_seed(2)
    scores = torch.rand(10, GRAPH.n_edges) ** 4
    a, b = (subject(name, scores, 10) for name in "ab")
    found = compare_subjects(a, b, per_pair=(scores, scores))
    for difference in (found.heads, found.edges):
        assert vars(difference.numbers["jaccard"]) == {"value": 1, "low": 1, "high": 1}
        assert not difference.masks["gained"].any()
        assert not difference.masks["lost"].any()
        assert difference.numbers["gained"].high == 0
    assert found.bases is None
    assert float(found.heads.effect.abs().max()) == 0


def test_noise_is_not_called():
    """Two noisy measurements of one thing: nothing is called, no change is beyond its interval."""
    within = differ = 0
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        truth = 0.05 + torch.rand(GRAPH.n_edges, generator=generator) ** 3
        noise = torch.randn(2, 24, GRAPH.n_edges, generator=generator)
        scores = truth * (1 + 1.5 * noise)
        a, b = (subject(name, rows, 30) for name, rows in zip("ab", scores, strict=True))
        found = compare_subjects(a, b, per_pair=(scores[0], scores[1]))
        assert not any(mask.any() for mask in found.heads.called.values())
        assert found.heads.numbers["jaccard"].high == 1
        assert found.heads.numbers["gained"].low == 0
        differ += int(found.edges.masks["gained"].any())
        excess = found.edges.numbers["excess turnover"]
        within += excess.low <= 0 <= excess.high
    assert differ >= 9
    assert within >= 9


def test_profile_counts_heads():
    torch.manual_seed(4)
    scores = plant(LATE)
    a = subject("a", scores, len(LATE))
    found = profile(a)
    assert [layer.value for layer in found.heads] == [1, 1]
    assert all(has_interval(layer) for layer in found.importance)
    total = sum(GRAPH.n_heads * layer.value for layer in found.importance)
    assert total == pytest.approx(1, abs=1e-5)
    plain = profile(replace(a, record=None))
    assert [layer.value for layer in plain.heads] == [1, 1]
    assert not has_interval(plain.heads[0])


def write_file(path: Path, edges: tuple[str, ...], graph: Graph = GRAPH) -> Path:
    """A graph file in which some edges are in, with scores from 1 down."""
    chosen = torch.zeros(graph.n_edges, dtype=torch.bool)
    scores = torch.zeros(graph.n_sources, graph.n_destinations)
    for rank, name in enumerate(edges):
        index = next(i for i in range(graph.n_edges) if graph.edge_name(i) == name)
        chosen[index] = True
        scores[tuple(graph.edges[index].tolist())] = 1 - 0.1 * rank
    write_graph(path, Circuit(graph, chosen), scores, 32)
    return path


@pytest.mark.parametrize("suffix", ["json", "pt"])
def test_graph_files(tmp_path, capsys, suffix):
    """Against a file and against a record: raw sets, and no number pretends to an interval."""
    torch.manual_seed(5)
    file = write_file(tmp_path / f"early.{suffix}", EARLY)
    other = write_file(tmp_path / f"late.{suffix}", (*LATE, "input->a1.h0<q>"))  # a dead end
    run = write_run(tmp_path / "run", "run", {8: plant(LATE)}, len(LATE))
    act(options(tmp_path, f"a={file}", f"b={other}", f"c={run}"))
    text = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [(c["a"], c["b"]) for c in found["comparisons"]] == [("a", "b"), ("a", "c"), ("b", "c")]
    for pair in found["comparisons"]:
        for kind in ("heads", "edges"):
            numbers = pair[kind]["numbers"].values()
            assert all(number["low"] is None and number["high"] is None for number in numbers)
            assert pair[kind]["null_turnover"] is None
        assert {h["called"] for h in pair["heads"]["members"]} == {None}
    for pair in found["comparisons"][:2]:
        assert names_of(pair["edges"]["gained"]) == set(LATE) - set(EARLY)
        assert pair["heads"]["numbers"]["gained"]["value"] == 1
    same = found["comparisons"][2]
    assert same["heads"]["numbers"]["jaccard"]["value"] == 1
    assert same["edges"]["numbers"]["jaccard"]["value"] == 1
    assert found["subjects"]["a"]["intervals"] is False
    assert "has no intervals" in " ".join(text.split())
    act(options(tmp_path, f"a={file}", f"b={other}", "cross=true"))
    text = " ".join(capsys.readouterr().out.split())
    assert "does not name its model; give model_a=DIR" in text


def test_what_can_not_be_compared_is_refused(tmp_path):
    torch.manual_seed(6)
    one = write_run(tmp_path / "one", "one", {0: plant(EARLY), 40: plant(EARLY)}, 4)
    other = plant(EARLY)
    two = write_run(tmp_path / "two", "two", {}, 4)
    write_record(two, replace(make_record(3, other, 4), pairs_hash="other"), other)

    def refused(match: str, *arguments: str) -> None:
        with pytest.raises(ValueError, match=match):
            act(options(tmp_path, *arguments))

    refused(r"a=one@40 and b=two@3: the records .* differ in pairs_hash", f"a={one}", f"b={two}")
    file = write_file(tmp_path / "big.json", (), Graph(3, 4, 2))
    refused("attribute both on one model with the same kv", f"a={one}", f"b={file}")
    refused("b: there is no .*missing; give a run, RUN@STEP", f"a={one}", f"b={tmp_path}/missing")
    refused("b: .* has no record of step 7; it has those of steps 0, 40", f"a={one}", f"b={one}@7")
    refused("b: .*has no record of step 7", f"a={one}", f"b={one}/checkpoint-7")
    refused("must end in @ and a step, such as", f"a={one}", f"b={one}@last")
    (tmp_path / "empty" / "heads").mkdir(parents=True)
    refused("has no records; track its checkpoints", f"a={one}", f"b={tmp_path}/empty")
    refused("holds no directory heads", f"a={one}", f"b={tmp_path}")
    (tmp_path / "no.yaml").touch()
    refused("name must end in .json or .pt", f"a={one}", f"b={tmp_path}/no.yaml")
    (tmp_path / "other.json").write_text("{}")
    refused("is not an EAP-IG graph file", f"a={one}", f"b={tmp_path}/other.json")
    refused("model_c is given, but no c", f"a={one}", f"b={one}@0", "model_c=x")
    both = (f"a={one}", f"b={one}@0")
    refused("model_a: there is no directory ./x", *both, "model_a=./x", "cross=true")
    refused("q, a false-discovery rate", f"a={one}", f"b={one}@0", "q=1.5")
    refused("unknown dtype 'float8'", f"a={one}", f"b={one}@0", "dtype=float8")
    for given, step in (
        (one, 40),
        (f"{one}@0", 0),
        (one / "heads" / "step-000040", 40),
        (one / "checkpoint-0", 0),
        (one / "heads" / "step-000000" / "record.json", 0),
    ):
        record = read_subject("a", str(given)).record
        assert record is not None and record.step == step


def test_different_bases_are_named(tmp_path, capsys):
    torch.manual_seed(7)
    runs = []
    for name in ("one", "two"):
        scores = {0: plant(EARLY), 4: plant(LATE)}
        run = write_run(tmp_path / name, name, scores, 5)
        base = read_record(run, 0)
        assert base is not None
        write_record(run, replace(base, origin={"model": {"weights": name}}), scores[0])
        runs.append(run)
    act(options(tmp_path, f"a={runs[0]}", f"b={runs[1]}"))
    text = " ".join(capsys.readouterr().out.split())
    assert "start from different bases (weights one and two)" in text
    assert "emergent in both, 1 [1-1] (1): L1H3*" in text


def test_the_page_is_whole_and_escaped(tmp_path):
    torch.manual_seed(8)
    name = "<script>alert('x')</script>"
    runs = [write_run(tmp_path / path, name, {0: plant(EARLY), 4: plant(LATE)}, 5) for path in "xy"]
    act(options(tmp_path, f"a={runs[0]}", f"b={runs[1]}@0"))
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert name not in page
    assert escape(f"{name}@4") in page
    assert 'id="effect-a-b"' in page and 'id="layers"' in page
    assert "input-&gt;a1.h3&lt;q&gt;" in page
    assert not re.search(r'<(script|link|img)[^>]+(src|href)=["\']?http', page)
    assert [path.name for path in (tmp_path / "out").iterdir() if "partial" in path.name] == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Two runs of one random model and another: one, two, each with its checkpoint-4."""
    root = tmp_path_factory.mktemp("trained")
    settings = TrackingSettings(fraction=0.2, resamples=20, ig_steps=2)
    for name, seed in (("one", 1), ("two", 2)):
        run = root / name
        checkpoint = run / "checkpoint-4"
        model = tiny_model("qwen2", torch.float32, seed)
        model.save_pretrained(checkpoint)
        HeadTracker(run, random_pairs(8), settings).track(model, 4, show_progress=False)
        RunFile(name, "sft", "loss").write(run)
    return root


def cells_of(out: Path) -> dict[tuple[str, str], dict]:
    found = json.loads((out / "comparison.json").read_text())
    return {(c["circuit"], c["model"]): c for c in found["cross_faithfulness"]["cells"]}


def test_cross_faithfulness(tmp_path, trained):
    """Every cell is what evaluate_circuit gives, and the diagonal what the records hold."""
    runs = {"a": trained / "one", "b": trained / "two"}
    arguments = [f"{name}={run}" for name, run in runs.items()]
    act(options(tmp_path, *arguments, "cross=true", "device=cpu", "seed=3"))
    cells = cells_of(tmp_path / "out")
    models = {
        "a": tiny_model("qwen2", torch.float32, 1),
        "b": tiny_model("qwen2", torch.float32, 2),
    }
    records = {name: read_record(run, 4) for name, run in runs.items()}
    for (circuit, model), cell in cells.items():
        record = records[circuit]
        assert record is not None and cell["reason"] is None
        parts = Circuit(record.graph, record.circuit)
        direct = evaluate_circuit(models[model], random_pairs(8), parts)
        assert cell["faithfulness"]["value"] == pytest.approx(direct.faithfulness, abs=1e-5)
        assert cell["faithfulness"]["low"] <= cell["faithfulness"]["high"]
        control = random_circuit(parts, 3)
        assert cell["random_edges"] == control.n_edges
        direct = evaluate_circuit(models[model], random_pairs(8), control)
        assert cell["random"]["value"] == pytest.approx(direct.faithfulness, abs=1e-5)
        own = cells[model, model]["faithfulness"]["value"]
        assert cell["below_own"]["value"] == pytest.approx(cell["faithfulness"]["value"] - own)
        if circuit == model:
            kept = vars(record.faithfulness())
            assert cell["faithfulness"] == pytest.approx(kept, abs=1e-5)


def test_models_are_those_that_were_recorded(tmp_path, trained, capsys):
    """Other weights than the record names are refused, unless they are asked for; gaps say why."""
    pair = [f"a={trained / 'one'}", f"b={trained / 'two'}", "device=cpu", "cross=true"]
    hidden = trained / "two" / "checkpoint-4"
    kept = hidden.rename(trained / "elsewhere")
    try:
        act(options(tmp_path, *pair))
        text = " ".join(capsys.readouterr().out.split())
        gone = "in model b: empty, because .* has no checkpoint of step 4; .*; give model_b=DIR"
        assert re.search(gone, text)
        assert cells_of(tmp_path / "out")["a", "b"]["faithfulness"] is None
        act(options(tmp_path, *pair, f"model_b={kept}"))
        assert cells_of(tmp_path / "out")["a", "b"]["reason"] is None
        tiny_model("qwen2", torch.float32, 9).save_pretrained(hidden)
        act(options(tmp_path, *pair))
        reason = cells_of(tmp_path / "out")["a", "b"]["reason"]
        assert re.search("has weights .* where .* was recorded; give model_b=", reason)
        capsys.readouterr()
        act(options(tmp_path, *pair, f"model_b={hidden}"))
        assert "used for b as model_b asks" in " ".join(capsys.readouterr().out.split())
        assert cells_of(tmp_path / "out")["a", "b"]["reason"] is None
    finally:
        if hidden.exists():
            hidden.rename(trained / "wrong")
        kept.rename(hidden)


def test_adapters(tmp_path, trained):
    """A checkpoint that is an adapter is run attached to its base, also before it was trained."""
    from peft import LoraConfig, get_peft_model

    run, base = tmp_path / "lora", trained / "one" / "checkpoint-4"
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules=["q_proj", "o_proj"])
    )
    tracker = HeadTracker(
        run, random_pairs(8), TrackingSettings(fraction=0.2, resamples=20, ig_steps=2)
    )
    tracker.track(model, 0, show_progress=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape) / 4)
    after = tracker.track(model, 2, show_progress=False)
    model.save_pretrained(run / "checkpoint-2")
    act(options(tmp_path, f"a={run}@0", f"b={run}@2", "cross=true", "device=cpu"))
    cells = cells_of(tmp_path / "out")
    assert {cell["reason"] for cell in cells.values()} == {None}
    kept = vars(after.faithfulness())
    assert cells["b", "b"]["faithfulness"] == pytest.approx(kept, abs=1e-4)
    assert cells["b", "a"]["faithfulness"]["value"] != cells["b", "b"]["faithfulness"]["value"]
    (run / "checkpoint-2").rename(tmp_path / "moved")
    act(options(tmp_path, f"a={run}@0", f"b={run}@2", "cross=true", "device=cpu"))
    reason = cells_of(tmp_path / "out")["a", "b"]["reason"]  # the base is not taken for it
    assert re.search("has adapter None where .* was recorded; give model_b=", reason)


def test_random_circuits_have_the_size_and_no_dead_ends():
    for size in (1, 5, 20, 60):
        scores = torch.rand(GRAPH.n_edges, generator=torch.Generator().manual_seed(size))
        circuit = Circuit(GRAPH, select(GRAPH, scores, Selection(size)))
        control = random_circuit(circuit, seed=1)
        assert circuit.n_edges <= control.n_edges <= circuit.n_edges + 6
        if circuit.n_edges:
            assert int(head_mask(GRAPH, control.edges).sum()) == len(control.heads)
    assert torch.equal(random_circuit(circuit, 1).edges, random_circuit(circuit, 1).edges)
    assert not torch.equal(random_circuit(circuit, 1).edges, random_circuit(circuit, 2).edges)


def test_command_line(tmp_path, trained):
    """As a user starts it, from a run, a checkpoint of it and a graph file of it."""
    record = read_record(trained / "one", 4)
    assert record is not None
    scores = torch.zeros(record.graph.n_sources, record.graph.n_destinations)
    scores[tuple(record.graph.edges.T)] = record.mean
    write_graph(tmp_path / "file.json", Circuit(record.graph, record.circuit), scores, 32)
    command = [
        sys.executable,
        "-m",
        "analysis",
        "compare",
        f"a={trained}/one",
        f"b={trained}/two@4",
        f"c={tmp_path}/file.json",
        f"model_c={trained}/one/checkpoint-4",
        f"out={tmp_path}/out",
        "device=cpu",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    cells = cells_of(tmp_path / "out")
    assert cells["c", "c"]["faithfulness"] == pytest.approx(cells["a", "a"]["faithfulness"])
    assert "Loading weights" not in done.stderr  # no progress bar where there is no terminal
    pairs = json.loads((tmp_path / "out" / "comparison.json").read_text())["comparisons"]
    assert pairs[1]["heads"]["numbers"]["jaccard"] == {"value": 1, "low": None, "high": None}
    done = subprocess.run(
        [warm_python(), *command[1:5], "b=nowhere"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: b: there is no nowhere; give a run")
    shown = subprocess.run([*command[:4], "--help"], cwd=ROOT, capture_output=True, text=True)
    assert "model_a" in shown.stdout


def test_scores_of_a_run_give_its_heads(trained):
    """Heads of the edges that the bootstrap of edges holds are the heads that were recorded."""
    record = read_record(trained / "one", 4)
    assert record is not None
    scores = read_scores(trained / "one", 4)
    rows = torch.cat([*edge_memberships(record, scores)])
    order = torch.argsort(record.graph.edges[:, 1], stable=True)
    edges = torch.empty_like(rows)
    edges[:, order] = rows
    assert torch.equal(head_mask(record.graph, edges), record.heads.inside)
    assert not math.isnan(record.faithfulness().value)
    (found,) = read_subjects(parse(Options, [f"a={trained}/one", f"b={trained}/one"]))[:1]
    assert found.base is None
