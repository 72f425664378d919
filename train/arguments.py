"""Which arguments of TRL's trainers a run takes: their types and numbers, and what is refused.

`train.args` reaches every argument of SFTConfig and GRPOConfig. Some of these headlab sees to
itself, or can't serve: they are refused by name, with what to write instead, rather than overridden
or ignored. Decided for all arguments of TRL 1.16.0 and transformers 5.23.0; the test goes over
their lists, so that one which is new is decided too.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.ranges import (
    COUNT,
    NATURAL,
    PART,
    PORT,
    POSITIVE,
    SEED,
    Range,
    check_number,
)

FROM_0_BELOW_1 = Range(0, 1, "[)")
CLOSED = Range(0, 1)
ANY = Range()
_BY_RANGE: dict[Range, str] = {
    COUNT: "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps "
    "max_length save_total_limit ddp_timeout ddp_bucket_cap_mb dataloader_prefetch_factor "
    "num_iterations steps_per_generation generation_batch_size num_generations_eval "
    "max_completion_length ref_model_sync_steps torch_empty_cache_steps vllm_tensor_parallel_size "
    "vllm_max_model_length dataset_num_proc pad_to_multiple_of eval_accumulation_steps "
    "num_completions_to_print max_tool_calling_iterations",
    Range(2): "num_generations",
    NATURAL: "learning_rate weight_decay max_grad_norm warmup_steps dataloader_num_workers "
    "neftune_noise_alpha beta top_k eval_delay epsilon epsilon_high delta adam_epsilon "
    "off_policy_mask_threshold router_aux_loss_coef vllm_importance_sampling_cap "
    "vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min",
    POSITIVE: "num_train_epochs save_steps logging_steps eval_steps temperature repetition_penalty "
    "vllm_server_timeout sapo_temperature_neg sapo_temperature_pos vespo_k_neg vespo_k_pos "
    "vespo_lambda_neg vespo_lambda_pos",
    FROM_0_BELOW_1: "adam_beta1 adam_beta2 label_smoothing_factor",
    PART: "top_p vllm_gpu_memory_utilization",
    CLOSED: "min_p ref_model_mixup_alpha top_entropy_quantile",
    PORT: "vllm_server_port vllm_group_port",
    SEED: "seed data_seed",
    Range(1, also=(-1,)): "max_steps",
    Range(-1): "local_rank",
    ANY: "entropy_coef entropy_coef_delta entropy_coef_max entropy_coef_min entropy_target",
}
RANGES = {name: allowed for allowed, names in _BY_RANGE.items() for name in names.split()}
LORA_RANGES = {"r": COUNT, "lora_alpha": POSITIVE, "lora_dropout": FROM_0_BELOW_1}

# words that TRL would find wrong when the weights are there already, or in the first step
CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "sft": {
        "loss_type": ("nll", "dft"),
        "packing_strategy": ("bfd", "bfd_split", "wrapped"),
        "truncation_mode": ("keep_start", "keep_end"),
    },
    "grpo": {
        "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "luspo", "sapo", "vespo"),
        "importance_sampling_level": ("token", "sequence"),
        "scale_rewards": ("group", "batch", "none"),
        "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
        "vllm_mode": ("colocate", "server"),
        "vllm_importance_sampling_mode": (
            *("token_mask", "token_truncate", "sequence_mask", "sequence_truncate"),
        ),
    },
}


@dataclass(frozen=True)
class Instead:
    """What to write instead of an argument. harmless: its values that ask for nothing.

    kind: the trainer of which this is said; None: both.
    """

    text: str
    harmless: tuple[object, ...] = ()
    kind: str | None = None


_EVALUATION = "checkpoints are evaluated as the group evaluation says (evaluation.size=100)"
_HUB = "nothing is uploaded; do it afterwards with `hf upload NAME RUN/checkpoint-STEP`"
_BEST = "no checkpoint is chosen by the trainer; the report shows which one scores best"
_SAVING = (
    "a run is tracked, evaluated and resumed by its checkpoints, so the choice is steps (with "
    "train.args.save_steps) or epoch; save_steps above the last step saves the end only"
)
_WANDB = "write logger=wandb or logger=none (logger.wandb_mode, logger.wandb_project)"
_SHARDING = "whole checkpoints are written under DeepSpeed: deepspeed=zero3"
_GRPO = "GRPO ignores it; leave it out"
_RESUME = "a resumed run would not be the same; leave it out"

REFUSED: dict[str, Instead] = {
    # what headlab says itself
    "output_dir": Instead("write run_dir=DIR"),
    "run_name": Instead("write name=NAME"),
    "seed": Instead("write seed=NUMBER"),
    "resume_from_checkpoint": Instead("write resume=auto", (None,)),
    "deepspeed": Instead(
        "write deepspeed=zero1, zero2, zero3 or zero3_offload and deepspeed.config.NAME=VALUE; a "
        "JSON file: train.args.deepspeed=FILE",
        (None,),
    ),
    "report_to": Instead(_WANDB, (None, "none", [], ["none"])),
    "project": Instead(_WANDB, ("huggingface",)),
    "trackio_space_id": Instead(_WANDB, (None,)),
    "trackio_bucket_id": Instead(_WANDB, (None,)),
    "trackio_static_space_id": Instead(_WANDB, (None, False)),
    "logging_dir": Instead("logs are in RUN/metrics.jsonl and in W&B", (None,)),
    "overwrite_output_dir": Instead("remove the directory, or write name=NAME", (False,)),
    "do_train": Instead("a training trains; leave it out", (True,)),
    "local_rank": Instead("the launcher says it: headlab launch, or torchrun", (-1,)),
    # evaluation, and what hangs on it
    "do_eval": Instead(_EVALUATION, (False,)),
    "do_predict": Instead(_EVALUATION, (False,)),
    "eval_strategy": Instead(_EVALUATION, ("no", False)),
    "eval_steps": Instead(_EVALUATION, (None,)),
    "eval_delay": Instead(_EVALUATION, (None, 0)),
    "eval_on_start": Instead("step 0 is evaluated in any case; leave it out", (False,)),
    "eval_accumulation_steps": Instead(_EVALUATION, (None,)),
    "eval_do_concat_batches": Instead(_EVALUATION, (True,)),
    "eval_use_gather_object": Instead(_EVALUATION, (False,)),
    "eval_packing": Instead(_EVALUATION, (None,)),
    "per_device_eval_batch_size": Instead("write evaluation.batch_size=NUMBER", (8,)),
    "num_generations_eval": Instead("write evaluation.samples=NUMBER", (None,)),
    "batch_eval_metrics": Instead(_EVALUATION, (False,)),
    "bf16_full_eval": Instead(_EVALUATION, (False,)),
    "fp16_full_eval": Instead(_EVALUATION, (False,)),
    "prediction_loss_only": Instead(_EVALUATION, (False,)),
    "include_for_metrics": Instead(_EVALUATION, ([],)),
    "label_names": Instead(_EVALUATION, (None,)),
    "load_best_model_at_end": Instead(_BEST, (False,)),
    "metric_for_best_model": Instead(_BEST, (None,)),
    "greater_is_better": Instead(_BEST, (None,)),
    # checkpoints, and going on from them
    "save_strategy": Instead(_SAVING, ("steps", "epoch")),
    "save_on_each_node": Instead("one copy is written, where every node sees it", (False,)),
    "ignore_data_skip": Instead(_RESUME, (False,)),
    "restore_callback_states_from_checkpoint": Instead(_RESUME, (False,)),
    "enable_jit_checkpoint": Instead("SIGTERM saves a checkpoint in any case", (False,)),
    "auto_find_batch_size": Instead(
        "a run whose batches change is another one; lower train.args.per_device_train_batch_size",
        (False,),
    ),
    "push_to_hub": Instead(_HUB, (False,)),
    "hub_model_id": Instead(_HUB, (None,)),
    "hub_strategy": Instead(_HUB, ("every_save",)),
    "hub_token": Instead("set HF_TOKEN in the environment", (None,)),
    "hub_private_repo": Instead(_HUB, (None,)),
    "hub_always_push": Instead(_HUB, (False,)),
    "hub_revision": Instead(_HUB, (None,)),
    "log_completions_hub_repo": Instead(_HUB, (None,)),
    # ways to spread a model that its checkpoints and its tracking don't know
    "fsdp": Instead(_SHARDING, (None, "", [], False)),
    "fsdp_config": Instead(_SHARDING, (None,)),
    "parallelism_config": Instead(_SHARDING, (None,)),
    # data and models
    "trust_remote_code": Instead("no code of a model or a data set is run", (False,)),
    "dataset_text_field": Instead(
        "write data.problem_column, data.answer_column or data.messages_column", ("text",)
    ),
    "max_tool_calling_iterations": Instead("there are no tools here; leave it out", (None,)),
    "data_seed": Instead("write seed=NUMBER, which GRPO's sampler takes", (None,), "grpo"),
    "train_sampling_strategy": Instead(_GRPO, ("random",), "grpo"),
    "label_smoothing_factor": Instead(_GRPO, (0,), "grpo"),
}
# the columns that a trainer may leave out are those that nobody reads
_COLUMNS = {
    "sft": Instead("the rows are made for the trainer; leave it out", (True,)),
    "grpo": Instead("the rewards read the other columns; leave it out", (False,)),
}
_PLATEAU = "it follows the loss on an evaluation set, of which there is none; choose another"
_MODEL_OPTIONS = {
    "pretrained_model_name_or_path": Instead("write model.path"),
    "use_safetensors": Instead("weights are loaded from safetensors only", (True,)),
    "trust_remote_code": Instead("no code of a model is run", (False, None)),
    "ignore_mismatched_sizes": Instead("it would fill weights with random numbers", (False,)),
    "output_loading_info": Instead("the trainer takes a model only; leave it out", (False,)),
    "config": Instead("the model's own is taken; single values can be given by name", (None,)),
    "state_dict": Instead("weights are loaded from files; leave it out", (None,)),
    "gguf_file": Instead("weights are loaded from safetensors only", (None,)),
    "from_tf": Instead("weights are loaded from safetensors only", (False,)),
    "from_flax": Instead("weights are loaded from safetensors only", (False,)),
    "subfolder": Instead("write model.path with the folder, of a local copy", (None, "")),
    "variant": Instead("save the model under the usual names", (None,)),
    "token": Instead("set HF_TOKEN in the environment", (None,)),
    "use_auth_token": Instead("set HF_TOKEN in the environment", (None,)),
    "tp_plan": Instead(_SHARDING, (None,)),
    "tp_size": Instead(_SHARDING, (None,)),
    "device_mesh": Instead(_SHARDING, (None,)),
}
_OFTEN_BOOL = ("scale_rewards",)  # declared as text, and taken as true or false too


def check_arguments(kind: str, args: Mapping[str, Any], cls: type) -> None:
    """That `train.args` holds nothing that is refused, of another type, or out of range.

    Args:
        kind: sft or grpo.
        cls: SFTConfig or GRPOConfig.

    Raises:
        ValueError: naming the argument, and what to write instead.
    """
    known = {entry.name: entry.type for entry in dataclasses.fields(cls)}
    for name, value in args.items():
        instead = instead_of(name, kind)
        refuse(f"train.args.{name}", value, instead)
        asks_for_nothing = instead is not None and name != "save_strategy"
        if asks_for_nothing or name not in known:  # `construct` names the nearest that is
            continue
        _check_type(name, value, known[name])
        check_number(f"train.args.{name}", value, RANGES.get(name))
        allowed = CHOICES[kind].get(name)
        if allowed is not None and isinstance(value, str) and value not in allowed:
            raise ValueError(f"train.args.{name} is {value!r}; choose one of: {', '.join(allowed)}")
    if args.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy"):
        raise ValueError(f"train.args.lr_scheduler_type={args['lr_scheduler_type']}: {_PLATEAU}")
    check_model_options(args.get("model_init_kwargs"))
    _check_together(kind, args)


def instead_of(name: str, kind: str) -> Instead | None:
    """What is said of an argument, if a training of this kind refuses it."""
    if name == "remove_unused_columns":
        return _COLUMNS[kind]
    found = REFUSED.get(name)
    return found if found is not None and found.kind in (None, kind) else None


def refuse(key: str, value: object, instead: Instead | None) -> None:
    """Raise ValueError for a value that is refused."""
    if instead is not None and value not in instead.harmless:
        shown = "" if "token" in key else f"={value}"
        raise ValueError(f"{key}{shown} can't be served: {instead.text}")


def passed_on(args: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Of arguments that were checked, those that a trainer gets: not what asks for nothing."""
    return {
        name: value
        for name, value in args.items()
        if name == "save_strategy" or instead_of(name, kind) is None
    }


