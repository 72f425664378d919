"""The steps of a study: commands of analysis, their options filled in from a configuration."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from analysis.cli import keys, parse, read_value
from analysis.commands import command_module

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from omegaconf import DictConfig

COMMANDS = ("track", "think", "compare", "evaluate")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Step:
    """One command; `options` may hold placeholders of things that are not made yet."""

    name: str
    command: str
    options: dict[str, Any]

    @property
    def used(self) -> set[str]:
        """The placeholders in its options."""
        return set(_PLACEHOLDER.findall(json.dumps(self.options)))

    def words(self, places: Mapping[str, str]) -> list[str]:
        """Its key=value arguments, without those that equal the command's defaults."""
        defaults = {name: default for name, default, _ in keys(self.module.Options)}
        filled = dict(_flat(fill(self.options, places), defaults))
        return [
            f"{name}={_text(value)}"
            for name, value in filled.items()
            if name not in defaults or defaults[name] != value
        ]

    @property
    def module(self) -> ModuleType:
        return command_module(self.command)

    def parse(self, places: Mapping[str, str]) -> DataclassInstance:
        """The options of its command.

        Raises:
            ValueError: naming the step.
        """
        try:
            return parse(self.module.Options, self.words(places))
        except ValueError as error:
            raise ValueError(f"study.steps.{self.name}: {error}") from error

    def check(self, options: DataclassInstance) -> None:
        """All that its command can say of its options before it runs, where it can.

        Raises:
            ValueError: naming the step.
        """
        try:
            getattr(self.module, "check", lambda options: None)(options)
        except ValueError as error:
            raise ValueError(f"study.steps.{self.name}: {error}") from error

    def line(self, places: Mapping[str, str]) -> str:
        """The command that runs only this step."""
        return shlex.join(["headlab", self.command, *self.words(places)])


def fill(value: object, places: Mapping[str, str]) -> Any:
    """A value with its placeholders filled in; those not in `places` stay.

    >>> fill({"run": "{base}/{step}", "size": 8}, {"step": "a"})
    {'run': '{base}/a', 'size': 8}
    """
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda found: places.get(found[1], found[0]), value)
    if isinstance(value, list):
        return [fill(entry, places) for entry in value]
    if isinstance(value, dict):
        return {name: fill(entry, places) for name, entry in value.items()}
    return value


def _flat(options: dict[str, Any], known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Options with dotted keys for the nested parts of a schema; other mappings are values."""
    for name, value in options.items():
        if isinstance(value, dict) and name not in known:
            yield from ((f"{name}.{inner}", entry) for inner, entry in value.items())
        else:
            yield name, value


def _text(value: object) -> str:
    """A value as the command line reads it."""
    if isinstance(value, str) and read_value(value) == value:
        return value
    return json.dumps(value)


def steps_of(cfg: DictConfig) -> list[Step]:
    """The steps of a study, those over tasks once for each task.

    Raises:
        ValueError: there is no such command, or a step needs tasks and there are none.
    """
    from analysis.live.keywords import one_of
    from train.config import plain

    study = plain(cfg)["study"]
    for command in study["defaults"]:
        one_of("study.defaults", command, COMMANDS)
    found = []
    for name, step in study["steps"].items():
        one_of(f"study.steps.{name}.command", step["command"], COMMANDS)
        options = {**study["defaults"].get(step["command"], {}), **step["options"]}
        measured = _tracking(step["command"], plain(cfg.tracking))
        if measured:
            options["tracking"] = {**measured, **options.get("tracking", {})}
        found += _over_tasks(Step(name, step["command"], options), study["tasks"])
    if not found:
        raise ValueError("study.steps is empty; choose a study, as experiment=paper/distilled")
    return found


def _tracking(command: str, group: dict[str, Any]) -> dict[str, Any]:
    """The settings of the group `tracking` that a command has."""
    schema = command_module(command).Options
    names = [name.partition(".")[2] for name, *_ in keys(schema) if name.startswith("tracking.")]
    return {name: group[name] for name in names}


def _over_tasks(step: Step, tasks: list[str]) -> list[Step]:
    from analysis.prompts.benchmarks import slug

    if "task" not in step.used:
        return [Step(step.name, step.command, fill(step.options, {"step": step.name}))]
    if not tasks:
        raise ValueError(f"study.steps.{step.name} is over tasks; name some: study.tasks=[aime24]")
    named = [(f"{step.name}-{slug(task)}", task) for task in tasks]
    return [
        Step(name, step.command, fill(step.options, {"step": name, "task": task}))
        for name, task in named
    ]
