"""Command lines of this package: `key=value` arguments checked against a dataclass.

The dataclass is the schema and the help: each field's `help` says what it is. Nested dataclasses
give dotted keys, as in the configurations of training runs.
"""

from __future__ import annotations

import difflib
import logging
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from functools import partial
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

T = TypeVar("T")
REQUIRED = "???"


def key(help: str, default: Any = REQUIRED) -> Any:
    """A field of a command line's dataclass; without a default it must be given."""
    return field(default=default, metadata={"help": help})


def keys(schema: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every key of a schema with its default and its help."""
    for entry in fields(schema):
        factory = entry.default_factory
        if factory is not MISSING and is_dataclass(factory):
            yield from keys(factory, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, entry.default, entry.metadata["help"]


def parse(schema: type[T], arguments: list[str]) -> T:
    """The dataclass that `key=value` arguments describe.

    Raises:
        ValueError: an argument is no assignment, its key is unknown (the nearest one is named), its
            value has the wrong type, or a key that must be given is missing.
    """
    known = {name: default for name, default, _ in keys(schema)}
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if not equals:
            raise ValueError(f"{argument!r} is not key=value")
        if name not in known:
            raise ValueError(f"unknown key {name!r}; {nearest(name, known)}")
    try:
        config = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.from_dotlist(arguments))
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ValueError(f"missing: {', '.join(f'{name}=...' for name in missing)}")
    value = OmegaConf.to_object(config)
    assert isinstance(value, schema)
    return value


def help_text(schema: Any, usage: str) -> str:
    """What `--help` prints, as wide as the terminal: prose is wrapped, indented lines are not."""
    columns = shutil.get_terminal_size().columns
    wrap = partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)
    paragraphs = [
        part if "\n " in f"\n{part}" else "\n".join(wrap(part, columns))
        for part in usage.strip().split("\n\n")
    ]
    rows = [
        (name + ("" if default == REQUIRED else f"={'null' if default is None else default}"), text)
        for name, default, text in keys(schema)
    ]
    width = max(len(name) for name, _ in rows)
    lines = []
    for name, text in rows:
        first, *more = wrap(text, max(columns - width - 4, 30)) or [""]
        lines.append(f"  {name:{width}}  {first}")
        lines += [f"{'':{width + 4}}{part}" for part in more]
    return "\n".join(["\n\n".join(paragraphs), "", *lines])


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
    if {"-h", "--help"} & set(arguments):
        print(help_text(schema, usage))
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("httpx", "httpcore", "urllib3", "filelock"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        options = parse(schema, arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        action(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
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
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, commands))
        lines = [f"  {name:{width}}  {purpose}" for name, purpose in commands.items()]
        print("\n".join([f"{program} COMMAND --help says more of each.", "", *lines]))
        return
    command, *rest = arguments
    if command not in commands:
        print(f"error: no command {command!r}; {nearest(command, commands)}", file=sys.stderr)
        sys.exit(2)
    run(command, rest)
