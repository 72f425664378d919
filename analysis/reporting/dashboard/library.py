"""vis-network, which draws the circuit's graph in a page, from the package that carries it.

gravis brings the file for require.js; here it gets a `define` of its own, and the page a global
`vis`. The package is not imported, as only that file is needed.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, files

_START = "var vis = {};\n((require, define) => {\n"
_END = "\n})({defined: () => false}, (name, needs, fill) => fill(vis));\n"


@cache
def graph_library() -> str:
    """The script that defines `vis`, with its licence in its first lines.

    Raises:
        ValueError: gravis is not installed, or carries it no more.
    """
    try:
        found = files("gravis") or []
    except PackageNotFoundError:
        found = []
    for file in found:
        if file.name.startswith("vis-network") and file.suffix == ".js":
            text = file.read_text(encoding="utf-8").replace("</script", "<\\/script")
            return f"{_START}{text}{_END}"
    raise ValueError(
        "the report draws circuits with vis-network, which the package gravis carries, and that "
        "is not installed as it should be; pip install --force-reinstall gravis"
    )