def check_model_options(options: object) -> None:
    """That `train.args.model_init_kwargs` is a mapping without what headlab sees to.

    Raises:
        ValueError: naming the option, and what to write instead.
    """
    if options is None:
        return
    key = "train.args.model_init_kwargs"
    if not isinstance(options, dict):
        raise ValueError(f"{key} is {options!r}; write {key}.NAME=VALUE")
    for name, value in options.items():
        refuse(f"{key}.{name}", value, _MODEL_OPTIONS.get(name))
    dtype = options.get("dtype", options.get("torch_dtype"))
    known = ("auto", "float32", "bfloat16", "float16", "float64")
    if dtype is not None and dtype not in known:
        raise ValueError(f"{key}.dtype is {dtype!r}; choose one of: {', '.join(known)}")


def _check_type(name: str, value: object, declared: Any) -> None:
    """That a value has the type of its argument, as far as that is a plain one."""
    members = typing.get_args(declared) if _is_union(declared) else (declared,)
    kinds = {typing.get_origin(member) or member for member in members}
    kinds |= {bool} if name in _OFTEN_BOOL else set()
    kinds |= {int} if float in kinds else set()
    plain = {int, float, bool, str, list, dict, type(None)}
    if type(value) in kinds or type(value) not in plain or (value is None and None in kinds):
        return
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    words |= {list: "a list", dict: "a mapping", type(None): "null"}
    wanted = " or ".join(
        text for kind, text in words.items() if kind in kinds and _says(kind, kinds)
    )
    raise ValueError(f"train.args.{name} is {value!r}; it takes {wanted}")


