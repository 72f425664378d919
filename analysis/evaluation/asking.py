"""Ask a model problems, judge the answers, score them.

Answers are drawn in batches, always cut alike; a batch of which answers are missing is drawn again
and only they are kept. So a store (analysis/evaluation/completions.py) that was left half full is
filled with what an unbroken evaluation would have written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from analysis.evaluation.completions import Completions
from analysis.evaluation.sampling import Completion, Request, Sampling, batches, sample
from analysis.evaluation.scores import Score, score
from analysis.evaluation.verify import judge
from analysis.files import short_hash
from analysis.prompts.chat import Prompting
from analysis.prompts.problems import Problem

if TYPE_CHECKING:
    from analysis.models.loading import Model, Tokenizer

Complete = Callable[[list[Request]], list[Completion]]


def digest(problems: Sequence[Problem], prompting: Prompting, sampling: Sampling, seed: int) -> str:
    """Tells what was asked, how, and how answers were drawn: equal for equal measurements."""
    how = {name: value for name, value in vars(sampling).items() if name != "batch_size"}
    asked: list[tuple[object, ...]] = []
    for p in problems:
        more = (p.alternatives, p.scorer.task if p.scorer else None)
        asked.append((p.question, p.answer, *(more if any(more) else ())))
    text = json.dumps([asked, prompting.to_json(), how, seed])
    return short_hash(text)


def requests_of(
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    prompting: Prompting,
    samples: int,
) -> list[Request]:
    """Every sample of every problem, the samples of a problem together."""
    found = []
    for index, problem in enumerate(problems):
        prompt = prompting.prompt(tokenizer, problem.question)
        begun = prompt.turn.judged("")
        found += [Request(index, sample, prompt.text, begun) for sample in range(samples)]
    return found


def fill_store(
    store: Completions,
    requests: Sequence[Request],
    problems: Sequence[Problem],
    complete: Complete,
    batch_size: int,
    label: str | None = None,
) -> None:
    """Draw and judge the answers that a store is missing; with a label, show how far it is."""
    missing = sum(not store.has(request) for request in requests)
    if not missing:
        return
    bar = tqdm(
        total=len(requests),
        initial=len(requests) - missing,
        desc=label,
        unit="answer",
        disable=label is None,
    )
    tokens = 0
    with bar:
        for batch in batches(requests, batch_size):
            new = sum(not store.has(request) for request in batch)
            if not new:
                continue
            completions = complete(batch)
            pairs = zip(batch, completions, strict=True)
            verdicts = [judge(r.begun + c.text, problems[r.problem].gold) for r, c in pairs]
            store.add(batch, completions, verdicts)
            tokens += sum(completion.tokens for completion in completions)
            bar.update(new)
            elapsed = bar.format_dict["elapsed"]
            bar.set_postfix_str(f"{tokens / max(elapsed, 1e-9):.3g} tokens/s")


def n_distinct(problems: Sequence[Problem]) -> int:
    """How many different questions there are: copies can't be resampled."""
    return len({problem.question for problem in problems})


def score_of(
    store: Completions, problems: Sequence[Problem], samples: int, ks: Sequence[int], seed: int = 0
) -> Score:
    """The score of a full store."""
    right, distinct = store.right(len(problems), samples), n_distinct(problems)
    return score(right, ks, store.truncated, store.failures, seed=seed, distinct=distinct)


def evaluate(
    model: Model,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    prompting: Prompting,
    sampling: Sampling,
    seed: int = 0,
    store: Completions | None = None,
) -> Score:
    """pass@1 of a model on some problems; the model is left as it was.

    A store on the disk keeps the answers, and what it holds already is not drawn again.
    """
    kept = Completions() if store is None else store
    requests = requests_of(tokenizer, problems, prompting, sampling.samples)

    def complete(batch: list[Request]) -> list[Completion]:
        return sample(model, tokenizer, batch, sampling, seed)

    fill_store(kept, requests, problems, complete, sampling.batch_size)
    return score_of(kept, problems, sampling.samples, [], seed)
