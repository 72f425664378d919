"""Answers sampled from a model, each from random numbers of its own.

A token is drawn by the Gumbel-max trick (Gumbel 1954): it is the token with the largest log p + g.
p is the distribution after temperature and top-p, and g is standard Gumbel noise. Each answer has
its own random generator, seeded by (seed, problem, sample). Three things follow:

    An answer does not depend on the answers that are decoded beside it, up to rounding: another
    batch has other padding, which can change a token where two are almost equally likely.
    A killed evaluation goes on to the same answers.
    Two models that are asked the same question get the same noise, so their difference varies less.

Of the checkpoint's generation_config.json only the tokens that end an answer are used
(analysis/prompts/turns.py). Its top_k, penalties and forbidden tokens are not: only temperature and
top-p act.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from analysis.models.onload import home
from analysis.models.preserve import preserved
from analysis.prompts.turns import ends_of

if TYPE_CHECKING:
    from analysis.models.loading import Model, Tokenizer


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. temperature 0 is greedy decoding; then one sample is enough.

    Raises:
        ValueError: a value is out of range.
    """

    samples: int = 4
    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 256
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], not {self.top_p}")


@dataclass(frozen=True)
class Request:
    """One answer to be drawn: to which prompt, and as which sample of which problem.

    begun: what of the answer stands in the prompt already and is judged with the rest.
    """

    problem: int
    sample: int
    prompt: str
    begun: str = ""


@dataclass(frozen=True)
class Completion:
    """An answer as text, the tokens it took, and whether it was cut off before its end."""

    text: str
    tokens: int
    truncated: bool


def seed_of(seed: int, request: Request) -> int:
    """The seed of one answer's noise."""
    text = f"{seed}/{request.problem}/{request.sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise to log-probabilities, each row's from a generator of its own."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = torch.empty_like(scores, dtype=torch.float32)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() - noise.log()


def processors(
    sampling: Sampling, seeds: Sequence[int], device: torch.device
) -> LogitsProcessorList:
    """What turns logits into scores whose maximum is the drawn token; none for greedy decoding."""
    if sampling.temperature == 0:
        return LogitsProcessorList()
    found: list[LogitsProcessor] = [TemperatureLogitsWarper(float(sampling.temperature))]
    if sampling.top_p < 1:
        found.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList([*found, GumbelNoise(seeds, device)])


@contextmanager
def bare_settings(model: Model, config: GenerationConfig) -> Iterator[None]:
    """Inside, the model has no generation settings but the given ones."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


def batches(requests: Sequence[Request], size: int) -> Iterator[list[Request]]:
    """Requests in order, `size` at a time."""
    for start in range(0, len(requests), size):
        yield list(requests[start : start + size])


@torch.no_grad()
def sample(
    model: Model,
    tokenizer: Tokenizer,
    requests: Sequence[Request],
    sampling: Sampling,
    seed: int,
) -> list[Completion]:
    """The answers to some requests, decoded together; the model is left as it was."""
    device = home(model)
    batch = tokenizer(
        [request.prompt for request in requests],
        return_tensors="pt",
        padding=True,
        padding_side="left",
        add_special_tokens=False,
    ).to(device)
    ends = ends_of(tokenizer, model.generation_config.eos_token_id)
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,  # the noise is in the scores
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=ends or None,
    )
    generate: Any = model.generate  # of a PEFT model, that of the model inside
    with preserved(model), bare_settings(model, config):
        output = generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            generation_config=config,
            logits_processor=processors(sampling, [seed_of(seed, r) for r in requests], device),
            synced_gpus=False,  # one rank only may generate, with whole weights
        )
    rows = output[:, batch.input_ids.shape[1] :].tolist()
    return [completed(tokenizer, row, ends, sampling.max_new_tokens) for row in rows]


def completed(tokenizer: Tokenizer, row: list[int], ends: list[int], most: int) -> Completion:
    """The answer in the tokens that a backend has drawn; the token that ends it is not counted."""
    length = next((at for at, token in enumerate(row) if token in ends), None)
    kept = row if length is None else row[:length]
    text = str(tokenizer.decode(kept, skip_special_tokens=True))
    return Completion(text, len(kept), length is None and len(row) >= most)
