"""pass@1 of a model on held-out problems: sample, judge, average, with an interval.

pass@1 is the share of right samples, averaged over the n samples of a problem and over problems.
The interval is a percentile bootstrap over problems with their samples kept together, since the
samples of one problem are not independent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from analysis.preserve import preserved
from analysis.prompts import Prompting
from analysis.tasks import Problem
from analysis.verify import judge


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. temperature 0 is greedy decoding; then one sample is enough."""

    samples: int = 4
    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 256
    batch_size: int = 64


@dataclass(frozen=True)
class Score:
    """pass@1 with its 95 % interval, and what went wrong in how many samples."""

    pass_at_1: float
    low: float
    high: float
    problems: int
    samples: int
    truncated: int
    failures: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def sample_completions(
    model: nn.Module, tokenizer: Any, prompts: Sequence[str], sampling: Sampling, seed: int
) -> list[tuple[str, bool]]:
    """One completion for each prompt, with whether it was cut off before its end.

    The model and the random states are left as they were; the same seed gives the same answers.
    """
    greedy = sampling.temperature == 0
    how = {"do_sample": False} if greedy else {
        "do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0,
    }  # fmt: skip
    device = next(model.parameters()).device
    completions = []
    with preserved(model):
        torch.manual_seed(seed)
        for start in range(0, len(prompts), sampling.batch_size):
            batch = tokenizer(
                prompts[start : start + sampling.batch_size],
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=False,
            ).to(device)
            output = model.generate(  # type: ignore[operator]
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                max_new_tokens=sampling.max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                synced_gpus=False,  # one rank alone may generate, with whole weights
                **how,
            )
            for row in output[:, batch.input_ids.shape[1] :].tolist():
                cut = tokenizer.eos_token_id not in row
                completions.append((tokenizer.decode(row, skip_special_tokens=True), cut))
    return completions


def bootstrap_mean(values: np.ndarray, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of per-problem values [problems]."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[drawn].mean(1), [0.025, 0.975])
    return float(low), float(high)


def evaluate(
    model: nn.Module,
    tokenizer: Any,
    problems: Sequence[Problem],
    prompting: Prompting,
    sampling: Sampling,
    seed: int = 0,
) -> Score:
    """pass@1 of a model on some problems."""
    repeated = [problem for problem in problems for _ in range(sampling.samples)]
    prompts = [prompting.text(tokenizer, problem.question) for problem in repeated]
    completions = sample_completions(model, tokenizer, prompts, sampling, seed)
    verdicts = [judge(text, p.answer) for (text, _), p in zip(completions, repeated, strict=True)]
    right = np.array([verdict.correct for verdict in verdicts], dtype=float)
    per_problem = right.reshape(len(problems), sampling.samples).mean(1)
    low, high = bootstrap_mean(per_problem)
    return Score(
        pass_at_1=float(per_problem.mean()),
        low=low,
        high=high,
        problems=len(problems),
        samples=sampling.samples,
        truncated=sum(cut for _, cut in completions),
        failures=dict(Counter(v.failure for v in verdicts if v.failure)),
    )
