"""Answers from vLLM, which is started once and given the weights of one condition after another.

vLLM runs whole checkpoints: every condition is baked to one. To start it takes minutes, so the
baked weights are exchanged in the running engine; it is started anew only for a model of another
configuration. Each answer has a seed of its own; vLLM draws its random numbers in its own way, so
its answers are not those of the hf backend, unless they are greedy.

vLLM is an optional extra (pip install 'headlab[vllm]'); docs/evaluation.md says which versions go
together.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from analysis.cli import nearest
from analysis.evaluation.sampling import Completion, Request, Sampling, completed, seed_of
from analysis.prompts.turns import ends_of
from analysis.ranges import COUNT, PART, Range, check_number

if TYPE_CHECKING:
    from analysis.models.loading import Tokenizer

# what may be said of the engine, and the numbers it takes; None: true or false
ENGINE: dict[str, Range | None] = {
    "gpu_memory_utilization": PART,
    "tensor_parallel_size": COUNT,
    "max_model_len": COUNT,
    "max_num_seqs": COUNT,
    "enforce_eager": None,
}
# architectures in which vLLM 0.32 reads a bias of the output projection of the heads (Mistral and
# Qwen2 become a Llama); any other's loader may pass over it without a word, as that of Qwen3 does
_READS_OUTPUT_BIAS = (
    *("apertus", "bloom", "gemma2", "gemma3", "gemma3_text", "gpt2", "gpt_oss", "granite", "llama"),
    *("mistral", "nemotron", "opt", "qwen2"),
)
# of a configuration, what tells nothing of what is computed
_IDLE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


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


def check_engine(given: object, backend: str) -> None:
    """Raise ValueError, naming the key, unless `given` holds settings that vLLM's engine takes."""
    if given is None:
        return
    if backend != "vllm":
        raise ValueError(f"engine is for backend=vllm, and the backend is {backend}")
    if not isinstance(given, Mapping):
        raise ValueError(f"engine is {given!r}; write 'engine={{max_model_len: 4096}}'")
    for name, value in given.items():
        if name not in ENGINE:
            raise ValueError(f"engine has no key {name!r}; {nearest(str(name), list(ENGINE))}")
        allowed = ENGINE[name]
        kinds = (bool,) if allowed is None else (int, float) if allowed is PART else (int,)
        if type(value) not in kinds:
            wanted = {bool: "true or false", int: "a number"}[kinds[0]]
            raise ValueError(f"engine.{name} is {value!r}; it takes {wanted}")
        check_number(f"engine.{name}", value, allowed)


def check_bakes(operation: str, model_type: str) -> None:
    """Raise ValueError if vLLM might not compute what is baked."""
    if operation in ("mean_by_position", "resample"):
        raise ValueError(f"{operation} can't be baked into weights, as vLLM needs; use backend=hf")
    if operation == "mean" and model_type not in _READS_OUTPUT_BIAS:
        raise ValueError(
            f"a baked mean is a bias, and vLLM is not known to read it in {model_type} (its Qwen3 "
            "leaves it out); use backend=hf, or zero"
        )


class Engine:
    """vLLM with the weights of one checkpoint at a time; nothing is started before `hold`."""

    def __init__(self, sampling: Sampling, seed: int, settings: Mapping[str, Any]) -> None:
        self.sampling, self.seed, self.settings = sampling, seed, dict(settings)
        self.starts = 0
        self._llm: Any = None
        self._like: Any = None  # what the running engine was started for
        self._tokenizer: Any = None
        self._ends: list[int] = []

    def hold(self, path: str, dtype: str, tokenizer: Tokenizer) -> None:
        """Take the weights of a checkpoint, in a running engine if its configuration fits."""
        ends = ends_of(tokenizer, _own_ends(path))
        like = _likeness(path), dtype, ends, tokenizer.eos_token_id
        if self._llm is not None and like == self._like:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": path})
            if not self._llm.reset_prefix_cache():  # it holds keys and values of the old weights
                raise RuntimeError("vLLM did not forget what it had computed with other weights")
        else:
            self.close()
            self._llm = self._started(path, dtype)
        self._like, self._ends, self._tokenizer = like, ends, tokenizer

    def _started(self, path: str, dtype: str) -> Any:
        from vllm import LLM

        self.starts += 1
        how = {"dtype": dtype, "seed": self.seed, "enable_prefix_caching": True, **self.settings}
        return LLM(model=path, **how)

    def complete(self, batch: list[Request]) -> list[Completion]:
        """The answers to some requests.

        Raises:
            ValueError: a prompt and its answer may be longer than the engine allows.
        """
        from vllm import SamplingParams

        # the prompt holds its special tokens; vLLM must not add a second beginning
        ids = [self._tokenizer(r.prompt, add_special_tokens=False).input_ids for r in batch]
        self._check_length(ids)
        s = self.sampling
        how = [
            SamplingParams(
                temperature=s.temperature,
                top_p=s.top_p,
                max_tokens=s.max_new_tokens,
                seed=seed_of(self.seed, request) % 2**31,
                stop_token_ids=self._ends,
            )
            for request in batch
        ]
        prompts = [{"prompt_token_ids": tokens} for tokens in ids]
        outputs = [found.outputs[0] for found in self._llm.generate(prompts, how, use_tqdm=True)]
        return [self._completion(output) for output in outputs]

    def _completion(self, output: Any) -> Completion:
        """As that of the hf backend: the token that ends an answer is not counted."""
        row = [int(token) for token in output.token_ids]
        found = completed(self._tokenizer, row, self._ends, self.sampling.max_new_tokens)
        return replace(found, truncated=found.truncated or output.finish_reason == "length")

    def _check_length(self, prompts: Sequence[Sequence[int]]) -> None:
        limit = int(self._llm.llm_engine.model_config.max_model_len)
        longest, most = max(map(len, prompts)), self.sampling.max_new_tokens
        if longest + most > limit:
            raise ValueError(
                f"prompts of up to {longest} tokens and max_new_tokens={most} do not fit vLLM's "
                f"engine, which takes {limit} tokens and would cut the answers; give "
                f"max_new_tokens={max(1, limit - longest)}, or another engine.max_model_len"
            )

    def close(self) -> None:
        """Stop the engine, if one runs, and free its memory."""
        self._llm = self._like = None
        gc.collect()
        _empty_cache()


@contextmanager
def engine(sampling: Sampling, seed: int, settings: Mapping[str, Any]) -> Iterator[Engine]:
    """An engine for all conditions of an evaluation."""
    held = Engine(sampling, seed, settings)
    try:
        yield held
    finally:
        held.close()


def _likeness(path: str) -> dict[str, Any]:
    """A checkpoint's configuration: an engine can take the weights of another if it is equal."""
    from analysis.models.loading import load_config

    content: dict[str, Any] = load_config(path).to_dict()
    return {name: value for name, value in content.items() if name not in _IDLE}


def _own_ends(path: str) -> int | list[int] | None:
    """The tokens that end a text for a checkpoint, as `generate` of transformers finds them."""
    from transformers import GenerationConfig

    from analysis.models.loading import load_config

    try:
        config = GenerationConfig.from_pretrained(path)
    except OSError:  # it has no file of them
        config = GenerationConfig.from_model_config(load_config(path))
    found: int | list[int] | None = config.eos_token_id
    return found


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
