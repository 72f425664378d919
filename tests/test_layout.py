"""The house: which folder may import which, and that a public name is never a module's name too."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.places import ROOT

# A folder of `analysis` imports from those on the lines above its own, and from itself.
FLOORS = (
    ("version", "mistakes", "ranges", "logs"),
    ("files", "intervals", "cli"),
    ("prompts",),
    ("models",),
    ("detection",),
    ("attribution",),
    ("circuits", "heads"),
    ("records",),
    ("tracking", "trajectories"),
    ("interventions", "reporting"),
    ("evaluation", "comparison"),
    ("live", "watch"),
    ("commands",),
)
FLOOR = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}


def imported(path: Path) -> Iterator[str]:
    """The modules of the project that a file imports, at any place in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                place = ROOT.joinpath(*whole.split("."))
                there = place.is_dir() or place.with_suffix(".py").is_file()
                yield whole if there else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def test_the_folders_of_analysis_import_downwards_only():
    wrong = []
    for path in files("analysis"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[1] in ("__init__", "__main__"):
            continue
        for module in imported(path):
            names = module.split(".")
            if names[0] != "analysis" or len(names) == 1 or names[1] == parts[1]:
                continue
            if FLOOR[names[1]] >= FLOOR[parts[1]]:
                wrong.append(f"{'/'.join(parts)} imports {module}")
    assert not wrong


def test_every_folder_of_analysis_has_its_place():
    there = {path.stem for path in (ROOT / "analysis").iterdir() if path.name[0] not in "_."}
    assert there - {"py"} == set(FLOOR)


@pytest.mark.parametrize(
    ("package", "above"), [("analysis", {"train", "launch"}), ("train", {"launch"})]
)
def test_the_packages_import_downwards_only(package, above):
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files(package)
        for module in imported(path)
        if module.split(".")[0] in above
    ]
    assert not wrong


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, at the top of the file or inside functions."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        todo = list(graph[start])
        while todo:
            if (module := todo.pop()) not in seen:
                seen.add(module)
                todo += graph.get(module, ())
        reach[start] = seen
    return [
        [a, b] for a in sorted(graph) for b in sorted(reach[a]) if a < b and a in reach.get(b, ())
    ]


def test_no_module_imports_itself_through_others():
    graph = {}
    for package in ("analysis", "train", "launch"):
        for path in files(package):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found = {module for module in imported(path) if module.split(".")[0] == parts[0]}
            graph[name] = found - {name}
    assert not circles(graph)


def packages() -> list[str]:
    found = ["analysis", "train", "launch"]
    for package in list(found):
        walked = pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
        found += [module.name for module in walked if module.ispkg]
    return found


@pytest.mark.parametrize("package", packages())
def test_no_public_name_is_a_module_too(package):
    """Else `import package.name` would put the module in the place of what the name was."""
    loaded = importlib.import_module(package)
    modules = {module.name for module in pkgutil.iter_modules(loaded.__path__)}
    public = {*getattr(loaded, "__all__", ())}
    public |= {
        name
        for name, value in vars(loaded).items()
        if name[0] != "_" and not inspect.ismodule(value)
    }
    assert not public & modules
