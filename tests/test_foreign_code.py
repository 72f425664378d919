"""No file that comes from elsewhere runs code: how the project reads models, states and data."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.models.loading import load_config, load_model, load_tokenizer
from tests.support.places import ROOT

FILES = [path for room in ("analysis", "train", "launch") for path in (ROOT / room).rglob("*.py")]
READERS = ("from_pretrained", "from_config", "_from_config")


def calls() -> Iterator[tuple[str, ast.expr, str, dict[str, object]]]:
    """Of every call of an attribute: where, of what, its name and its constant keywords."""
    for path in [*FILES, ROOT / "headlab.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                words = {
                    word.arg: word.value.value
                    for word in node.keywords
                    if word.arg and isinstance(word.value, ast.Constant)
                }
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                yield place, node.func.value, node.func.attr, words


def test_whatever_chooses_a_class_is_told_to_run_no_code():
    """The Auto classes, and whatever class a variable holds; a named class runs only its own."""
    read = [
        (place, words.get("trust_remote_code"))
        for place, of, name, words in calls()
        if name in READERS
        and isinstance(of, ast.Name)
        and (of.id.startswith("Auto") or (of.id.islower() and name != "_from_config"))
    ]
    assert len(read) > 5
    assert [place for place, trusted in read if trusted is not False] == []


def test_torch_reads_weights_only_and_nothing_else_unpickles():
    found = [(place, ast.unparse(of), name, words) for place, of, name, words in calls()]
    loads = [(place, words) for place, of, name, words in found if (of, name) == ("torch", "load")]
    assert [place for place, words in loads if words.get("weights_only") is not True] == []
    unpicklers = {"pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}
    assert [place for place, of, name, _ in found if of in unpicklers] == []


def load(path: Path) -> object:
    return load_model(path, "float32")


@pytest.mark.parametrize("read", [load_config, load_tokenizer, load])
def test_a_model_with_code_of_its_own_is_one_line_and_nobody_is_asked(
    read, tiny_dir, tmp_path, monkeypatch
):
    tmp_path = tmp_path / "own"
    tmp_path.mkdir()
    for path in tiny_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "own.py").write_text("raise SystemExit('run')\n")
    classes = {
        "AutoConfig": "own.C",
        "AutoModelForCausalLM": "own.M",
        "AutoTokenizer": ["own.T"] * 2,
    }
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((tmp_path / name).read_text())
        content |= {"model_type": "own", "auto_map": classes, "tokenizer_class": "OwnTokenizer"}
        (tmp_path / name).write_text(json.dumps(content))
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("it asked"))
    with pytest.raises(ValueError, match="code of its own") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)
