"""How a run asks, and the tokenizer that all it asks is written with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from analysis.files import short_hash
from analysis.models.loading import load_tokenizer
from analysis.prompts.benchmarks import BENCHMARKS, default_suffix
from analysis.prompts.chat import Prompting, on_off
from analysis.prompts.template import DAY
from analysis.records.run_file import RunFile
from train.config import plain
from train.data import prompting

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl import GRPOConfig, SFTConfig


def asks(cfg: DictConfig) -> Prompting:
    """How a run asks: in the prompts of its pairs and, where it is GRPO, in its rollouts.

    The answers of SFT are given, and so is whether they think.

    Raises:
        ValueError: evaluation.think is neither on nor off.
    """
    ask = dataclasses.replace(prompting(cfg.data), day=_told(Path(cfg.run_dir)).get("day", DAY))
    if cfg.train.kind != "grpo":
        return ask
    given = plain(cfg.train)["args"].get("chat_template_kwargs") or {}
    options = json.loads(given) if isinstance(given, str) else given
    return dataclasses.replace(
        ask, think=on_off("evaluation.think", cfg.evaluation.think), template_options=options
    )


def _told(run: Path) -> dict[str, Any]:
    """How a run that began before asks; nothing if there is none, or it is of before that was kept.

    A run.json that can't be read is written anew, so it is no error here.
    """
    try:
        return RunFile.read(run).prompting or {}
    except ValueError:
        return {}


def suffix_of(task: str, own: Prompting) -> str:
    """What is added to the questions of a task: the paper's for benchmarks, else the run's own."""
    return default_suffix(task) if task in BENCHMARKS else own.suffix


def prompting_of(cfg: DictConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """How a run asks where it is evaluated, as it stands in RUN/run.json.

    The fields of a `Prompting`, all of them; `suffixes` of the tasks that it is evaluated on;
    `template`, which tells its chat template from others.
    """
    ask = dataclasses.replace(asks(cfg), think=on_off("evaluation.think", cfg.evaluation.think))
    return {
        **dataclasses.asdict(ask),
        "suffixes": {task: suffix_of(task, ask) for task in cfg.evaluation.tasks},
        "template": short_hash(str(tokenizer.chat_template)),
    }


def check_same_prompting(run: Path, now: dict[str, Any]) -> None:
    """Refuse to go on with a run whose chat template, or what it is given, has changed.

    What else shapes its prompts is compared with the configuration (`check_same_run`).

    Raises:
        ValueError: naming what differs.
    """
    before = _told(run)
    if not before:
        return
    if before["template"] != now["template"]:
        raise ValueError(
            f"the run {run} was started with another chat template (of its model's tokenizer, or "
            "train.args.chat_template_path); restore it, or start a run under another name"
        )
    if (old := before["template_options"]) != (new := now["template_options"]):
        raise ValueError(
            f"the run {run} was started with train.args.chat_template_kwargs={old}, not {new}; "
            "restore it, or start a run under another name"
        )


def run_tokenizer(path: str, args: SFTConfig | GRPOConfig) -> PreTrainedTokenizerBase:
    """A model's tokenizer with the chat template and the end of text that the arguments name.

    All that a run renders is rendered with it. The template is taken out of the arguments: TRL
    would resize the embeddings for it.

    Raises:
        ValueError: there is no such template or token, or the template needs tokens of its own.
    """
    tokenizer = load_tokenizer(path)
    named = getattr(args, "chat_template_path", None)
    if named is not None:
        _take_template(tokenizer, path, named)
        args.chat_template_path = None  # type: ignore[union-attr]
    end = getattr(args, "eos_token", None)
    if end is not None:
        if end not in tokenizer.get_vocab():
            raise ValueError(
                f"train.args.eos_token is {end!r}, which is no token of {path}; its own is "
                f"{tokenizer.eos_token!r}"
            )
        tokenizer.eos_token = end
    return tokenizer


def _take_template(tokenizer: PreTrainedTokenizerBase, path: str, named: str) -> None:
    file = Path(named)
    if named.endswith((".jinja", ".j2")):
        if not file.is_file():
            raise ValueError(f"train.args.chat_template_path names {named}, which is no file")
        tokenizer.chat_template = file.read_text(encoding="utf-8")
        return
    source = load_tokenizer(named)
    known = tokenizer.get_vocab()
    new = [t.content for t in source.added_tokens_decoder.values() if t.content not in known]
    if new or not source.chat_template:
        what = f"has tokens that {path} has not ({new[0]} ...)" if new else "has no chat template"
        raise ValueError(
            f"train.args.chat_template_path names the tokenizer {named}, which {what}; give a "
            "template that needs no new tokens, as a .jinja file"
        )
    tokenizer.chat_template = source.get_chat_template()
    tokenizer.eos_token = source.eos_token
