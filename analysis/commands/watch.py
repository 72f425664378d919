"""Look at runs while they go on, of any trainer that leaves run.json: in a browser or a terminal.

    headlab watch runs/                      # all runs in a directory; prints an address
    headlab watch runs/my-sft port=8000      # one run
    headlab watch runs/ host=0.0.0.0         # from other machines too
    headlab watch runs/ --terminal           # 80 columns, also over ssh

The browser has a list of the runs with their states, and the page of each, which grows while the
run goes on. On loopback, where it listens unless host= says otherwise, it is for this machine only;
elsewhere nobody is let in without the token in the address that is printed. Nothing is written, and
ending it (Ctrl-C) costs the runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from analysis.cli import HELP, VERSION, key
from analysis.ranges import Range


@dataclass
class Options:
    runs: str = key("directory of a run, or of several, at most two folders deep", "runs")
    terminal: bool = key("show them here, in the terminal (--terminal)", False)
    host: str = key("address to listen on", "127.0.0.1")
    port: int = key("port to listen on; 0: one that is free", 8642, Range(0, 65535))
    every: float = key("terminal: seconds between two looks", 2.0, Range(0.1, 3600))


def as_keys(arguments: Sequence[str]) -> list[str]:
    """A word that is no key=value is the directory; --KEY=VALUE is KEY=VALUE, a flag KEY=true.

    >>> as_keys(["runs/", "--terminal", "--port=0"])
    ['runs=runs/', 'terminal=true', 'port=0']
    """
    valued = {f"--{each.name}" for each in fields(Options) if not isinstance(each.default, bool)}
    return [word if word in valued else _as_key(word) for word in arguments]


def _as_key(word: str) -> str:
    if word.startswith("--") and word not in (*HELP, VERSION):
        return word[2:] if "=" in word else f"{word[2:]}=true"
    return word if "=" in word or word.startswith("-") else f"runs={word}"


def act(options: Options) -> None:
    """Show the runs until Ctrl-C."""
    if options.terminal:
        from analysis.watch.terminal import watch

        watch(options.runs, options.every)
    else:
        from analysis.watch.server import serve

        serve(options.runs, options.host, options.port)
