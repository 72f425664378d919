"""Runs in a terminal of 80 columns: a table of them, and of one its verdict, figures and map."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from analysis.reporting.dashboard.verdict import verdict
from analysis.watch.listing import Listing, Seen

if TYPE_CHECKING:
    from analysis.reporting.dashboard.form import Column, Tile
    from analysis.trajectories.run import Run
    from analysis.trajectories.trajectory import Point

BARS = "▁▂▃▄▅▆▇█"
COLOURS = {  # of STATES of analysis/watch/states.py
    **{"running": "green", "finished": "default", "stopped": "yellow", "killed": "red"},
    "open": "default",
}
SHADES = ("default", "#4a3a1c", "#7a5410", "#b87a00", "#f0a830")  # by importance, few heads lead
SHADE_FROM = (0.0, 0.02, 0.1, 0.25, 0.5)  # of the most important head of the run
LEGEND = "+ called emergent  - called pruned  e emergent  p pruned  o retained  . never in"
LONGEST = 12  # bars of a sparkline
EVERY = 2.0  # seconds between two looks


def watch(root: str | Path, every: float = EVERY) -> None:
    """Show the runs until Ctrl-C; once where the output is no terminal.

    Raises:
        ValueError: there is no such directory.
    """
    listing, console = Listing(root), Console(highlight=False)
    if not console.is_terminal:
        console.print(screen(listing.look(), console.width, 10_000))
        return

    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                now = screen(listing.look(), console.width, console.height)
                live.update(now, refresh=True)
                time.sleep(every)
    except KeyboardInterrupt:
        return


def screen(runs: Sequence[Seen], width: int, height: int) -> RenderableType:
    """All runs, and more of the one that changed last."""
    if not runs:
        return Text("no run here yet: no directory with a run.json")
    latest = max(runs, key=lambda seen: (seen.state == "running", seen.changed))
    # the newest stay where not all fit; half of the screen is for the latest
    room = max(3, height // 2 - 4)
    shown = sorted(runs, key=lambda seen: seen.changed)[-room:]
    parts: list[RenderableType] = [_table([seen for seen in runs if seen in shown], width)]
    if len(shown) < len(runs):
        parts.append(Text(f"and {len(runs) - len(shown)} older ones"))
    used = len(shown) + 3
    return Group(*parts, *_details(latest, width, height - used))


def _table(runs: Sequence[Seen], width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), width=width)
    table.add_column("run", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("state", no_wrap=True)
    for title in ("step", "score", "", "heads", "called"):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    for seen in runs:
        name, state = Text(plain(seen.name)), Text(seen.state, COLOURS[seen.state])
        if seen.run is None:
            table.add_row(name, state, "", "", "", "", "")
            continue
        score, heads, called, _ = seen.figures
        bars = _bars(seen.tiles[0], seen.columns)
        table.add_row(name, state, str(seen.step), score, bars, heads, called)
    return table


def _bars(tile: Tile, found: dict[str, Column]) -> str:
    return sparkline(found[tile["columns"][0]]["value"]) if tile["columns"] else ""


def sparkline(values: Sequence[float | None]) -> str:
    """The last values as bars between the least and the greatest of them; a gap where none is.

    >>> sparkline([0.0, 0.5, None, 1.0])
    '▁▅ █'
    """
    shown = values[-LONGEST:]
    known = [value for value in shown if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        " " if value is None else BARS[int((value - low) * scale + 0.5)] for value in shown
    )


def _details(seen: Seen, width: int, height: int) -> list[RenderableType]:
    """Of one run: its verdict, its tiles and its last map."""
    head = Text(f"\n{plain(seen.name)}", "bold", no_wrap=True, overflow="ellipsis")
    if seen.run is None:
        return [head, Text(plain(seen.why))]
    run = seen.run
    parts: list[RenderableType] = [head, Text(plain(verdict(run)))]
    if not run.points:
        return parts
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for tile in seen.tiles:
        cells = (tile["title"], tile["value"][-1], tile["interval"][-1])
        table.add_row(*(Text(plain(cell)) for cell in cells), _bars(tile, seen.columns))
    used = 9  # lines of what is above and below the map
    heads = head_map(run.points[-1], _highest(run), width, height - used)
    return [*parts, table, Text(), *heads, Text(LEGEND, "dim", no_wrap=True, overflow="ellipsis")]


def _highest(run: Run) -> float:
    return max(float(point.record.shares.nan_to_num(0.0).max()) for point in run.points)


def head_map(point: Point, highest: float, width: int, height: int) -> list[Text]:
    """Layers upwards, heads from the left; beside one another in blocks where they are too many.

    highest: importance that has the last shade.
    """
    graph = point.record.graph
    n_layers, n_heads = graph.n_layers, graph.n_heads
    room, cell = 5, 2
    if _blocks(n_layers, height) * (n_heads * cell + room) > width:
        cell = 1
    blocks = min(_blocks(n_layers, height), max(1, width // (n_heads * cell + room)))
    rows = -(-n_layers // blocks)
    marks, shares = _marks(point), point.record.shares.nan_to_num(0.0).tolist()
    cells: list[Text] = []
    at = {place: index for index, place in enumerate(graph.heads)}
    for layer in range(n_layers):
        line = Text(f"L{layer:<3} ", no_wrap=True)
        for head in range(n_heads):
            index = at.get((layer, head))
            if index is None:
                line.append(" " * cell)
                continue
            share = shares[index] / highest if highest else 0.0
            shade = SHADES[sum(share > start for start in SHADE_FROM[1:])]
            line.append(marks[index].ljust(cell), f"default on {shade}")
        cells.append(line)
    lines = []
    for row in reversed(range(rows)):
        line = Text(no_wrap=True)
        for block in range(blocks):
            layer = block * rows + row
            line.append_text(cells[layer] if layer < n_layers else Text())
            line.append(" ")
        lines.append(line)
    return lines


def _blocks(n_layers: int, height: int) -> int:
    return -(-n_layers // max(4, height))


def _marks(point: Point) -> list[str]:
    """A letter for each head; see LEGEND."""
    letters = {"emergent": "e", "pruned": "p", "retained": "o", "transient": ".", None: "."}
    marks = [letters[state] for state in point.states]
    for name, mark in (("emergent", "+"), ("pruned", "-")):
        for head in point.change.called[name].nonzero().flatten().tolist():
            marks[head] = mark
    return marks


def plain(text: str) -> str:
    """Text without what a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
