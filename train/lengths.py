"""What a trainer would cut, drop or never reach of its data, counted before a weight is loaded.

SFT cuts rows at train.args.max_length, and drops those whose prompt fills it (TRL 1.16,
SFTTrainer._prepare_dataset); packing cuts them too, unless it splits them. GRPO asks prompts that,
with train.args.max_completion_length, are longer than the model's context. More than data.max_lost
of the rows is an error, and so is a training without a step: GRPO leaves out, in each epoch, what
does not fill the prompts of one generation.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.prompts.chat import Prompting
from analysis.prompts.template import Message, render

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase
    from trl import GRPOConfig, SFTConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lost:
    """Rows longer than a limit in tokens, of all; `dropped`: those of which nothing is trained."""

    limit: int
    rows: int
    too_long: int
    dropped: int
    longest: int


def context_of(model_path: str) -> int | None:
    """The tokens that a model has positions for, where its configuration says it."""
    from analysis.models.configuration import context
    from analysis.models.loading import load_config

    return context(load_config(model_path))


def check_rows(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    ask: Prompting,
    args: SFTConfig | GRPOConfig,
    context: int | None,
    max_lost: float,
) -> None:
    """Say how many rows are too long, and how many steps the rest makes.

    Args:
        dataset: as the trainer gets it.
        context: tokens that the model has positions for; None: it states no number.
        max_lost: share of the rows that may be too long.

    Raises:
        ValueError: more rows are too long, or there is no step to train.
    """
    from trl import GRPOConfig

    if isinstance(args, GRPOConfig):
        lost = grpo_lost(dataset, tokenizer, ask, args, context)
        what, mend = (
            "prompts longer than {} tokens, which leave no room for the answer",
            ("lower train.args.max_completion_length"),
        )
    else:
        lost = sft_lost(dataset, tokenizer, ask, args)
        what, mend = (
            "rows longer than train.args.max_length={}",
            ("raise train.args.max_length (null: no limit)"),
        )
    said = [f"{len(dataset)} rows"]
    if lost is not None:
        what = what.format(lost.limit)
        _check_share(lost, what, mend, max_lost)
        said.append(f"{lost.too_long} {what}{f' ({lost.dropped} dropped)' if lost.dropped else ''}")
    said.append(steps_said(len(dataset) - (lost.dropped if lost else 0), args))
    log.info("training data: %s", "; ".join(said))


def _check_share(lost: Lost, what: str, mend: str, max_lost: float) -> None:
    if lost.dropped < lost.rows and lost.too_long <= max_lost * lost.rows:
        return
    share = math.ceil(lost.too_long / lost.rows * 100) / 100
    accept = f", or accept it with data.max_lost={share:g}" if lost.dropped < lost.rows else ""
    dropped = f", {lost.dropped} of them to be dropped" if lost.dropped else ""
    raise ValueError(
        f"of {lost.rows} rows of the training data {lost.too_long} are {what} (the longest has "
        f"{lost.longest} tokens{dropped}), and data.max_lost is {max_lost:g}; {mend}, leave these "
        f"rows out{accept}"
    )


def sft_lost(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, ask: Prompting, args: SFTConfig
) -> Lost | None:
    """Rows that SFT cuts or drops; None if it does neither."""
    limit = args.max_length
    if limit is None or (args.packing and args.packing_strategy != "bfd"):
        return None
    keeps_start = args.truncation_mode == "keep_start" and not args.packing
    masked = keeps_start and args.completion_only_loss is not False
    too_long = dropped = longest = 0
    for row, ids in _rows(dataset, tokenizer, ask, limit):
        longest = max(longest, len(ids))
        too_long += 1
        if masked and "prompt" in row:
            prompt = tokenizer(
                render(tokenizer, row["prompt"], True, day=ask.day), add_special_tokens=False
            ).input_ids
            dropped += prompt[:limit] == ids[:limit]
    return Lost(limit, len(dataset), too_long, dropped, longest)


def grpo_lost(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    ask: Prompting,
    args: GRPOConfig,
    context: int | None,
) -> Lost | None:
    """Prompts that leave too little of the context; none is dropped. None if there is no limit."""
    limits = [context, args.vllm_max_model_length if args.use_vllm else None]
    limit = min((found for found in limits if found is not None), default=None)
    if limit is None:
        return None
    room = limit - (args.max_completion_length or 1)
    if room < 1:
        raise ValueError(
            f"train.args.max_completion_length={args.max_completion_length} leaves no room for a "
            f"prompt in a context of {limit} tokens; lower it"
        )
    lengths = [len(ids) for _, ids in _rows(dataset, tokenizer, ask, room)]
    return Lost(room, len(dataset), len(lengths), 0, max(lengths, default=0))


def _rows(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, ask: Prompting, limit: int
) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """The rows of more than `limit` tokens, with their ids.

    A token covers a byte at least, but for a few that a tokenizer may begin with: what has fewer
    bytes is not encoded.
    """
    for row in dataset:
        generate, options = "completion" not in row and "messages" not in row, None
        talk: list[Message] = row["messages"] if "messages" in row else list(row["prompt"])
        if generate:
            options = ask.options(tokenizer)
        elif "messages" not in row:
            talk = [*talk, *row["completion"]]
        talk = [{k: v for k, v in message.items() if v is not None} for message in talk]
        text = render(tokenizer, talk, generate, options, ask.day)
        if len(text.encode()) + 8 <= limit:
            continue
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) > limit:
            yield row, ids


def steps_said(rows: int, args: SFTConfig | GRPOConfig) -> str:
    """The steps of an epoch of `rows` rows, over all processes, as text.

    Raises:
        ValueError: there is none.
    """
    from trl import GRPOConfig

    accumulated = args.gradient_accumulation_steps
    if isinstance(args, GRPOConfig):
        assert args.generation_batch_size and args.steps_per_generation and args.num_generations
        prompts = args.generation_batch_size // args.num_generations
        generations, left = divmod(rows, prompts)
        if not generations:
            raise ValueError(
                f"no step can be trained: a generation takes {prompts} prompts "
                f"({args.generation_batch_size} completions, {args.num_generations} of each), and "
                f"the training data have {rows}; lower train.args.per_device_train_batch_size or "
                "gradient_accumulation_steps, raise num_generations, or give more data"
            )
        micro = generations * args.steps_per_generation * args.num_iterations
        behind = f"; {left} prompts left out of each" if left else ""
        return f"{math.ceil(micro / accumulated)} steps an epoch{behind}"
    batch = args.train_batch_size * args.world_size
    if args.packing:
        return "packed"
    whole = args.dataloader_drop_last
    micro = rows // batch if whole else math.ceil(rows / batch)
    if not micro:
        raise ValueError(
            f"no step can be trained: {rows} rows are fewer than a batch of {batch}, and "
            "train.args.dataloader_drop_last drops what is less; leave it out, lower "
            "train.args.per_device_train_batch_size, or give more data"
        )
    return f"{math.ceil(micro / accumulated)} steps an epoch"
