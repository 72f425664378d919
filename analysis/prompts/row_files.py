"""The rows of a file, as the file has them: JSONL, a JSON array, CSV or Parquet.

    file:FILE                     found out: Parquet by its first bytes, CSV by the name (.csv,
                                  .tsv), else JSON
    jsonl:FILE, json:FILE         objects, one a line, or an array of objects
    csv:FILE, parquet:FILE

Text is UTF-8, with or without a byte order mark, perhaps compressed by gzip. Every row comes with
its place, which errors name: the line where it begins, in Parquet its number, counted from 1. No
more than a row or a batch of rows is held. What values are: analysis/prompts/values.py.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from analysis.prompts.json_rows import json_rows, not_utf8
from analysis.prompts.values import Row, check_names, typed_row

FORMATS = ("file", "jsonl", "json", "csv", "parquet")
_ENDINGS = (".gz", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
_OTHERS = {  # by their first bytes
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"ARROW1": "an Arrow file",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"version https://git-lfs": "a Git LFS pointer, whose content was not fetched",
}
# what other programs write into a cell of CSV that has no value
_GAPS = ("", "nan", "NaN", "null", "NULL", "None", "<NA>", "NA", "N/A", "#N/A", "n/a")


def file_of(source: str) -> Path | None:
    """The file that a source names; None if it names none, as a generator.

    >>> file_of("csv:problems.csv")
    PosixPath('problems.csv')
    """
    kind, _, name = source.partition(":")
    return Path(name).expanduser() if kind in FORMATS and name else None


def stem(source: str) -> str:
    """The name of a source's file without directories and endings.

    >>> stem("jsonl:data/sums.jsonl.gz")
    'sums'
    """
    name = source.partition(":")[2].rpartition("/")[2]
    for _ in range(2):
        name = next((name.removesuffix(end) for end in _ENDINGS if name.endswith(end)), name)
    return name


def check_file(path: Path) -> None:
    """Raise ValueError unless there is a file that can be opened."""
    if path.is_dir():
        raise ValueError(f"{path} is a directory; name one file")
    try:
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(path)!r}") from None
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from error


def read_rows(source: str) -> Iterator[Row]:
    """The rows of a file, one after another; `source` is as in the module's docstring.

    Raises:
        ValueError: the file can't be read, is not what its source says, or holds no row; a row is
            none, or an object has a key twice. Each names the file, and the line or row.
    """
    path, kind = file_of(source), source.partition(":")[0]
    if path is None:
        raise ValueError(f"{source!r} names no file; write file:FILE")
    check_file(path)
    count = 0
    with _in_one_line(path), open(path, "rb") as file:
        for row in _rows(file, path, kind):
            count += 1
            yield row
    if not count:
        raise ValueError(f"{path} holds no rows")


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """What reading raises, as a ValueError that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise not_utf8(str(path), error) from error
    except (OSError, EOFError, zlib.error) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} can't be read: {reason}") from error


def _rows(file: IO[bytes], path: Path, kind: str) -> Iterator[Row]:
    start = _start(file)
    if start.startswith(b"PAR1"):
        if kind not in ("file", "parquet"):
            raise ValueError(f"{path} is a Parquet file; write parquet:{path}")
        return _parquet(file, path)
    if kind == "parquet":
        raise ValueError(f"{path} is no Parquet file; if it is text, write file:{path}")
    if start.startswith(b"\x1f\x8b"):
        file = cast(IO[bytes], gzip.GzipFile(fileobj=file))
        start = _start(file)
    for magic, what in _OTHERS.items():
        if start.startswith(magic):
            raise ValueError(
                f"{path} is {what}; headlab reads JSON and CSV (UTF-8, perhaps compressed by "
                "gzip) and Parquet"
            )
    if b"\0" in start:
        raise ValueError(f"{path} is no UTF-8 text (it begins with zero bytes); save it as UTF-8")
    endings = {suffix.lower() for suffix in path.suffixes}
    if kind == "csv" or (kind == "file" and endings & {".csv", ".tsv"}):
        return _csv(file, path)
    return json_rows(file, path)


def _start(file: IO[bytes]) -> bytes:
    start = file.read(64)
    file.seek(0)
    return start


def _csv(stream: IO[bytes], path: Path) -> Iterator[Row]:
    """The first line names the columns, separated by commas, semicolons or tabs. All is text.

    A cell that is empty, or that says nan, null, NA or None, is null. Columns without a name, such
    as the index that pandas writes, are passed over. A space after each separator of the first line
    is none of the values'.
    """
    csv.field_size_limit(2**31 - 1)  # of the whole process; solutions are longer than the default
    lines = io.TextIOWrapper(stream, "utf-8-sig", newline="")
    try:
        header = lines.readline()
    except UnicodeDecodeError as error:
        raise _place_of(error, stream, path) from error
    lines.seek(0)
    separator = max(",;\t", key=header.count)
    spaced = header.count(separator) == header.count(f"{separator} ") > 0
    cells = csv.reader(lines, delimiter=separator, skipinitialspace=spaced, strict=True)
    columns: list[str] = []
    while True:
        place = f"{path}, line {cells.line_num + 1}"
        try:
            row = next(cells, None)
        except UnicodeDecodeError as error:
            raise _place_of(error, stream, path) from error
        except csv.Error as error:
            raise ValueError(f"{place}: not valid CSV ({error})") from error
        if row is None:
            return
        if not row:
            continue
        if not columns:
            columns = [name.strip() for name in row]
            named = [name for name in columns if name]
            if len(set(named)) < len(named) or not named:
                raise ValueError(f"{place}: the columns' names {columns} are not all different")
            continue
        if len(row) != len(columns):
            raise ValueError(f"{place}: {len(row)} cells, and {len(columns)} columns are named")
        values: dict[str, Any] = dict(zip(columns, row, strict=True))
        yield Row({k: None if v.strip() in _GAPS else v for k, v in values.items() if k}, place)


def _place_of(error: UnicodeDecodeError, stream: IO[bytes], path: Path) -> ValueError:
    """The error with its line: text is decoded in blocks, ahead of the lines that are read."""
    stream.seek(0)
    for number, raw in enumerate(stream, start=1):
        try:
            raw.decode()
        except UnicodeDecodeError as found:
            return not_utf8(f"{path}, line {number}", found)
    return not_utf8(str(path), error)


def _parquet(file: IO[bytes], path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        opened = pq.ParquetFile(file)
        check_names(opened.schema_arrow, str(path))
        for batch in opened.iter_batches(batch_size=256):
            for values in batch.to_pylist():
                number += 1
                yield typed_row(values, batch.schema, f"{path}, row {number}")
    except pa.ArrowException as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path} can't be read beyond row {number}: {reason}") from error
