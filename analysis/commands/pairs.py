"""Write a pairs file for a model: problems with the same skeleton and another answer.

    headlab pairs model=DIR source=arithmetic size=32 out=pairs.jsonl

Each pair is two problems of one skeleton and token length whose answers begin with different tokens
(analysis/prompts/pair_building.py). It can be read by every command that takes pairs. Beside it,
in base_pairs.jsonl for pairs.jsonl, are further pairs, on which a base is measured too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli import key
from analysis.prompts.chat import on_off
from analysis.ranges import COUNT, SEED

if TYPE_CHECKING:
    from analysis.prompts.pairs import Pairs
    from analysis.prompts.problems import Problem

POOL = 40  # problems drawn for each pair, of which partners are found
MORE = 10  # for each further pair


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
    base_pairs: int = key(
        "times as many pairs for the base (tracking.base_pairs), in base_OUT beside it; 1: none",
        4,
        COUNT,
    )
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
    from analysis.prompts.benchmarks import problems_for_pairs
    from analysis.prompts.columns import Columns
    from analysis.prompts.pair_building import counterfactual_pairs
    from analysis.prompts.problems import spaceless
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
    needs_solution = o.cut_solution_after is not None

    def draw(count: int) -> list[Problem]:
        return problems_for_pairs(o.source, count, o.seed, o.options, columns, needs_solution)

    problems, times = draw(POOL * o.size), o.base_pairs
    if times > 1:
        asked = {spaceless(problem.question) for problem in problems}
        more = draw((POOL + MORE * (times - 1)) * o.size)
        problems += [problem for problem in more if spaceless(problem.question) not in asked]
    how = (times * o.size, o.prefix, o.cut_solution_after, o.size)
    pairs = counterfactual_pairs(tokenizer, problems, prompting, *how).split(o.size)
    _write(pairs, Path(o.out), times)


def _write(pairs: Pairs, out: Path, times: int) -> None:
    """The pairs, and those for the base beside them; what was there before of these is removed."""
    from analysis.files import atomic_write
    from analysis.tracking.further import beside, shortage

    with atomic_write(out) as draft:
        pairs.save(draft)
    print(f"{len(pairs)} pairs, hash {pairs.hash}; wrote {out}")
    if pairs.further is None:
        beside(out).unlink(missing_ok=True)
    else:
        with atomic_write(beside(out)) as draft:
            pairs.further.save(draft)
        print(f"{len(pairs.further)} further pairs for the base; wrote {beside(out)}")
    if said := shortage(pairs, times):
        print(said)
