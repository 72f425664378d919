"""Every argument of TRL's trainers is decided: passed on, within a range, or refused by name."""

from __future__ import annotations

import dataclasses
import re

import pytest

from train.arguments import CHOICES, RANGES, REFUSED, check_arguments, instead_of, passed_on

# passed on as they are; their values are for the trainer to judge
PASSED = """
accelerator_config activation_checkpointing activation_checkpointing_kwargs activation_offloading
assistant_only_loss average_tokens_across_devices bf16 cache_implementation cast_lm_head_to_fp32
chat_template_kwargs chat_template_path completion_only_loss dataloader_drop_last
dataloader_in_order dataloader_multiprocessing_context dataloader_persistent_workers
dataloader_pin_memory dataset_kwargs ddp_backend ddp_broadcast_buffers ddp_find_unused_parameters
ddp_static_graph debug disable_dropout disable_tqdm ds3_gather_for_generation eos_token fp16
full_determinism generation_kwargs gradient_checkpointing gradient_checkpointing_kwargs
include_num_input_tokens_seen length_column_name liger_kernel_config log_completions log_level
log_level_replica log_multimodal log_on_each_node log_unique_prompts logging_first_step
logging_nan_inf_filter logging_strategy lr_scheduler_kwargs lr_scheduler_type
mask_truncated_completions model_init_kwargs optim optim_args optim_target_modules packing
pad_token padding_free remove_unused_columns reward_weights save_only_model shuffle_dataset
skip_memory_metrics sync_ref_model tf32 torch_compile torch_compile_backend torch_compile_mode
transformers_continuous_batching_config use_adaptive_entropy use_bias_correction_kl use_cache
use_cpu use_liger_kernel use_transformers_continuous_batching use_transformers_paged use_vllm
vllm_enable_sleep_mode vllm_importance_sampling_correction vllm_model_impl vllm_server_base_url
vllm_server_host vllm_structured_outputs_regex
"""
NOT_THERE_ANY_MORE = {"logging_dir", "overwrite_output_dir"}


def classes() -> dict[str, type]:
    from trl import GRPOConfig, SFTConfig

    return {"sft": SFTConfig, "grpo": GRPOConfig}


def arguments() -> dict[str, object]:
    return {entry.name: entry for kind in classes().values() for entry in dataclasses.fields(kind)}


def test_every_argument_is_decided():
    decided = {*PASSED.split(), *RANGES, *REFUSED, *CHOICES["sft"], *CHOICES["grpo"]}
    assert set(arguments()) - decided == set()
    assert decided - set(arguments()) == NOT_THERE_ANY_MORE


def test_every_number_has_a_range():
    numbers = {
        name: entry
        for name, entry in arguments().items()
        if re.search(r"\b(int|float)\b", str(entry.type))
    }
    scores = {"reward_weights"}  # a list of any numbers
    assert set(numbers) - set(RANGES) - scores == set()


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_numbers_outside_their_range_are_one_line(kind):
    cls = classes()[kind]
    names = {entry.name for entry in dataclasses.fields(cls)}
    for name, allowed in RANGES.items():
        if name not in names or instead_of(name, kind) is not None:
            continue
        for value in (0, -1, 0.5, float("nan"), float("inf"), "many"):
            try:
                check_arguments(kind, {name: value}, cls)
            except ValueError as error:
                assert re.match(rf"train\.args\.{name} (must|is)", str(error)), error
                assert "\n" not in str(error)
            else:
                assert isinstance(value, str) or allowed.holds(value)


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_what_is_refused_names_what_to_write_instead(kind):
    cls = classes()[kind]
    defaults = {entry.name: entry.default for entry in dataclasses.fields(cls)}
    for name in REFUSED:
        if (instead := instead_of(name, kind)) is None:
            continue
        with pytest.raises(
            ValueError, match=f"train.args.{name}.* can't be served: {re.escape(instead.text)}"
        ):
            check_arguments(kind, {name: "something"}, cls)
        for value in instead.harmless:  # what asks for nothing passes
            check_arguments(kind, {name: value}, cls)
        same = name in defaults and name not in ("output_dir", "run_name", "seed", "do_train")
        if same and defaults[name] is not dataclasses.MISSING:
            assert defaults[name] in instead.harmless or name == "train_sampling_strategy"
    asked = {
        "eval_strategy": False,
        "do_train": True,
        "learning_rate": 1e-3,
        "save_strategy": "epoch",
    }
    assert passed_on(asked, kind) == {"learning_rate": 1e-3, "save_strategy": "epoch"}


