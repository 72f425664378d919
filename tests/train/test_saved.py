"""A configuration that was written before may be damaged in any way: one line that names it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import yaml

from launch.__main__ import refuse_another_point
from train.config import load_resolved, plain
from train.resuming import is_begun, saved_settings
from train.run import start

NOT_ONE = [
    *(b"", b"- 1\n", b"hello", b"5", b"null", b"schema: 99\nruns: {}\n", b"name: x\n"),
    *(bytes(range(256)), b"\0" * 99, b"a: [1\nb: {", b"a:\n\t- b", b"[" * 3000),
    *("name: schön".encode("latin-1"), "name: x".encode("utf-16")),
    b"!!python/object/apply:os.mkdir [made]\n",
]
WRONG: list[dict[str, Any]] = [
    *({"train": None}, {"train": [1]}, {"data": "text"}, {"model": 5}, {"seed": "many"}),
    *({"evaluation": {1: 2}}, {"run_dir": None}, {"other": 1}, {"seed": float("nan")}),
    *({"train": {"kind": "sft", "rewards": [], "args": "fast"}}, {"seed": 1.5}),
]


@pytest.mark.parametrize("content", NOT_ONE, ids=lambda content: str(content[:12]))
def test_a_file_that_is_none(tmp_path, monkeypatch, capsys, content):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "launch.yaml"
    file.write_bytes(content)
    said = "no configuration|no YAML|can't be read"
    with pytest.raises(ValueError, match=rf"^\S+launch\.yaml (holds |is |)({said})"):
        refuse_another_point(file, {})
    with pytest.raises(SystemExit) as ended:
        start([str(file)])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith(f"error: {file} ")
    file.rename(tmp_path / "config.yaml")
    assert is_begun(tmp_path)  # nobody trains over what can't be read
    with pytest.raises(ValueError, match=said):
        saved_settings(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_values_that_are_wrong(compose, tmp_path, wrong):
    file = tmp_path / "launch.yaml"
    file.write_text(yaml.safe_dump(deepcopy(plain(compose("sft"))) | wrong))
    with pytest.raises(ValueError, match=r"^\S+launch\.yaml") as raised:
        load_resolved(file)
    assert "\n" not in str(raised.value)


def test_a_directory_in_its_place_or_no_file(tmp_path):
    for name in ("", "none.yaml"):
        with pytest.raises(ValueError, match="can't be read"):
            load_resolved(tmp_path / name)
