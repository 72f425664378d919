"""Whatever became of a run's files: one line that names the file, and the rest is shown."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from analysis.files import short_hash, write_json
from analysis.heads.attention import PATTERN_SCORES
from analysis.heads.roles import roles_path
from analysis.records.evaluations import read_evaluations, read_interventions
from analysis.records.record import Record
from analysis.records.record_files import (
    is_recorded,
    read_record,
    read_scores,
    read_steps,
    record_dir,
)
from analysis.records.run_file import RunFile, configuration
from analysis.reporting.paper import read_results
from analysis.reporting.roles import role_cells
from analysis.reporting.sections import (
    intervention_table,
    roles_note,
    shared_sources,
    source_table,
)
from analysis.reporting.tables import format_table, table_cells, task_table
from analysis.reporting.wandb_run import missing
from analysis.trajectories.run import Run, roles_at
from analysis.trajectories.trajectory import Known, trajectory
from tests.support.planted_runs import FINAL, PAIRS, SCORE, make_run, plant

DIFFERENCE = {"value": -0.2, "low": -0.4, "high": None, "p_value": 0.03}
OTHERS = (None, "text", 10**400, {"x": [1]}, [None], True, -1.5)
KNOWN: Known = {}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every kind of file."""
    run = make_run(tmp_path_factory.mktemp("whole") / "run", FINAL)
    heads = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
    score = {"value": [0.5] * 8, "low": [None] * 8, "high": [0.75] * 8, "pairs": PAIRS}
    roles = {"schema": 1, "step": 20, "pairs_hash": "h", "unit": "tokens", "heads": heads}
    scores = dict.fromkeys((*PATTERN_SCORES, "copying"), score)
    write_json(roles_path(run, 20), {**roles, "scores": scores})
    ends = {"pass_at_1": 0.4, "low": 0.3, "high": 0.5, **SCORE}
    result = {"schema": 1, "task": "math", "step": 20, "think": None, "label": None}
    result |= {"intervention": "zero:L0H2", "heads": ["L0H2"]}
    result |= {"conditions": {"none": ends, "intervention": ends}}
    result |= {"comparisons": {"effect": DIFFERENCE, "control": DIFFERENCE}}
    write_json(run / "evaluations" / "math" / "step-000020" / "zero" / "scores.json", result)
    write_json(run / "evaluations" / "math" / "step-000020.json", {"schema": 2, "step": 20, **ends})
    return run


def show(run: Path, name: str, whole: Run) -> None:
    """What is read of a file, and all that a report, a table or W&B makes of it."""
    if name == "run.json":
        file = RunFile.read(run)
        shown = replace(whole, file=file, label=file.name)
        format_table(shown), source_table(shown), shared_sources(shown)
        trajectory([p.record for p in whole.points], file.fdr, file.hysteresis, KNOWN)
    elif name == "record":
        records, _ = read_steps(run)
        for record in records[1:2]:
            shared_sources(replace(whole, rows=[replace(whole.rows[0], point=Shown(record))]))
            source_table(replace(whole, rows=[replace(whole.rows[0], point=Shown(record))]))
            record.faithfulness(), record.depths(), record.heads.inside
    elif name in ("evaluation", "benchmark"):
        found = read_evaluations(run, None if name == "evaluation" else "math")
        rows = [
            replace(whole.rows[-1], evaluation=score, tasks={"math": score})
            for score in found.values()
        ]
        table_cells(rows), task_table(rows)
        missing(replace(whole, rows=rows), "offline")
    elif name == "results":
        intervention_table(replace(whole, interventions=read_interventions(run)))
        read_results([run])
    else:
        roles = roles_at(run, whole.points[-1])
        if roles is not None:
            role_cells(roles, 7), roles_note(replace(whole, roles=roles))


@dataclass(frozen=True)
class Shown:
    """A point, as far as it is asked for here."""

    record: Record


def damaged(content: Any, others: tuple[Any, ...]) -> Iterator[Any]:
    """Copies of JSON with one part gone or another; of a list, its first entry stands for all."""
    if isinstance(content, dict):
        for key in content:
            yield {name: value for name, value in content.items() if name != key}
            for other in (*others, *damaged(content[key], others[:2])):
                yield {**content, key: other}
    elif isinstance(content, list) and content:
        for other in (*others[:4], *damaged(content[0], others[:2])):
            yield [other, *content[1:]]
        yield content[1:]


FILES = {
    "run.json": "run.json",
    "record": "heads/step-000010/record.json",
    "evaluation": "evaluations/step-000020.json",
    "benchmark": "evaluations/math/step-000020.json",
    "results": "evaluations/math/step-000020/zero/scores.json",
    "roles": "roles/step-000020.json",
}


