"""Answers from vLLM: every condition is baked to a checkpoint, which the engine runs at full speed.

vLLM is an optional extra (pip install 'headlab[vllm]'). Each answer has a seed of its own; vLLM
draws its random numbers in its own way, so its answers are not those of the hf backend.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from analysis.evaluation.sampling import Completion, Request, Sampling, seed_of
from analysis.prompts.turns import ends_of


def check_vllm(dtype: str | None = None) -> None:
    """Raise ValueError if vLLM is not installed, or has no such dtype."""
    from importlib.util import find_spec

    if dtype == "float64":
        raise ValueError("vLLM has no dtype=float64; choose float32 or bfloat16, or backend=hf")

    if find_spec("vllm") is None:
        raise ValueError(
            "backend=vllm needs the package vllm (pip install 'headlab[vllm]'); without it: "
            "backend=hf"
        )


def check_bakes(operation: str, model_type: str) -> None:
    """Raise ValueError if vLLM would not compute what is baked.

    Its Qwen3 has no bias at o_proj and passes over the one in the file.
    """
    if operation in ("mean_by_position", "resample"):
        raise ValueError(f"{operation} can't be baked into weights, as vLLM needs; use backend=hf")
    if operation == "mean" and model_type == "qwen3":
        raise ValueError(
            "vLLM's Qwen3 leaves out the bias that a baked mean is; use backend=hf, or zero"
        )


@contextmanager
def engine(path: str, dtype: str, sampling: Sampling, seed: int) -> Iterator[Any]:
    """A function from requests to completions, run by vLLM on the checkpoint at `path`."""
    from vllm import LLM, SamplingParams

    held = [LLM(model=path, dtype=dtype, seed=seed, enable_prefix_caching=True)]

    def complete(batch: list[Request]) -> list[Completion]:
        llm = held[0]
        tokenizer = llm.get_tokenizer()
        ends = ends_of(tokenizer, None)  # vLLM adds those of the generation config
        how = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=seed_of(seed, request) % 2**31,
                stop_token_ids=ends,
            )
            for request in batch
        ]
        # the prompt holds its special tokens; vLLM must not add a second beginning
        prompts = [
            {"prompt_token_ids": tokenizer(r.prompt, add_special_tokens=False).input_ids}
            for r in batch
        ]
        outputs = [found.outputs[0] for found in llm.generate(prompts, how, use_tqdm=True)]
        return [Completion(o.text, len(o.token_ids), o.finish_reason == "length") for o in outputs]

    try:
        yield complete
    finally:
        held.clear()
        gc.collect()
        _empty_cache()


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
