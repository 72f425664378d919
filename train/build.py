"""The parts of a run, built from its configuration: arguments, adapters, pairs, held-out problems.

Nothing here loads a weight; a user's mistake is a ValueError that names the key.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import DictConfig

from analysis.files import read_json
from analysis.mistakes import one_line
from analysis.models import hub
from analysis.prompts.benchmarks import load_task, problems_for_pairs, slug
from analysis.prompts.chat import Prompting, on_off
from analysis.prompts.pair_building import answer_style_pairs, counterfactual_pairs
from analysis.prompts.pairs import Pairs
from analysis.prompts.problems import Problem, generate, spaceless
from analysis.prompts.row_files import file_of
from analysis.ranges import check_number
from analysis.tracking.further import beside, pairs_of_file, shortage
from analysis.tracking.settings import TrackingSettings
from train.arguments import LORA_RANGES, check_arguments, passed_on
from train.asking import asks, suffix_of
from train.config import plain, tracking_config
from train.data import columns_of, held_out_part, is_generator, is_same, load_problems
from train.sharding import check_config

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from peft import PeftConfig
    from transformers import PreTrainedTokenizerBase
    from trl import GRPOConfig, SFTConfig

log = logging.getLogger(__name__)

T = TypeVar("T", bound="DataclassInstance")


def construct(cls: type[T], values: dict[str, Any], key: str) -> T:
    """`cls(**values)`, with a misspelt name answered by the nearest right one.

    Raises:
        ValueError: a name is unknown, or the class refuses a value.
    """
    known = [f.name for f in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{key}.{name} is not an argument of {cls.__name__}{hint}")
    try:
        return cls(**values)
    except Exception as error:  # all that it does is to look at these values
        raise ValueError(f"{key}: {one_line(error)}") from error


def training_args(cfg: DictConfig) -> SFTConfig | GRPOConfig:
    """The SFTConfig or GRPOConfig of a run; without a GPU it computes in float32 on the CPU.

    Raises:
        ValueError: an argument is misspelt, refused (train/arguments.py), or wrong for its class.
    """
    import torch
    from trl import GRPOConfig, SFTConfig

    on_cpu: dict[str, Any] = {}
    if not torch.cuda.is_available():
        on_cpu = {"use_cpu": True, "bf16": False}
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed's import warns of it
    # ours first: what train.args says wins over it
    values = {**on_cpu, "output_dir": str(cfg.run_dir), "run_name": cfg.name, "seed": cfg.seed}
    config = plain(cfg.deepspeed)["config"]
    if config is not None:
        check_config(config)
        values["deepspeed"] = config
    given = plain(cfg.train.args)
    check_arguments(cfg.train.kind, given, SFTConfig if cfg.train.kind == "sft" else GRPOConfig)
    values |= passed_on(given, cfg.train.kind)
    values["model_init_kwargs"] = {
        "use_safetensors": True,
        **(values.get("model_init_kwargs") or {}),
    }
    args: SFTConfig | GRPOConfig
    if cfg.train.kind == "sft":
        args = construct(SFTConfig, values, "train.args")
    else:
        args = construct(GRPOConfig, values, "train.args")
    return args


def generation_cycle(args: SFTConfig | GRPOConfig) -> int:
    """Steps that GRPO takes with one generation of completions; 1 for SFT."""
    from trl import GRPOConfig

    if not isinstance(args, GRPOConfig):
        return 1
    assert args.steps_per_generation is not None, "GRPOConfig sets it where it was not given"
    cycle = args.steps_per_generation * args.num_iterations
    return int(max(1, cycle // args.gradient_accumulation_steps))


def tracking_settings(cfg: DictConfig) -> TrackingSettings | None:
    """The settings of head tracking, or None if it is off."""
    tracking = tracking_config(cfg)
    return tracking.settings() if tracking.enabled else None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What checkpoints are evaluated on: the held-out problems (task None) or a benchmark."""

    task: str | None
    problems: list[Problem]
    prompting: Prompting