@pytest.mark.parametrize("name", FILES)
def test_any_edit_of_a_file_costs_that_file_only(
    whole: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    path, found = run / FILES[name], Run.read(run, KNOWN)
    content, raw = json.loads(path.read_text()), path.read_bytes()
    blobs = [json.dumps(edit).encode() for edit in (*damaged(content, OTHERS), *OTHERS)]
    blobs += [b"", raw[: len(raw) // 2], bytes(range(256)), b"[" * 100_000, b"\xff" + raw]
    refused = 0
    for blob in blobs:
        path.write_bytes(blob)
        caplog.clear()
        lines = []
        try:
            show(run, name, found)
        except ValueError as error:
            lines.append(str(error))
        assert len(lines) <= (name in ("run.json", "record")), (lines, blob[:300])
        lines += [record.getMessage() for record in caplog.records]
        refused += bool(lines)
        for line in lines:
            assert "\n" not in line
            comparable = name == "record" and "steps 0 and 10 differ in" in line
            assert str(path) in line or comparable or str(path.parent) in line
    assert refused > len(blobs) / 3
    path.unlink()
    path.mkdir()  # something else in its place
    caplog.clear()
    try:
        show(run, name, found)
    except ValueError as error:
        assert path.name in str(error)


def test_another_schema_costs_that_file_only(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    for name in ("record", "evaluation", "benchmark", "results", "roles"):
        path = tmp_path / "run" / FILES[name]
        path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    found = Run.read(tmp_path / "run")
    assert [row.step for row in found.rows] == [0, 20]
    assert found.rows[1].evaluation is None
    assert (found.interventions, found.roles, found.rows[1].tasks) == ({}, None, {})
    assert caplog.text.count("has schema 99") == 5


def test_lines_of_the_training_log(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    with open(path, "ab") as lines:
        lines.write(b'[]\n{"step": "3"}\n{"loss": 1}\n\xff\xfe\n{"step": 1, "lo\n7\n')
        for value in (b'"low"', b"true", b"[1]", b"{}", b"1e400", b"1" + b"0" * 400):
            lines.write(b'{"step": 30, "loss": ' + value + b"}\n")
    found = Run.read(tmp_path / "run")
    assert [step for step, _ in found.logged] == [5, 10, 15, 20]
    assert f"{path}, line 5, 6, 7, 8, 10: left out" in caplog.text
    assert f"{path}: loss of step 30 left out, as it is no number" in caplog.text
    path.unlink()
    path.mkdir()
    assert Run.read(tmp_path / "run").logged == []


def test_the_configuration_is_a_witness_that_may_be_damaged(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    for content in (b"\xff\xfe", b"a: [", b"- 1", b"7", b"\t: x", b""):
        path.write_bytes(content)
        Run.read(tmp_path / "run")
        if content:
            with pytest.raises(ValueError, match=r"config\.yaml") as caught:
                configuration(tmp_path / "run")
            assert "\n" not in str(caught.value)
    assert "config.yaml can't be read" in caplog.text


def test_a_flipped_bit_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(tmp_path / "run", FINAL)
    for kind, read in (("heads", read_record), ("scores", read_scores)):
        [path] = record_dir(run, 10).glob(f"{kind}-*")
        assert read(run, 10) is not None
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{kind}-\w+\.safetensors is damaged .*its content"):
            read(run, 10)
    assert [row.step for row in Run.read(run).rows] == [0, 20]
    assert "left out: " in caplog.text
    plant(run, 10, FINAL)  # measured again
    assert [row.step for row in Run.read(run).rows] == [0, 10, 20]


RENAMED: dict[str, Callable[[Path], str]] = {
    "elsewhere": lambda path: f"../step-000000/{path.name}",
    "absolute": str,
    "another name": lambda path: "config.yaml",
}


@pytest.mark.parametrize("how", RENAMED)
def test_a_record_names_files_of_its_own(tmp_path: Path, how: str) -> None:
    run = make_run(tmp_path / "run", FINAL)
    [tensors] = record_dir(run, 10).glob("heads-*")
    path = record_dir(run, 10) / "record.json"
    path.write_text(path.read_text().replace(tensors.name, RENAMED[how](tensors)))
    with pytest.raises(ValueError, match=r"record\.json names "):
        read_record(run, 10)


def test_tensors_of_another_shape_are_refused(tmp_path: Path) -> None:
    """As if the files of two runs were mixed: the hash is right, the shapes are not."""
    run = make_run(tmp_path / "run", FINAL)
    path = record_dir(run, 10) / "record.json"
    content = json.loads(path.read_text())
    for change in (
        {"n_pairs": 7},
        {"graph": {**content["graph"], "n_layers": 4, "n_heads": 2}},
        {"graph": {**content["graph"], "n_layers": 10**6}},
        {"graph": {**content["graph"], "kv": "ungrouped"}},
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match="step-000010"):
            read_record(run, 10)
    [tensors] = record_dir(run, 10).glob("heads-*")
    for blob in (b"", b"not safetensors", b"\xff" * 64):
        name = f"heads-{short_hash(blob)}.safetensors"
        (tensors.parent / name).write_bytes(blob)
        path.write_text(json.dumps({**content, "tensors": {**content["tensors"], "heads": name}}))
        with pytest.raises(ValueError, match="is damaged"):
            read_record(run, 10)


def test_a_damaged_record_is_measured_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", FINAL)
    path = record_dir(run, 10) / "record.json"
    assert is_recorded(run, 10)
    for content in ("", "{", "[]", path.read_text().replace('"n_pairs": 6', '"n_pairs": null')):
        path.write_text(content)
        assert not is_recorded(run, 10) or content == "[]"
