"""Answers from vLLM: every condition is baked to a checkpoint, which the engine runs at full speed.

vLLM is an optional extra (pip install 'headlab[vllm]'). Each answer has a seed of its own; vLLM
draws its random numbers in its own way, so its answers are not those of the hf backend.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from analysis.sampling import Completion, Request, Sampling, seed_of


def check_vllm() -> None:
    """Raise ValueError if vLLM is not installed."""
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        raise ValueError(
            "backend=vllm needs the package vllm (pip install 'headlab[vllm]'); without it: "
            "backend=hf"
        )


@contextmanager
def engine(path: str, dtype: str | None, sampling: Sampling, seed: int) -> Iterator[Any]:
    """A function from requests to completions, run by vLLM on the checkpoint at `path`."""
    from vllm import LLM, SamplingParams

    held = [LLM(model=path, dtype=dtype or "auto", seed=seed, enable_prefix_caching=True)]

    def complete(batch: list[Request]) -> list[Completion]:
        how = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=seed_of(seed, request) % 2**31,
            )
            for request in batch
        ]
        # the prompt holds its special tokens; vLLM must not add a second beginning
        llm = held[0]
        tokenizer = llm.get_tokenizer()
        prompts = [
            {"prompt_token_ids": tokenizer(r.prompt, add_special_tokens=False).input_ids}
            for r in batch
        ]
        outputs = [found.outputs[0] for found in llm.generate(prompts, how, use_tqdm=False)]
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
