"""The command line that train.sft, train.grpo, launch and study share: Hydra, and an instant help.

Overrides are those of Hydra with two shorthands (train/overrides.py). A mistyped word is one line
that names the nearest right one (train/mistakes.py), with status 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from analysis.cli import is_answered, table, wrapped
from analysis.logs import quiet_libraries
from train.overrides import CONF, expand_overrides, experiments, groups, kind_of, sort_words

if TYPE_CHECKING:
    from omegaconf import DictConfig

KEYS = """\
Every key stands in conf/ under a comment with its command. Arguments of TRL, PEFT and DeepSpeed: \
train.args.NAME=VALUE, peft.args.NAME=VALUE, deepspeed.config.NAME=VALUE."""
OPTIONS = {
    "--cfg job --resolve": "print the composed configuration and stop",
    "--multirun": "run every combination of comma-separated values",
    "--hydra-help": "Hydra's own options",
}


class PointFailed(Exception):
    """A point of a sweep did not succeed; the sweep goes on with the others and then fails."""


def help_text(usage: str) -> str:
    """What `--help` prints."""
    options = {name: ", ".join(values) for name, values in groups().items()}
    known = (f"{name} ({', '.join(kinds)})" for name, kinds in experiments().items())
    options["experiment"] = ", ".join(known)
    parts = [wrapped(usage), "Groups:", table({f"{n}=": options[n] for n in sorted(options)})]
    return "\n\n".join([*parts, wrapped(KEYS), table(OPTIONS)])


def compose(kind: str, overrides: list[str]) -> DictConfig:
    """The configuration of a run, as its command line composes it.

    Raises:
        ValueError: in one line, what is wrong with an override.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from train.config import check_schema, settle

    try:
        cfg = _compose(expand_overrides(overrides, kind))
        check_schema(cfg)
        settle(cfg)
        return cfg
    except (HydraException, OmegaConfBaseException, AssertionError) as error:
        raise ValueError(_in_one_line(error, kind)) from error


def _compose(words: list[str]) -> DictConfig:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from train.config import register

    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", words)


def _in_one_line(error: Exception, kind: str) -> str:
    from hydra.core.global_hydra import GlobalHydra

    from train.mistakes import in_one_line

    GlobalHydra.instance().clear()
    known = kind if kind in ("sft", "grpo") else "sft"
    return in_one_line(error, kind, _compose([f"train={known}"]))


def start(
    kind: str | None,
    action: Callable[[DictConfig], None],
    usage: str,
    arguments: list[str],
) -> None:
    """Compose the configuration from a command line and run an action on it.

    `usage` (the entry module's docstring) heads the help.

    Raises:
        SystemExit: with status 2, the command line is wrong; with 1, a point of a sweep failed.
    """
    if is_answered(arguments, lambda: help_text(usage)):
        return
    try:
        overrides, options = sort_words(arguments)
    except ValueError as error:
        _refuse(str(error))
    sys.argv[1:] = [*expand_overrides(overrides, kind), *options]
    try:
        _run(kind_of(overrides, kind), action)
    except PointFailed as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(1)


def _refuse(reason: str) -> NoReturn:
    print(f"error: {reason}", file=sys.stderr, flush=True)
    sys.exit(2)


class _Raised(Exception):
    """Carries what the action has raised past those who mend the errors of composing."""


def _run(kind: str, action: Callable[[DictConfig], None]) -> None:
    """Run an action under Hydra."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from train.config import check_schema, register, settle

    def act(cfg: DictConfig) -> None:
        quiet_libraries()
        try:
            check_schema(cfg)
            settle(cfg)
        except OmegaConfBaseException as error:
            _refuse(_in_one_line(error, kind))
        except ValueError as error:
            _refuse(str(error))
        with _full_errors(False):
            try:
                action(cfg)
            except Exception as error:
                raise _Raised from error

    act.__module__ = f"headlab.{kind}"  # Hydra and its launchers name the job after it
    register()
    asked = os.environ.get("HYDRA_FULL_ERROR") == "1"
    decorate = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    failure: BaseException | None = None
    try:
        with _full_errors(True):
            decorate(act)()
    except _Raised as error:
        failure = error.__cause__
    except (HydraException, OmegaConfBaseException, AssertionError, ValueError) as error:
        if asked:
            raise
        _refuse(_in_one_line(error, kind))
    if failure is not None:
        raise failure


@contextmanager
def _full_errors(wanted: bool) -> Iterator[None]:
    """Hydra raises its errors inside, instead of printing them and ending the process."""
    before = os.environ.pop("HYDRA_FULL_ERROR", None)
    if wanted:
        os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before