def evaluations(cfg: DictConfig) -> list[Evaluation]:
    """Everything that checkpoints are evaluated on.

    Raises:
        ValueError: there is no such task, or no held-out part of the training's problems.
    """
    e = cfg.evaluation
    if not e.enabled:
        return []
    ask = dataclasses.replace(asks(cfg), think=on_off("evaluation.think", e.think))
    found = [Evaluation(None, held_out_problems(cfg), ask)] if e.held_out else []
    for task in e.tasks:
        if slug(task) in [other.task for other in found]:
            raise ValueError(f"evaluation.tasks has two tasks of the name {slug(task)}; rename one")
        problems = load_task(task, e.task_size, e.seed, {}, columns_of(cfg.data))
        asked = dataclasses.replace(ask, suffix=suffix_of(task, ask))
        found.append(Evaluation(slug(task), problems, asked))
    return found


def held_out_problems(cfg: DictConfig) -> list[Problem]:
    """The held-out part of the training's problems, or the problems that evaluation.source names.

    Another file is taken whole, in its order; what is more than evaluation.size is left out.

    Raises:
        ValueError: there are none.
    """
    e, data = cfg.evaluation, cfg.data
    if e.source and not is_same(e.source, data.source):
        if file_of(e.source) is not None:
            return load_task(e.source, None, e.seed, plain(e.options), columns_of(data))[: e.size]
        return generate(e.source, e.size, e.seed, "held_out", plain(e.options), distinct=True)
    if is_generator(data.source):
        options = plain(e.options if e.source else data.options)
        return generate(data.source, e.size, e.seed, "held_out", options, distinct=True)
    mend = (
        "set evaluation.source to another file (file:FILE) or a generator, "
        "or evaluation.held_out=false"
    )
    try:
        problems = load_problems(data, needs_solution=False, part="held_out")
    except ValueError as error:
        if data.messages_column is None:
            raise
        raise ValueError(f"{error}. Conversations have no held-out answers: {mend}") from error
    if not problems:
        raise ValueError(
            f"{data.source} has no row in its held-out part (every "
            f"{2 * data.held_out_every}th, by the hash of its question), so there is nothing to "
            f"evaluate on; {mend}, or data.held_out_every=2"
        )
    return random.Random(e.seed).sample(problems, min(e.size, len(problems)))


def model_of(cfg: DictConfig) -> str:
    """The model that is trained: model.path, with the revision of train.args.model_init_kwargs.

    Raises:
        ValueError: the two name different revisions, or a directory has one.
    """
    path, options = cfg.model.path, plain(cfg.train.args).get("model_init_kwargs") or {}
    name, said = hub.split(path)
    revision = options.get("revision")
    if revision is None or revision == said:
        return str(path)
    if said is not None:
        raise ValueError(
            f"model.path is {path!r} and train.args.model_init_kwargs.revision {revision!r}; "
            "give one of them"
        )
    if not hub.is_hub_name(path):
        raise ValueError(
            f"train.args.model_init_kwargs.revision is {revision!r}, and model.path {path!r} is a "
            "directory, which has no revisions; leave it out"
        )
    return hub.join(name, str(revision))


def peft_config(cfg: DictConfig) -> PeftConfig | None:
    """A LoraConfig, or None.

    Raises:
        ValueError: an argument is misspelt, or gives adapters that can't be measured or read again.
    """
    if cfg.peft.method == "none":
        return None
    from peft import LoraConfig

    from analysis.models.adapters import check_served

    values = {"task_type": "CAUSAL_LM", **plain(cfg.peft.args)}
    if values["task_type"] != "CAUSAL_LM" or values.get("inference_mode"):
        raise ValueError("peft.args: task_type is CAUSAL_LM and inference_mode false in a training")
    for name, allowed in LORA_RANGES.items():
        check_number(f"peft.args.{name}", values.get(name), allowed)
    config = construct(LoraConfig, values, "peft.args")
    check_served(config, "peft.args")
    return config


