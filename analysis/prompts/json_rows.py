"""Rows of JSON: objects one a line, or an array of objects, streamed either way.

A line ends with LF or CRLF and with nothing else: U+2028 is text. Numbers are `Number`; NaN and
Infinity, which are no JSON but which many write, are floats, and nothing else is.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from analysis.prompts.values import Number, Row

_SPACE = b"\xef\xbb\xbf \t\r\n"  # with the byte order mark
_CHUNK = 1 << 20


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {twice!r} twice")
    return found


_DECODER = json.JSONDecoder(
    parse_int=Number, parse_float=Number, parse_constant=float, object_pairs_hook=_object
)


def parse_json(text: str) -> Any:
    """One JSON text.

    Raises:
        ValueError: it is none, or an object has a key twice.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise ValueError("not valid JSON (nested too deep)") from error


def json_rows(stream: IO[bytes], path: Path) -> Iterator[Row]:
    """Objects, one a line, or those of an array if the first character is a bracket.

    Raises:
        ValueError: naming the file and the line, for an array its row too.
    """
    first = b""
    while not first and (chunk := stream.read(4096)):
        first = chunk.lstrip(_SPACE)[:1]
    stream.seek(0)
    return _array(stream, path) if first == b"[" else _lines(stream, path)


def json_lines(stream: IO[bytes], path: Path) -> Iterator[tuple[int, Any]]:
    """The number of each line that is not blank, counted from 1, and what it holds.

    Raises:
        ValueError: naming the file and the line.
    """
    for number, raw in enumerate(stream, start=1):  # a line of bytes ends with LF only
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            if not text.strip():
                continue
            value = parse_json(text)
        except UnicodeDecodeError as error:
            raise not_utf8(f"{path}, line {number}", error) from error
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        yield number, value


def not_utf8(place: str, error: UnicodeDecodeError) -> ValueError:
    byte = error.object[error.start]
    return ValueError(
        f"{place}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8, as with "
        "iconv -f latin1 -t utf-8"
    )


def _lines(stream: IO[bytes], path: Path) -> Iterator[Row]:
    for number, value in json_lines(stream, path):
        yield _row(value, f"{path}, line {number}")


def _row(values: object, place: str) -> Row:
    if not isinstance(values, dict):
        raise ValueError(f"{place}: not a JSON object")
    return Row(values, place)


def _array(stream: IO[bytes], path: Path) -> Iterator[Row]:
    """One element after another; more is read where the text that is there holds no whole one."""
    text = _Text(stream, path)
    text.take("[")
    row = 0
    while text.next() != "]":
        row += 1
        if row > 1:
            text.take(",")
            text.next()
        place = f"{path}, line {text.line} (row {row})"
        yield _row(text.value(place), place)
    text.take("]")
    if rest := text.next():
        raise ValueError(f"{path}, line {text.line}: {rest!r} follows the end of the array")


class _Text:
    """A place in a JSON text of which only a part is in memory; `line` counts from 1."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._source = io.TextIOWrapper(stream, "utf-8-sig", newline="")
        self._path = path
        self._text = ""
        self._at = 0
        self.line = 1

    def _more(self) -> bool:
        """Forget what is behind and at least double what is ahead; false at the end."""
        self._text = self._text[self._at :]
        self._at = 0
        try:
            chunk = self._source.read(max(_CHUNK, len(self._text)))
        except UnicodeDecodeError as error:
            raise not_utf8(f"{self._path}, after line {self.line}", error) from error
        self._text += chunk
        return bool(chunk)

    def _go(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end

    def next(self) -> str:
        """The next character that is not space, where the place is then; "" at the end."""
        while True:
            end = self._at
            while end < len(self._text) and self._text[end] in " \t\r\n":
                end += 1
            self._go(end)
            if end < len(self._text):
                return self._text[end]
            if not self._more():
                return ""

    def take(self, mark: str) -> None:
        """Go past a mark that has to stand here."""
        if (found := self.next()) != mark:
            what = repr(found) if found else "the end of the file"
            raise ValueError(
                f"{self._path}, line {self.line}: not valid JSON ({what} stands where {mark!r} "
                "of the array is due)"
            )
        self._at += 1

    def value(self, place: str) -> Any:
        """The value that begins here, with the place then behind it."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._more():
                    continue
                raise ValueError(f"{place}: not valid JSON ({error.msg})") from error
            except RecursionError as error:
                raise ValueError(f"{place}: not valid JSON (nested too deep)") from error
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
            self._go(end)
            return value
