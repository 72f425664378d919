"""What Hydra and OmegaConf say of a mistyped word, as one line with the nearest right one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from difflib import get_close_matches

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from analysis.cli import nearest
from train.overrides import experiments, groups
from train.schema import StudyConfig


def in_one_line(error: Exception, kind: str, defaults: DictConfig) -> str:
    """What is wrong with a command line, of the error that composing it raised.

    Args:
        kind: of the run: sft, grpo or study.
        defaults: the configuration of that kind without any override, whose keys are the known.
    """
    text, cause = _first_line(error), error.__cause__
    if isinstance(error, MissingConfigException):
        return _no_option(error, kind)
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} can't be read: {text}"
    if ambiguous := re.match(r"Ambiguous value for argument '(([^=]+)=(.*))'", text):
        given, key, value = ambiguous.groups()
        return (
            f"{given} is several values; for a sweep add --multirun, for a list write "
            f"'{key}=[{value}]'"
        )
    if could_not := re.match(r"Could not override '([^']+)'", text):
        return _unknown(could_not[1], cause, defaults)
    if isinstance(error, AssertionError):  # OmegaConf's, which names no key
        return (
            f"a key lies below a part that is null here ({text}); choose what it belongs to first, "
            "as deepspeed=zero2, or an experiment with a study"
        )
    for broken in (error, cause):
        if isinstance(broken, ConfigKeyError) and broken.full_key:
            return _unknown(broken.full_key, cause, defaults)
        if isinstance(broken, OmegaConfBaseException) and broken.full_key:
            return f"{broken.full_key}: {_first_line(broken)}"
    return f"{text}: {_first_line(cause)}" if isinstance(cause, OmegaConfBaseException) else text


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _no_option(error: MissingConfigException, kind: str) -> str:
    """Of a group, of an experiment, or of a file that one of them asks for."""
    found = re.match(r"In '(.+?)': Could not find '(.+)'", _first_line(error))
    if found is None:  # the file that --config-name names
        return _first_line(error)
    file, missing = found.groups()
    where = "" if file == "config" else f"in conf/{file}.yaml: "
    group, _, option = missing.rpartition("/")
    if group.partition("/")[0] in ("experiment", "debug"):
        group, _, option = missing.partition("/")
    if group == "experiment":
        return where + _no_experiment(option, kind)
    if option.startswith("submitit"):
        return f"{group}={option} needs a package: pip install 'headlab[slurm]'"
    known = sorted({*groups().get(group, ()), *(error.options or ())})
    return f"{where}{group} has no option {option!r}; {nearest(option, known)}"


def _no_experiment(name: str, kind: str) -> str:
    kinds = experiments()
    if name in kinds:
        return f"experiment {name!r} is there for {', '.join(kinds[name])}, not for {kind}"
    known = [other for other, its_kinds in kinds.items() if kind in its_kinds]
    return f"no experiment {name!r}; {nearest(name, known)}"


def _unknown(key: str, cause: BaseException | None, defaults: DictConfig) -> str:
    """A key that is unknown, or known and not to be set here."""
    plain = OmegaConf.to_container(defaults)
    known = {*_keys(plain), *groups(), "experiment"}
    known |= {f"study.{field.name}" for field in fields(StudyConfig)}
    if key in known:
        return (
            f"{key} can't be set here: {_first_line(cause) if cause else 'there is no such part'}"
        )
    if key.startswith("hydra"):
        return f"unknown key {key!r}; those of Hydra: --cfg hydra"
    siblings = [name for name in known if name.count(".") == key.count(".")]
    near = get_close_matches(key, siblings, 1) or _same_end(key.rpartition(".")[2], known)
    hint = f"did you mean {' or '.join(near)}?" if near else "every key stands in conf/, see --help"
    return f"unknown key {key!r}; {hint}"


def _same_end(end: str, known: set[str]) -> list[str]:
    """The keys whose last part is nearest, as of `ig_step`, whose group was left out."""
    ends = {name.rpartition(".")[2] for name in known}
    near = get_close_matches(end, ends, 1)
    return sorted(name for name in known if name.rpartition(".")[2] in near)[:3]


def _keys(values: object, prefix: str = "") -> Iterator[str]:
    """The dotted names of all that a configuration holds."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield f"{prefix}{name}"
            yield from _keys(value, f"{prefix}{name}.")
