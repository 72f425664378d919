"""The runs below a directory, read again only when their files have changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.records.run_file import is_run
from analysis.reporting.dashboard.columns import columns
from analysis.reporting.dashboard.form import Column, Tile
from analysis.reporting.dashboard.tiles import tiles
from analysis.trajectories.run import Run
from analysis.trajectories.trajectory import Known
from analysis.watch.states import state_of

# what a run's numbers are in, and how many folders deep
FILES = {
    **{"run.json": 0, "metrics.jsonl": 0, "base.json": 0},
    **{"heads": 2, "evaluations": 4, "needed": 1, "roles": 1, "patterns": 1},
}
DEPTH = 2  # of runs in folders of runs

Mark = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Seen:
    """A run as it was found.

    state: see analysis/watch/states.py. run: None while it can't be read; why: the reason. columns,
    tiles: its figures, as on the page (analysis/reporting/dashboard/form.py). mark: of the files
    that it was read from; another mark is another content.
    """

    path: Path
    name: str
    state: str
    run: Run | None
    why: str
    mark: Mark
    columns: dict[str, Column]
    tiles: list[Tile]

    @property
    def step(self) -> int:
        """The last that was logged or tracked; 0 where none was, or the run can't be read."""
        if self.run is None:
            return 0
        steps = [row.step for row in self.run.rows] + [step for step, _ in self.run.logged[-1:]]
        return max(steps, default=0)

    @property
    def figures(self) -> list[str]:
        """The tiles as they are now: score, heads in the circuit, called ones, faithfulness."""
        return [tile["value"][-1] if tile["value"] else "-" for tile in self.tiles]

    @property
    def changed(self) -> int:
        """When a file of the run was last changed, in ns since 1970; 0 where there is none."""
        return max((time for _, time, _ in self.mark), default=0)


class Listing:
    """The runs of a directory: itself, or those in it. `look` as often as one likes."""

    def __init__(self, root: str | Path) -> None:
        """
        Raises:
            ValueError: there is no such directory.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"there is no directory {root}; give that of a run, or of several")
        self._seen: dict[Path, Seen] = {}
        self._known: dict[Path, Known] = {}

    def look(self) -> list[Seen]:
        """The runs as they are now, by name; those whose files are as they were are not read."""
        found = {path: self._look_at(path) for path in run_directories(self.root)}
        self._known = {path: known for path, known in self._known.items() if path in found}
        self._seen = found
        return list(found.values())

    def _look_at(self, path: Path) -> Seen:
        before, state, mark = self._seen.get(path), state_of(path), mark_of(path)
        if before is not None and before.mark == mark:
            return replace(before, state=state)
        name = str(path.relative_to(self.root)) if path != self.root else path.resolve().name
        try:
            run = Run.read(path, self._known.setdefault(path, {}))
        except ValueError as error:
            return Seen(path, name, state, None, str(error), mark, {}, [])
        except OSError as error:  # a file went while it was read; the next look sees another mark
            why = f"{error.strerror or error}: {error.filename}"
            return Seen(path, name, state, None, why, mark, {}, [])
        found = columns(run)
        return Seen(path, name, state, run, "", mark, found, tiles(run, found))


def run_directories(root: Path, depth: int = DEPTH) -> list[Path]:
    """A run itself, or the runs in a folder and in its folders, by name; hidden ones are left."""
    if is_run(root):
        return [root]
    if depth == 0:
        return []
    try:
        inside = sorted(p for p in root.iterdir() if p.name[0] != "." and p.is_dir())
    except OSError:  # it went, or is not ours to read
        return []
    return [run for folder in inside for run in run_directories(folder, depth - 1)]


def mark_of(run: Path) -> Mark:
    """Names, times and sizes of the files that a run is read from."""
    return tuple(_marks(run))


def _marks(run: Path) -> Iterator[tuple[str, int, int]]:
    for name, depth in FILES.items():
        yield from _stat(run / name, depth)


def _stat(path: Path, depth: int) -> Iterator[tuple[str, int, int]]:
    try:
        found = path.stat()
        yield path.name, found.st_mtime_ns, found.st_size
        if depth and path.is_dir():
            for inside in sorted(path.iterdir()):
                yield from _stat(inside, depth - 1)
    except OSError:  # not there, or gone between two looks
        return
