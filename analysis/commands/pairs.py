"""Write a pairs file for a model: problems with the same skeleton and another answer.

    headlab pairs model=DIR source=arithmetic size=32 out=pairs.jsonl

Each pair is two problems of one skeleton and token length whose answers begin with different tokens
(analysis/prompts/pair_building.py). It can be read by every command that takes pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analysis.cli import key
from analysis.prompts.chat import on_off
from analysis.ranges import COUNT, SEED

POOL = 40  # problems drawn for each pair, of which partners are found


@dataclass
class Options:
    model: str = key("directory or hub name; its tokenizer and chat template are used")
    out: str = key("JSONL file to be written")
    source: str = key(
        "arithmetic, lookup, reasoning_gym:TASK, file:FILE or a benchmark", "arithmetic"
    )
    options: Any = key("of a generator: 'options={terms: 3}'", None)
    problem_column: str = key("of a file", "problem")
    answer_column: str = key("of a file", "answer")
    solution_column: str | None = key("of a file", "solution")
    answer_pattern: str | None = key("of a file: its first group is the answer", None)
    size: int = key("pairs", 32, COUNT)
    seed: int = key("of the problems", 1, SEED)
    prefix: str = key("the answer's start that is given", "", prose=True)
    cut_solution_after: str | None = key("give the solution up to this mark too", None, prose=True)
    system_prompt: str | None = key(
        "before the question; null: that of the model's run", None, prose=True
    )
    suffix: str | None = key("after the question; null: that of the model's run", None, prose=True)
    think: Any = key("on or off; null: as the model's run, or the chat template's default", None)


def act(options: Options) -> None:
    """Draw problems, pair them, write."""
    from pathlib import Path

    from analysis.files import atomic_write
    from analysis.prompts.benchmarks import problems_for_pairs
    from analysis.prompts.columns import Columns
    from analysis.prompts.pair_building import counterfactual_pairs
    from analysis.records.checkpoints import find_model
    from analysis.records.run_prompting import prompting_for

    o = options
    if o.options is not None and not isinstance(o.options, dict):
        raise ValueError(f"options is {o.options!r}; write 'options={{terms: 3}}'")
    named = find_model(o.model)
    tokenizer = named.load_tokenizer()
    prompting = prompting_for(named, o.system_prompt, o.suffix, on_off("think", o.think))
    columns = Columns(
        o.problem_column,
        o.answer_column,
        o.solution_column,
        o.answer_pattern,
        prompting.system_prompt,
    )
    problems = problems_for_pairs(
        o.source, POOL * o.size, o.seed, o.options, columns, o.cut_solution_after is not None
    )
    pairs = counterfactual_pairs(
        tokenizer, problems, prompting, o.size, o.prefix, o.cut_solution_after
    )
    with atomic_write(Path(o.out)) as draft:
        pairs.save(draft)
    print(f"{len(pairs)} pairs, hash {pairs.hash}; wrote {o.out}")
