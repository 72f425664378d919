"""How a model is asked: as it is told to; where it is not, as the run asks whose checkpoint it is.

A checkpoint that is asked otherwise than it was trained scores otherwise, whatever it has learned.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from analysis.prompts.chat import Prompting
from analysis.records.checkpoints import Named
from analysis.records.run_file import RunFile, is_run


def own_prompting(model: Named, task: str | None = None) -> Prompting | None:
    """How a model's run asks (its `task`, where it is evaluated on that); None if none says it."""
    told = RunFile.read(model.run).prompting if model.run and is_run(model.run) else None
    if told is None:
        return None
    known = {field.name for field in fields(Prompting)}
    own = Prompting(**{name: value for name, value in told.items() if name in known})
    return replace(own, suffix=told["suffixes"].get(task, own.suffix))


def prompting_for(
    model: Named,
    system_prompt: str | None = None,
    suffix: str | None = None,
    think: str | None = None,
    task: str | None = None,
    default_suffix: str = "",
) -> Prompting:
    """How a model is asked. What is None is as in its run; without one, the suffix is the default.

    An empty system prompt or suffix is none.

    Raises:
        ValueError: think is neither on nor off, or the run's run.json can't be read.
    """
    asked = own_prompting(model, task) or Prompting(suffix=default_suffix)
    given: dict[str, Any] = {"system_prompt": system_prompt, "suffix": suffix, "think": think}
    return replace(asked, **{name: value for name, value in given.items() if value is not None})
