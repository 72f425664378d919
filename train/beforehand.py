"""What a library would find wrong only once the weights are loaded, looked at before.

Only the heads of files are read here, and models are made without weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from analysis.live.compat import unsharded_loading
from analysis.mistakes import one_line
from train.compat import vllm_for_trl

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedTokenizerBase
    from trl import GRPOConfig, SFTConfig


def check_model(path: str, options: Mapping[str, Any] | None, tracked: bool) -> None:
    """Raise ValueError if a model can't be had, or can't be tracked and is to be.

    `options` are those of its loading (train.args.model_init_kwargs).
    """
    from analysis.models.loading import check_weights, load_config
    from analysis.models.quantised import check_quantised

    try:
        config = load_config(path)
    except ValueError as error:
        raise ValueError(f"model.path {error}") from error
    if Path(path).is_dir():
        with unsharded_loading():
            check_weights(path)
    if not tracked:
        return
    try:
        for given in (config, (options or {}).get("quantization_config")):
            check_quantised(given, path)
    except ValueError as error:
        raise ValueError(f"{error}, or train with tracking=none") from error


def check_tracked(model: Any, kv: str) -> None:
    """Raise ValueError if the heads of a loaded model can't be found, before a step is trained.

    Weights that are divided over the processes, or not there yet, are looked at at step 0.
    """
    from analysis.detection.detect import anatomy

    if not any(p.is_meta or hasattr(p, "ds_id") for p in model.parameters()):
        anatomy(model, kv)


def check_adapter(peft: PeftConfig, path: str) -> None:
    """Raise ValueError if PEFT can't put an adapter on a model; no weights are made for it."""
    import copy

    import torch
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    from analysis.models.configuration import empty_model
    from analysis.models.loading import load_config

    whole = empty_model(load_config(path))
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        empty = copy.deepcopy(peft)
        if hasattr(empty, "init_lora_weights"):
            empty.init_lora_weights = False  # some ways need weights
        try:
            model: Any = get_peft_model(whole, empty)
        except (ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
            raise ValueError(f"peft.args: {one_line(error)}") from error
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        raise ValueError(
            "peft.args.target_modules names the output embeddings, whose adapter TRL's losses "
            "pass by; leave lm_head out, or name it in peft.args.modules_to_save"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("peft.args leave nothing that is trained; name target_modules")


def _word(choice: object) -> str:
    """A choice as it is written, where transformers keeps it as a member of an enumeration."""
    return str(getattr(choice, "value", choice))


def check_optimizer(args: SFTConfig | GRPOConfig) -> None:
    """Raise ValueError if the optimizer or the schedule of training arguments can't be made."""
    import torch
    from transformers import Trainer, get_scheduler

    of_a_model = ("galore", "apollo", "lomo")  # these look at a model's parameters
    if args.deepspeed is not None or any(name in str(args.optim) for name in of_a_model):
        return
    parameter = torch.nn.Parameter(torch.zeros(1))
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
        optimizer = kind([parameter], **options)
        given = cast("dict[str, Any] | None", args.lr_scheduler_kwargs)  # parsed, where it was text
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 10, given)
    except Exception as error:  # all that it does is to look at these arguments
        raise ValueError(
            f"train.args.optim={_word(args.optim)} with train.args.lr_scheduler_type="
            f"{_word(args.lr_scheduler_type)} can't be had: {one_line(error)}"
        ) from error


def check_vllm(args: SFTConfig | GRPOConfig) -> None:
    """Raise ValueError if the generation is to use vLLM, which is not there."""
    if getattr(args, "use_vllm", False) and not vllm_for_trl():
        raise ValueError(
            "train.args.use_vllm needs the package vllm, which is not installed; "
            "pip install 'trl[vllm]', or train.args.use_vllm=false"
        )


def check_tokens(tokenizer: PreTrainedTokenizerBase, path: str, args: Any) -> None:
    """Raise ValueError if a token that the training names is unknown, or has no embedding."""
    from analysis.models.configuration import vocabulary
    from analysis.models.loading import load_config

    known = tokenizer.get_vocab()
    for name in ("eos_token", "pad_token"):
        given = getattr(args, name, None)
        if given is not None and given not in known:
            raise ValueError(
                f"train.args.{name} is {given!r}, which is no token of {path}; its own is "
                f"{getattr(tokenizer, name)!r}"
            )
    size = vocabulary(load_config(path))
    for name in ("eos_token", "pad_token", "bos_token"):
        text = getattr(args, name, None) or getattr(tokenizer, name)
        if text is not None and known.get(text, 0) >= size:
            raise ValueError(
                f"{name} {text!r} of the tokenizer in {path} has id {known[text]}, and the model's "
                f"embedding ends at {size - 1}; grow the embedding (resize_token_embeddings) and "
                "save the model, or name another token"
            )
    if tokenizer.pad_token is None and getattr(args, "pad_token", None) is None:
        raise ValueError(
            f"the tokenizer in {path} has neither a padding nor an end token, which batches need; "
            "set pad_token there"
        )