def _is_union(declared: Any) -> bool:
    return typing.get_origin(declared) in (typing.Union, types.UnionType)


def _says(kind: type, kinds: set[Any]) -> bool:
    """A number is said once: whole only where no other is taken."""
    return kind is not int or float not in kinds


def _check_together(kind: str, args: Mapping[str, Any]) -> None:
    """What single arguments don't show."""
    if isinstance(args.get("accelerator_config"), str):
        raise ValueError(
            "train.args.accelerator_config takes a mapping, which is kept with the run, not a file"
        )
    workers = args.get("dataloader_num_workers", 0)
    for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
        if args.get(name) and not workers:
            raise ValueError(f"train.args.{name} needs train.args.dataloader_num_workers=1 or more")
    if kind == "sft":
        packing, length = args.get("packing"), args.get("max_length", 1024)
        if args.get("padding_free") and not packing and length is not None:
            raise ValueError(
                "train.args.padding_free cuts no row; write train.args.max_length=null, or "
                "train.args.packing=true"
            )
        if packing and length is None:
            raise ValueError("train.args.packing packs up to a length; give train.args.max_length")
        if (args.get("dataset_kwargs") or {}).get("skip_prepare_dataset"):
            raise ValueError(
                "train.args.dataset_kwargs.skip_prepare_dataset can't be served: the rows are text"
            )
    elif args.get("sync_ref_model") and not args.get("beta"):
        raise ValueError(
            "train.args.sync_ref_model needs a reference model; give train.args.beta above 0"
        )


def check_rewards(rewards: list[str], weights: list[float] | None) -> None:
    """That each reward has a weight, if weights are given, and is named once.

    Raises:
        ValueError: naming both numbers.
    """
    if len(set(rewards)) < len(rewards):
        raise ValueError(f"train.rewards names one twice: {', '.join(rewards)}")
    if weights is not None and len(weights) != len(rewards):
        raise ValueError(
            f"train.args.reward_weights has {len(weights)} weights ({weights}) and train.rewards "
            f"{len(rewards)} rewards ({', '.join(rewards)}); give one for each, or "
            "train.args.reward_weights=null for 1 each"
        )
