"""What a run needs, checked and built before any weight is loaded: `prepare`, then `assemble`.

`prepare` does all that can fail for a user's mistake and needs no model; `assemble` finds or builds
the model's files. train/run.py trains with the two.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from analysis.live.compat import unsharded_loading
from analysis.models import hub
from analysis.models.loading import adapter_base, check_weights
from analysis.prompts.chat import Prompting
from analysis.prompts.pairs import Pairs
from analysis.records.checkpoints import Base
from analysis.records.secrets import redact
from analysis.tracking.settings import TrackingSettings
from train.arguments import check_rewards
from train.asking import asks, check_same_prompting, prompting_of, run_tokenizer
from train.beforehand import (
    check_adapter,
    check_model,
    check_optimizer,
    check_tokens,
    check_vllm,
)
from train.build import (
    Evaluation,
    evaluations,
    model_of,
    peft_config,
    run_pairs,
    tracking_settings,
    training_args,
)
from train.checkpoints import check_processes, is_finished, last_to_go_on_from
from train.config import check, plain
from train.data import draws_held_out, grpo_dataset, sft_dataset
from train.inputs import check_inputs
from train.lengths import check_rows, context_of
from train.overlap import apart, check_overlap
from train.recipes.registry import build_recipe
from train.resuming import check_same_run, is_begun, saved_settings
from train.rewards import find_rewards
from train.rollouts import ask_alike
from train.rows import fit_rows
from train.sharding import alone, leave
from train.states import check_states

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import PreTrainedTokenizerBase
    from trl import GRPOConfig, SFTConfig


@dataclass(frozen=True)
class Plan:
    """Everything a run needs, checked, with no weight loaded yet."""

    cfg: DictConfig
    run: Path
    args: SFTConfig | GRPOConfig
    dataset: Dataset
    rewards: list[Callable[..., list[float]]]
    peft: PeftConfig | None
    tracking: TrackingSettings | None
    evaluations: list[Evaluation]
    checkpoint: Path | None
    keep: int | None  # checkpoints
    world: ExitStack  # to be closed after the run: leaves what was set up for DeepSpeed, if it was


@dataclass(frozen=True)
class Setup:
    """What a run takes from its model before the weights are loaded."""

    base: Base
    source: str  # the directory with its files
    tokenizer: PreTrainedTokenizerBase
    ask: Prompting
    dataset: Dataset  # the plan's, as the chat template lets it be rendered, apart from the pairs
    evaluations: list[Evaluation]  # the plan's, apart from the pairs
    pairs: Pairs | None

    @property
    def parts(self) -> dict[str, int]:
        """The sizes of the three parts of the problems, in which no question is twice."""
        held_out = next((e.problems for e in self.evaluations if e.task is None), [])
        sizes = {"training rows": len(self.dataset), "held-out problems": len(held_out)}
        if self.pairs is None:
            return sizes
        return {"pairs": len(self.pairs), "distinct pairs": self.pairs.n_distinct, **sizes}


def prepare(cfg: DictConfig) -> Plan:
    """Check a configuration and build all that needs no weights.

    Raises:
        ValueError: saying what is wrong and how to mend it.
    """
    # what can be wrong in the settings themselves
    check(cfg)
    run = Path(cfg.run_dir)
    tracking = tracking_settings(cfg)
    rewards = []
    if cfg.train.kind == "grpo":
        rewards = find_rewards(list(cfg.train.rewards))
        check_rewards(list(cfg.train.rewards), cfg.train.args.get("reward_weights"))
    with ExitStack() as world:
        if cfg.deepspeed.config is not None and alone():
            world.callback(leave)
        args = training_args(cfg)
        keep, args.save_total_limit = args.save_total_limit, None  # train/keeper.py sees to it
        check_optimizer(args)
        check_vllm(args)
        if cfg.model.path is not None:
            assert not isinstance(args.model_init_kwargs, str), "training_args makes it a mapping"
            check_model(model_of(cfg), args.model_init_kwargs, tracking is not None)
        # what a run that is resumed must have in common with the one that was started
        checkpoint = checkpoint_to_resume(cfg, args) if is_begun(run) else None
        dataset = (sft_dataset if cfg.train.kind == "sft" else grpo_dataset)(
            cfg.data, "train" if draws_held_out(cfg) else "all"
        )
        evaluated = check_overlap(dataset, evaluations(cfg), cfg.data.suffix)
        return Plan(
            cfg=cfg,
            run=run,
            args=args,
            dataset=dataset,
            rewards=rewards,
            peft=peft_config(cfg),
            tracking=tracking,
            evaluations=evaluated,
            checkpoint=checkpoint,
            keep=keep,
            world=world.pop_all(),
        )


def checkpoint_to_resume(cfg: DictConfig, args: SFTConfig | GRPOConfig) -> Path | None:
    """The checkpoint that a run goes on from; None if it has none yet.

    Raises:
        ValueError: the run could not go on as the same run.
    """
    run = Path(cfg.run_dir)
    if (saved := saved_settings(run)) is not None:
        check_same_run(saved, redact(plain(cfg)))
    if os.environ.get("RANK", "0") == "0":
        check_inputs(run, cfg)
    checkpoint = last_to_go_on_from(run, args)
    if checkpoint is None or is_finished(checkpoint, args):
        return checkpoint
    check_processes(checkpoint, args.world_size)
    check_states(checkpoint)
    if getattr(args, "sync_ref_model", False):
        raise ValueError(
            f"{run} can't go on as the same run: the reference model, which "
            "train.args.sync_ref_model has moved, is in no checkpoint; start another run"
        )
    return checkpoint


def assemble(plan: Plan) -> Setup:
    """Find or build the model, read its tokenizer, and make the pairs; no weights are loaded yet.

    Raises:
        ValueError: the model can't be had, its files (or those of the checkpoint to go on from) do
            not hold just its tensors, its chat template does not write the rows of the data, or the
            pairs can't be made of the problems.
    """
    import datasets
    import torch
    import transformers
    from accelerate import PartialState
    from trl import GRPOConfig

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()  # of loading and saving; the trainer's stays
    cfg = plan.cfg
    if cfg.resources.threads is not None:
        torch.set_num_threads(cfg.resources.threads)
    with PartialState().main_process_first():
        recipe = cfg.model.recipe
        model_path = model_of(cfg) if recipe is None else str(build_recipe(recipe, cfg.model.seed))
        base = pin(plan, model_path)
        source = str(hub.place(base.pinned, weights=True)) if base.commit else base.path
    if adapter_base(source) is not None:
        raise ValueError(
            f"model.path {model_path!r} is an adapter, and training starts from a whole model; "
            "merge it into its base with PEFT (merge_and_unload) and save that"
        )
    with unsharded_loading():
        check_weights(source)
        if plan.checkpoint is not None:
            check_weights(plan.checkpoint, source)
    tokenizer = run_tokenizer(base.pinned, plan.args)
    check_tokens(tokenizer, source, plan.args)
    if plan.peft is not None:
        with unsharded_loading():
            check_adapter(plan.peft, source)
    check_same_prompting(plan.run, prompting_of(cfg, tokenizer))
    ask = asks(cfg)
    if isinstance(plan.args, GRPOConfig):
        ask_alike(plan.args, tokenizer, ask)
    dataset = fit_rows(plan.dataset, tokenizer, ask, plan.args)
    check_rows(dataset, tokenizer, ask, plan.args, context_of(source), cfg.data.max_lost)
    pairs = run_pairs(cfg, tokenizer) if plan.tracking is not None else None
    evaluations = plan.evaluations
    if pairs is not None:
        dataset, evaluations = apart(dataset, evaluations, pairs, tokenizer, ask)
    return Setup(base, source, tokenizer, ask, dataset, evaluations, pairs)


def pin(plan: Plan, model_path: str) -> Base:
    """The model that training starts from, of the hub at one commit.

    A run that is resumed stays at the commit that it began with, wherever the branch is now.

    Raises:
        ValueError: the model can't be had.
    """
    begun = Base.read(plan.run)
    if begun is not None and begun.path == model_path and begun.commit is not None:
        return begun
    commit = hub.commit_of(model_path)
    return Base(model_path, "float32", commit)
