"""Known exceptions of libraries are one line; a fault of the program keeps its traceback."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from analysis.cli import key, main
from analysis.mistakes import Mistake, as_line, in_one_line


def raised(function) -> BaseException:
    with pytest.raises(Exception) as caught:
        function()
    return caught.value


def broken_template() -> None:
    import jinja2

    jinja2.Template("{{ x.y.z }}", undefined=jinja2.StrictUndefined).render()


def damaged_weights() -> None:
    from safetensors.torch import load

    load(b"12345678garbage")


def unreadable_table() -> None:
    import pyarrow.parquet
    from pyarrow import BufferReader

    pyarrow.parquet.read_table(BufferReader(b"no parquet"))


def beyond_the_embedding() -> None:
    import torch

    torch.nn.Embedding(2, 2)(torch.tensor([2]))


def other_shapes() -> None:
    import torch

    torch.nn.Linear(2, 2).load_state_dict(torch.nn.Linear(3, 2).state_dict())


def unsafe_pickle() -> None:
    import io

    import torch

    torch.load(io.BytesIO(pickle.dumps(print)), weights_only=True)


def unknown_token() -> None:
    from tokenizers import Tokenizer

    Tokenizer.from_str("{}")


def refused_value() -> None:
    from pydantic import BaseModel

    class Stage(BaseModel):
        stage: int

    Stage(stage="seven")


KNOWN = [
    (broken_template, "UndefinedError: 'x' is undefined"),
    (damaged_weights, "SafetensorError: "),
    (unreadable_table, "Parquet magic bytes not found"),
    (beyond_the_embedding, "a token's id lies beyond the model's embedding"),
    (other_shapes, "weights do not fit their model (Error(s) in loading state_dict for Linear"),
    (unsafe_pickle, "Weights only load failed"),
    (unknown_token, ""),
    (refused_value, "1 validation error for Stage"),
    (lambda: Path("/no/such").read_text(), "/no/such: No such file or directory"),
    (lambda: json.loads("{"), "Expecting property name"),
    (lambda: bytes([255]).decode(), "'utf-8' codec can't decode"),
    (lambda: __import__("no_such_package"), "a package is missing: No module named"),
]


@pytest.mark.parametrize(
    ("fails", "words"), KNOWN, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_a_library_says_is_one_line(fails, words):
    line = as_line(raised(fails))
    assert line is not None
    assert words in line
    assert "\n" not in line
    with pytest.raises(Mistake), in_one_line():
        fails()


@pytest.mark.parametrize(
    "error",
    [
        *(KeyError("layer"), TypeError("f() got"), AttributeError("x"), IndexError("list index")),
        *(RuntimeError("another"), AssertionError(), ImportError("x", name="analysis.nothing")),
    ],
)
def test_a_fault_of_the_program_is_none(error):
    assert as_line(error) is None
    with pytest.raises(type(error)), in_one_line():
        raise error


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")],
)
def test_memory_that_ran_out_is_said(error):
    assert "memory ran out; make the batches smaller" in str(as_line(error))


def test_a_command_ends_with_the_line_and_a_fault_with_its_traceback(capsys):
    from dataclasses import dataclass

    @dataclass
    class Options:
        size: int = key("of it", 1)

    with pytest.raises(SystemExit) as ended:
        main(Options, "", lambda options: damaged_weights(), [])
    assert (ended.value.code, capsys.readouterr().err.count("\n")) == (1, 1)
    with pytest.raises(KeyError):
        main(Options, "", lambda options: {}["x"], [])
