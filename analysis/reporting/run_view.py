"""A run in a notebook: its figures, its tables, or all of it.

view = read_run("runs/my-run")
view                     # in a notebook: curves, map and table
view.figure("map")       # one figure, of plotly
print(view.table())      # the checkpoints as text
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.trajectories.run import Run, checkpoint_rows

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FIGURES = {
    "curves": "what is followed over the checkpoints",
    "map": "layers x heads at each checkpoint, with a slider",
    "cohorts": "since when the heads of a circuit are in it",
    "faithfulness": "of the circuit at each checkpoint",
    "sensitivity": "of the counts to the size of the circuit and to the pairs",
    "routing": "of a mixture of experts: tokens whose experts changed, and the experts' loads",
}


@dataclass(frozen=True)
class RunView:
    """A run that is looked at. `run` holds its numbers."""

    run: Run

    def figure(self, name: str = "curves") -> Figure:
        """One of the figures of the report (see FIGURES).

        Raises:
            ValueError: there is no such figure, or nothing yet that it could show.
        """
        from analysis.reporting.figures.head_map import head_map
        from analysis.reporting.figures.routing import routing_chart, routings
        from analysis.reporting.figures.sensitivity import sensitivity_chart
        from analysis.reporting.figures.trajectory import (
            cohort_chart,
            faithfulness_chart,
            trajectory_chart,
        )

        draw = {
            "curves": trajectory_chart,
            "map": head_map,
            "cohorts": cohort_chart,
            "faithfulness": faithfulness_chart,
            "sensitivity": sensitivity_chart,
            "routing": routing_chart,
        }
        if name not in draw:
            near = get_close_matches(name, draw, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(draw)}"
            raise ValueError(f"there is no figure {name!r}; {hint}")
        checkpoint_rows(self.run)
        if name != "curves" and not self.run.points:
            raise ValueError(f"no head of {self.run.path} was tracked yet, so there is no {name}")
        if name == "routing" and not routings(self.run):
            raise ValueError(f"no checkpoint of {self.run.path} is known to have experts")
        return draw[name](self.run)

    def table(self) -> str:
        """The checkpoints as a table of text, with what its columns mean.

        Raises:
            ValueError: there is no checkpoint yet.
        """
        from analysis.reporting.tables import format_table

        return format_table(self.run)

    def show(self) -> None:
        """Curves, map and table in a notebook; the table only where there is no notebook."""
        try:
            from IPython import get_ipython
            from IPython.display import display
        except ImportError:
            inside = False
        else:
            inside = get_ipython() is not None
        if not inside:
            print(self.table())
            return
        display(self.figure("curves"))
        if self.run.points:
            display(self.figure("map"))
        display({"text/plain": self.table()}, raw=True)

    def _ipython_display_(self) -> None:
        self.show()


def read_run(path: str | Path) -> RunView:
    """A run to look at in a notebook.

    Raises:
        ValueError: the directory holds no run, or records that can't be read or compared.
    """
    return RunView(Run.read(path))