def _pair_problems(cfg: DictConfig, wanted: int) -> list[Problem]:
    """Problems for pairs: of their own source (generator, file or benchmark), else of the data.

    Of the data they are of the part that is for pairs; distinct ones, and fewer than are wanted
    where it has no more.

    Raises:
        ValueError: there are none.
    """
    p, data = cfg.pairs, cfg.data
    templates = p.clean_start + p.corrupted_start + p.prefix
    needs_solution = p.cut_solution_after is not None or "{solution}" in templates
    if p.source is not None and not is_same(p.source, data.source):
        columns = columns_of(data)
        return problems_for_pairs(
            p.source, wanted, p.seed, plain(p.options), columns, needs_solution
        )
    if is_generator(data.source):
        options = plain(p.options if p.source else data.options)
        return generate(data.source, wanted, p.seed, "pairs", options, distinct=True, or_fewer=True)
    problems = held_out_part(data, needs_solution, "pairs")
    if not problems:
        raise ValueError(
            f"{data.source} has no row in its part for pairs (every {2 * data.held_out_every}th, "
            "by the hash of its question); set pairs.source (a file or a generator), "
            "tracking=none, or data.held_out_every=2"
        )
    return random.Random(p.seed).sample(problems, min(wanted, len(problems)))


def build_pairs(cfg: DictConfig, tokenizer: PreTrainedTokenizerBase) -> Pairs:
    """The pairs that a configuration describes."""
    p, times = cfg.pairs, cfg.tracking.base_pairs if cfg.tracking.enabled else 1
    if p.kind == "file":
        found = pairs_of_file(Path(p.path), tokenizer, cfg.tracking.metric, times)
        if said := shortage(found, times):
            log.info("%s; more are looked for in %s", said, beside(Path(p.path)))
        return found
    ask = asks(cfg)
    wanted, of_one = (p.size, 1) if p.kind == "answer_style" else (50 * p.size, 10)
    problems = _pair_problems(cfg, wanted)
    further = _further_problems(cfg, problems, wanted + of_one * (times - 1) * p.size)
    if p.kind == "answer_style":
        starts = (p.clean_start, p.corrupted_start)
        if len(problems) < p.size:
            log.warning(
                "only %d distinct problems for %d pairs (pairs.size); widen the options of their "
                "source, or set pairs.source to one that has more",
                *(len(problems), p.size),
            )
        found = answer_style_pairs(
            tokenizer, [*problems, *further], ask, *starts, p.prefix_tokens
        ).split(len(problems))
    else:
        found = counterfactual_pairs(
            *(tokenizer, [*problems, *further], ask, times * p.size, p.prefix),
            *(p.cut_solution_after, p.size),
        ).split(p.size)
    if said := shortage(found, times):
        log.info(said)
    return found


def _further_problems(cfg: DictConfig, problems: list[Problem], wanted: int) -> list[Problem]:
    """More of the same source, as many as there are of `wanted` in all, beyond those given."""
    if wanted <= len(problems):
        return []
    asked = {spaceless(problem.question) for problem in problems}
    more = _pair_problems(cfg, wanted)
    return [problem for problem in more if spaceless(problem.question) not in asked]


def run_pairs(cfg: DictConfig, tokenizer: PreTrainedTokenizerBase) -> Pairs:
    """The pairs of a run: of one that goes on, those it has saved, which its records are of.

    Its configuration is the same by then (`check_same_run`). A file of pairs is read again.

    Raises:
        ValueError: they can't be made, or the saved ones were changed.
    """
    run = Path(cfg.run_dir)
    saved, about = run / "pairs.jsonl", run / "pairs.json"
    goes_on = (run / "config.yaml").exists() and saved.exists() and about.exists()
    if not goes_on or cfg.pairs.kind == "file":
        return build_pairs(cfg, tokenizer)
    pairs = Pairs.load(saved)
    if pairs.hash != read_json(about, dict[str, Any]).get("hash"):
        raise ValueError(
            f"{saved} was changed since the run was started: its hash is {pairs.hash}, not that in "
            f"{about.name}; restore it, or start a run under another name"
        )
    return pairs
