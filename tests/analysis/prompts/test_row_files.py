"""Files of rows: JSONL, arrays, CSV and Parquet read alike, numbers exact, errors with places."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc

import pytest

from analysis.prompts import json_rows
from analysis.prompts.row_files import check_file, read_rows

ROWS = [{"problem": "1+1=?", "answer": "2"}, {"problem": "a\u2028b\u0085c", "answer": "é"}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
CSV = 'problem,answer\n1+1=?,2\n"a\u2028b\u0085c",é\n'


def values(source: str) -> list[dict]:
    return [row.values for row in read_rows(source)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl", "\n \n" + LINES + "\n\n"),
        ("a.jsonl", "\ufeff" + LINES.replace("\n", "\r\n")),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.jsonl", "\ufeff\n" + json.dumps(ROWS)),
        ("a.csv", CSV),
        ("a.csv", "\ufeff" + CSV.replace(",", ";").replace("\n", "\r\n")),
        ("a.tsv", CSV.replace(",", "\t")),
        ("a.csv", 'problem, answer\n1+1=?, "2"\n"a\u2028b\u0085c", é\n'),
        ("a.csv", ',problem,answer,\n0,1+1=?,2,\n1,"a\u2028b\u0085c",é,\n'),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_layouts_are_read_alike(tmp_path, name, content, packed):
    path = tmp_path / (name + ".gz" if packed else name)
    raw = content.encode()
    path.write_bytes(gzip.compress(raw) if packed else raw)
    assert values(f"file:{path}") == ROWS


def test_numbers_keep_their_text(tmp_path):
    path = tmp_path / "n.jsonl"
    numbers = ["39", "39.0", "1208925819614629174706176", "1e-7", "-0", "2.50"]
    path.write_text("".join(f'{{"answer": {n}}}\n' for n in numbers))
    assert [row["answer"] for row in values(f"jsonl:{path}")] == numbers


def test_typed_columns(tmp_path):
    """Integers that gaps made floats are integers again; 32 bits are written as such."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "whole": pa.array([39.0, None, 1e-7]),
        "narrow": pa.array([0.1, None, 2.0], pa.float32()),
        "inside": pa.array(
            [{"a": [0.1, None]}, None, {"a": []}], pa.struct({"a": pa.list_(pa.float32())})
        ),
        "integer": pa.array([2**63 - 1, 1, None]),
        "nested": pa.array([[{"a": 1}], [], None]),
        "flag": pa.array([True, None, False]),
        "huge": pa.array([2.0**80, float("nan"), 1.0]),
    }
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path)
    first, second, third = values(f"parquet:{path}")
    assert first | {"huge": None} == {
        "whole": "39",
        "narrow": "0.1",
        "inside": {"a": ["0.1", None]},
        "integer": "9223372036854775807",
        "nested": [{"a": "1"}],
        "flag": True,
        "huge": None,
    }
    assert first["huge"] == 2.0**80
    assert isinstance(second["huge"], float)
    assert (second["whole"], third["whole"], third["narrow"]) == (None, "0.0000001", "2")
    with pytest.raises(ValueError, match=r"t.parquet is a Parquet file; write parquet:"):
        values(f"jsonl:{path}")
    whole = path.read_bytes()
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    with pytest.raises(ValueError, match="t.parquet has the column 'a' twice"):
        values(f"file:{path}")
    path.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"t.parquet can't be read beyond row 0: "):
        values(f"file:{path}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "a.jsonl holds no rows"),
        ("a.jsonl", b"\n\n", "a.jsonl holds no rows"),
        ("a.jsonl", b"[]", "a.jsonl holds no rows"),
        ("a.csv", b"problem,answer\n", "a.csv holds no rows"),
        ("a.jsonl", b'{"a": 1}\n{oops\n', "a.jsonl, line 2: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a": 2} x\n', r"line 2: not valid JSON \(Extra data, column 10\)"),
        ("a.jsonl", b'{"a": 1}\n{"a": 2, "a": 3}\n', "line 2: an object has the key 'a' twice"),
        ("a.jsonl", b'{"a": 1}\n7\n', "line 2: not a JSON object"),
        ("a.jsonl", b'{"a": "\xe9"}', "line 1: not UTF-8 .byte 0xe9.; save the file as UTF-8"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "a.jsonl is UTF-16"),
        ("a.jsonl", b'{"a": ' + b"[" * 90_000, "line 1: not valid JSON"),
        ("a.json", b'[{"a": 1},\n {"a": 2, "a": 3}]', r"line 2 \(row 2\): an object has the key"),
        ("a.json", b'[{"a": 1},\n 7]', r"line 2 \(row 2\): not a JSON object"),
        ("a.json", b'[{"a": 1},\n {"a": 2}\n', "line 3: not valid JSON .the end of the file"),
        ("a.json", b'[{"a": 1}\n {"a": 2}]', "line 2: not valid JSON"),
        ("a.json", b'[{"a": 1}]\n[]', "line 2: '\\[' follows the end of the array"),
        ("a.json", b'[{"a": 1},\n {"a": \xe9}]', "not UTF-8"),
        ("a.csv", b'a,b\n1,"2\n3"\n4\n', "line 4: 1 cells, and 2 columns are named"),
        ("a.csv", b"a,a\n1,2\n", "line 1: the columns' names .* are not all different"),
        ("a.csv", b'a,b\n1,"2', "line 2: not valid CSV"),
        ("a.csv", b"a,b\n1,2\n3,\xe9\n", "a.csv, line 3: not UTF-8 .byte 0xe9."),
        ("a.csv", b"a,\xe9\n1,2\n", "a.csv, line 1: not UTF-8 .byte 0xe9."),
        ("a.jsonl", '{"a": 1}'.encode("utf-16-le"), "a.jsonl is no UTF-8 text"),
        ("a.parquet", b"PK\x03\x04", "a ZIP archive or a spreadsheet"),
        (
            "a.jsonl.gz",
            gzip.compress(LINES.encode(), mtime=0)[:-9],
            "can't be read: Compressed file ended",
        ),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        values(f"file:{tmp_path / name}")
    assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="is a directory; name one file"):
        check_file(tmp_path)
    with pytest.raises(ValueError, match="there is no file"):
        check_file(tmp_path / "none")
    if os.geteuid():
        (tmp_path / "a").write_text("x")
        (tmp_path / "a").chmod(0)
        with pytest.raises(ValueError, match="can't be read: Permission denied"):
            check_file(tmp_path / "a")


@pytest.mark.parametrize("form", ["lines", "array"])
def test_memory_does_not_grow_with_the_file(tmp_path, form, monkeypatch):
    monkeypatch.setattr(json_rows, "_CHUNK", 1 << 14)
    row = json.dumps({"problem": "x" * 1000})
    path = tmp_path / "a.json"
    path.write_text("\n".join([row] * 4000) if form == "lines" else f"[{', '.join([row] * 4000)}]")
    tracemalloc.start()
    assert sum(1 for _ in read_rows(f"file:{path}")) == 4000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400_000