WRONG = [
    ("sft", {"save_strategy": "best"}, "save_strategy=best can't be served: a run is tracked"),
    ("sft", {"save_strategy": "no"}, "save_strategy=no can't be served"),
    ("sft", {"hub_token": "hf_x"}, "train.args.hub_token can't be served: set HF_TOKEN"),
    ("sft", {"max_steps": 0}, "train.args.max_steps must be at least 1 or -1, not 0"),
    ("sft", {"num_train_epochs": 0}, "train.args.num_train_epochs must be above 0, not 0"),
    ("sft", {"num_train_epochs": "two"}, "num_train_epochs is 'two'; it takes a number"),
    ("sft", {"max_steps": 1.5}, "max_steps is 1.5; it takes a whole number"),
    ("sft", {"packing": "yes"}, "packing is 'yes'; it takes true or false"),
    ("sft", {"bf16": 1}, "bf16 is 1; it takes true or false or null"),
    ("sft", {"loss_type": "dapo"}, "loss_type is 'dapo'; choose one of: nll, dft"),
    ("grpo", {"loss_type": "nll"}, "loss_type is 'nll'; choose one of: grpo, bnpo"),
    ("grpo", {"scale_rewards": "all"}, "scale_rewards is 'all'; choose one of: group"),
    ("grpo", {"temperature": 0}, "temperature must be above 0, not 0"),
    ("grpo", {"num_generations": 1}, "num_generations must be at least 2, not 1"),
    ("grpo", {"sync_ref_model": True}, "give train.args.beta above 0"),
    ("grpo", {"remove_unused_columns": True}, "the rewards read the other columns"),
    ("grpo", {"vllm_mode": "here"}, "vllm_mode is 'here'; choose one of: colocate, server"),
    ("sft", {"lr_scheduler_type": "reduce_lr_on_plateau"}, "it follows the loss on an evaluation"),
    ("sft", {"padding_free": True}, "write train.args.max_length=null"),
    ("sft", {"packing": True, "max_length": None}, "give train.args.max_length"),
    ("sft", {"dataset_kwargs": {"skip_prepare_dataset": True}}, "the rows are text"),
    ("sft", {"dataloader_persistent_workers": True}, "needs train.args.dataloader_num_workers=1"),
    ("sft", {"accelerator_config": "a.json"}, "takes a mapping"),
    ("sft", {"model_init_kwargs": "x"}, "write train.args.model_init_kwargs.NAME=VALUE"),
    ("sft", {"model_init_kwargs": {"dtype": "int8"}}, "dtype is 'int8'; choose one of"),
    ("sft", {"model_init_kwargs": {"use_safetensors": False}}, "from safetensors only"),
    ("sft", {"model_init_kwargs": {"ignore_mismatched_sizes": True}}, "with random numbers"),
]


@pytest.mark.parametrize(("kind", "args", "words"), WRONG, ids=lambda value: str(value)[:50])
def test_what_is_wrong_is_one_line(kind, args, words):
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        check_arguments(kind, args, classes()[kind])
    assert "\n" not in str(refused.value)


def test_what_a_class_refuses_is_one_line(compose, tmp_path):
    from train.build import training_args

    cfg = compose("grpo", f"run_dir={tmp_path}", "train.args.num_generations=7")
    with pytest.raises(ValueError, match="train.args: generation_batch_size .* divisible by") as no:
        training_args(cfg)
    assert "\n" not in str(no.value)


REWARDS = [
    (["train.rewards=[accuracy]"], None),
    (["train.rewards=[accuracy,format]", "train.args.reward_weights=[1,0.5]"], None),
    (["train.rewards=[accuracy]", "train.args.reward_weights=[1,1]"], "has 2 weights ([1, 1]) and"),
    (["experiment=tiny", "train.rewards=[accuracy]"], "has 3 weights ([1.0, 0.2, 0.2]) and"),
    (["train.rewards=[accuracy,accuracy]"], "train.rewards names one twice"),
    (["train.args.reward_weights=[1,nan,1]"], "reward_weights[1] is nan"),
]


@pytest.mark.parametrize(("words", "message"), REWARDS, ids=lambda value: str(value)[:60])
def test_rewards_have_weights(compose, tmp_path, words, message):
    from train.plan import prepare

    tiny = ["model=tiny_random", "data.size=16", "train.args.max_steps=1", f"run_dir={tmp_path}/r"]
    cfg = compose("grpo", *words, *tiny)
    if message is None:
        assert len(prepare(cfg).rewards) == len(cfg.train.rewards)
        return
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare(cfg)
