"""Command lines of this package: `key=value` arguments checked against a dataclass.

The dataclass is the schema and the help: each field's `help` says what it is. Nested dataclasses
give dotted keys, as in the configurations of training runs.
"""

from __future__ import annotations

import difflib
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from analysis.logs import show_messages
from analysis.mistakes import as_line
from analysis.ranges import Range, check_values, declared
from analysis.version import __version__

T = TypeVar("T")
REQUIRED = "???"
HELP, VERSION = frozenset({"-h", "--help"}), "--version"  # flags that every command knows


def key(
    help: str,
    default: object = REQUIRED,
    range: Range | None = None,
    among: Iterable[str] | None = None,
    prose: bool = False,
) -> Any:
    """A field of a command line's dataclass; without a default it must be given.

    range: the numbers that it takes. among: the words that it takes; None is always one. prose: it
    is text for a model or a table, in which ~ is no directory.
    """
    about = {"help": help, "range": range, "among": among, "prose": prose}
    return field(default=default, metadata=about)


_REFERENCE = ("${", "\ue000{")  # what OmegaConf would resolve, and what stands for it meanwhile


def literal(value: Any, hide: bool = False) -> Any:
    """A value in which `${` stands for itself: `hide` it from OmegaConf, and put it back."""
    before, after = _REFERENCE if hide else _REFERENCE[::-1]
    if isinstance(value, str):
        return value.replace(before, after)
    if isinstance(value, list):
        return [literal(inner, hide) for inner in value]
    if isinstance(value, dict):
        return {name: literal(inner, hide) for name, inner in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        for entry in fields(value):
            setattr(value, entry.name, literal(getattr(value, entry.name), hide))
    return value


def read_value(text: str) -> Any:
    """What `key=TEXT` gives: a number, a text, a list, ...; references are text.

    >>> read_value("[1,'a ${b}']")
    [1, 'a ${b}']
    """
    held = OmegaConf.from_dotlist([literal(f"x={text}", hide=True)])
    return literal(OmegaConf.to_container(held)["x"])  # type: ignore[index, call-overload]


def expand_home(value: Any) -> Any:
    """The user's directory for a leading ~, also behind a word and in lists, as in jsonl:~/a.

    >>> expand_home("zero:~/a") == f"zero:{Path.home()}/a", expand_home("a~/b")
    (True, 'a~/b')
    """
    if isinstance(value, str):
        return _HOME.sub(lambda found: f"{found[1]}{Path.home()}", value)
    return [expand_home(inner) for inner in value] if isinstance(value, list) else value


_HOME = re.compile(r"(^|:)~(?=/|$)")


def keys(schema: type) -> Iterator[tuple[str, Any, str]]:
    """Every key of a schema with its default and its help."""
    for name, entry in declared(schema):
        yield name, entry.default, entry.metadata["help"]


def parse(schema: type[T], arguments: list[str]) -> T:
    """The dataclass that `key=value` arguments describe.

    Raises:
        ValueError: an argument is no assignment, its key is unknown (the nearest one is named), its
            value has the wrong type or lies outside its range, or a key that must be given is
            missing.
    """
    known = {name: default for name, default, _ in keys(schema)}
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if not equals:
            raise ValueError(f"{argument!r} is not key=value")
        if name not in known:
            raise ValueError(f"unknown key {name!r}; {nearest(name, known)}")
        try:
            read_value(argument.partition("=")[2])
        except yaml.YAMLError as error:
            what = " ".join(str(getattr(error, "problem", None) or error).split())
            raise ValueError(f"{argument!r} can't be read ({what}); put text in quotes") from error
    try:
        given = OmegaConf.from_dotlist(literal(arguments, hide=True))
        config = OmegaConf.merge(OmegaConf.structured(schema), given)
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ValueError(f"missing: {', '.join(f'{name}=...' for name in missing)}")
    check_values(schema, OmegaConf.to_container(config))  # type: ignore[arg-type]
    for name, entry in declared(schema):
        allowed, word = entry.metadata.get("among"), OmegaConf.select(config, name)
        if allowed is not None and word is not None and word not in allowed:
            raise ValueError(f"{name} is {word!r}; {nearest(word, allowed)}")
        if isinstance(word, str | ListConfig) and not entry.metadata.get("prose"):
            plain = list(word) if isinstance(word, ListConfig) else word
            OmegaConf.update(config, name, expand_home(plain))
    value = literal(OmegaConf.to_object(config))
    assert isinstance(value, schema)
    return value


def wrapped(prose: str) -> str:
    """Paragraphs as wide as the terminal; one with an indented line stays as it is."""
    columns = shutil.get_terminal_size().columns
    return "\n\n".join(
        part if "\n " in f"\n{part}" else "\n".join(_wrap(part, columns))
        for part in prose.strip().split("\n\n")
    )


def table(rows: Mapping[str, str]) -> str:
    """Names, and beside each what it is for, as wide as the terminal."""
    columns, width = shutil.get_terminal_size().columns, max(map(len, rows))
    lines = []
    for name, text in rows.items():
        first, *more = _wrap(text, max(columns - width - 4, 30)) or [""]
        lines.append(f"  {name:{width}}  {first}".rstrip())
        lines += [f"{'':{width + 4}}{part}" for part in more]
    return "\n".join(lines)


_wrap = partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)


def help_text(schema: type, usage: str) -> str:
    """What `--help` prints: the usage, and every key with its default."""
    rows = {
        name + ("" if default == REQUIRED else f"={'null' if default is None else default}"): text
        for name, default, text in keys(schema)
    }
    return f"{wrapped(usage)}\n\n{table(rows)}"


def is_answered(arguments: list[str], help: Callable[[], str]) -> bool:
    """Print the help or the version, if that is asked for; whether it was."""
    if HELP & set(arguments):
        print(help())
    elif VERSION in arguments:
        print(f"headlab {__version__}")
    else:
        return False
    return True


def main(
    schema: type[T],
    usage: str,
    action: Callable[[T], None],
    arguments: list[str] | None = None,
) -> None:
    """Parse the command line and act; a user's mistake is one line and exit status 1 or 2.

    `arguments` are those of the process unless others are given.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if is_answered(arguments, lambda: help_text(schema, usage)):
        return
    show_messages()
    try:
        options = parse(schema, arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        action(options)
    except Exception as error:
        if (line := as_line(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean NAME?`, or all that is known where nothing is near."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"


def dispatch(
    program: str,
    commands: Mapping[str, str],
    run: Callable[[str, list[str]], None],
    arguments: list[str],
) -> None:
    """Run the command that the first argument names, with the others; without one, list them.

    Args:
        commands: what each command is for, in a line.
        run: called with the command and its arguments.

    Raises:
        SystemExit: with status 2, there is no such command.
    """
    listed = "\n\n".join(
        [
            f"{program} COMMAND key=value ...",
            table(commands),
            f"{program} COMMAND --help says more.",
        ]
    )
    if is_answered(arguments[:1] or ["--help"], lambda: listed):
        return
    command, *rest = arguments
    if command not in commands:
        print(f"error: no command {command!r}; {nearest(command, commands)}", file=sys.stderr)
        sys.exit(2)
    run(command, rest)
