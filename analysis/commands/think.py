r"""Circuits of one model with thinking on and off: which heads each mode uses alone.

    headlab think model=Qwen/Qwen3-8B source=arithmetic 'options={terms: 2}' size=32 \
        out=runs/think

Thinking is switched by the chat template (Qwen3's `enable_thinking`), or off by an empty think
block where the template has no switch (analysis/prompts/pair_building.py). Both modes get the same
problems: pair i of one and pair i of the other are the same two problems, so that a resample of the
pairs is the same in both. Each mode is tracked as step 0 of a run of its own, OUT/on and OUT/off,
with pairs, record and per-pair scores. Then the heads are compared by analysis/heads/changes.py
with on as `before` and off as `after`:

    think on only    in the circuit of think on, not in that of think off    (pruned)
    think off only   in the circuit of think off, not in that of think on    (emergent)
    both             in both                                                 (retained)

By chance: how many heads are in the circuit of one resample of the pairs and not in that of another
in one and the same mode, as mean and 97.5 % point. A head is called as analysis/heads/changes.py
has it.

OUT/think.json holds the numbers, OUT/heads/{think-on-only,think-off-only,both}.json the heads, the
most important in their circuit first (of `both`, by the mean of the two), as
`headlab evaluate` takes them. A mode that has its record is not measured again.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli import key
from analysis.ranges import COUNT, SEED
from analysis.tracking.settings import TrackingOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from analysis.comparison.thinking import Modes
    from analysis.prompts.pairs import Pairs
    from analysis.records.checkpoints import Named
    from analysis.records.record import Record
    from analysis.tracking.tracker import HeadTracker

KINDS = ("counterfactual", "answer_style")
POOL = 40  # problems drawn for each pair, of which partners are found
TRIED = 10  # heads that the printed commands change
CLEAN_START = "<think>Okay, so I have this problem where I need to find the answer."
CORRUPTED_START = "To determine the answer, we need to work through the given problem."


@dataclass
class Options:
    model: str = key("directory or hub name of a model or adapter, or RUN@STEP (RUN@last)")
    out: str = key("directory for the two runs and their comparison")
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
    kind: str = key("counterfactual or answer_style: as in conf/pairs", "counterfactual")
    prefix: str = key(
        "of counterfactual pairs: the answer's start that is given", "<answer>", prose=True
    )
    cut_solution_after: str | None = key(
        "of the same: give the solution up to this mark too", None, prose=True
    )
    clean_start: str | None = key(
        "of answer_style pairs; null: <think>Okay, so I ...", None, prose=True
    )
    corrupted_start: str | None = key(
        "the other style; null: To determine the ...", None, prose=True
    )
    prefix_tokens: int = key("tokens of the starts that are kept", 8, COUNT)
    system_prompt: str | None = key(
        "before the question; null: that of the model's run", None, prose=True
    )
    suffix: str | None = key("after the question; null: that of the model's run", None, prose=True)
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    dtype: str = key("float32, float64 or bfloat16", "float32")


def build_pairs(options: Options, tokenizer: PreTrainedTokenizerBase) -> dict[str, Pairs]:
    """The pairs of each mode; pair i is of the same problems in both.

    Raises:
        ValueError: too few problems are pairs in both modes, or the source gives too few.
    """
    from analysis.comparison.thinking import MODES
    from analysis.prompts.benchmarks import problems_for_pairs
    from analysis.prompts.columns import Columns
    from analysis.prompts.pair_building import (
        answer_style_pairs,
        common_counterfactual_pairs,
    )
    from analysis.records.checkpoints import find_model
    from analysis.records.run_prompting import prompting_for

    o = options
    if o.kind not in KINDS:
        raise ValueError(f"kind is {o.kind!r}; choose one of: {', '.join(KINDS)}")
    if o.size < 1:
        raise ValueError(f"size must be at least 1 pair, not {o.size}")
    if o.options is not None and not isinstance(o.options, dict):
        raise ValueError(f"options is {o.options!r}; write 'options={{terms: 3}}'")
    model = find_model(o.model)
    ask = [prompting_for(model, o.system_prompt, o.suffix, mode) for mode in MODES]
    wanted = o.size if o.kind == "answer_style" else POOL * o.size
    columns = Columns(
        o.problem_column,
        o.answer_column,
        o.solution_column,
        o.answer_pattern,
        ask[0].system_prompt,
    )
    templates = f"{o.prefix}{o.clean_start}{o.corrupted_start}"
    solutions = o.cut_solution_after is not None or "{solution}" in templates
    problems = problems_for_pairs(o.source, wanted, o.seed, o.options, columns, solutions)
    if o.kind == "counterfactual":
        found = common_counterfactual_pairs(
            tokenizer, problems, ask, o.size, o.prefix, o.cut_solution_after
        )
        return dict(zip(MODES, found, strict=True))
    if len(problems) < o.size:
        raise ValueError(f"{o.source} has {len(problems)} problems, fewer than size={o.size}")
    starts = (o.clean_start or CLEAN_START, o.corrupted_start or CORRUPTED_START, o.prefix_tokens)
    found = [answer_style_pairs(tokenizer, problems, prompting, *starts) for prompting in ask]
    return dict(zip(MODES, found, strict=True))


def start_trackers(
    options: Options, model: str, tokenizer: PreTrainedTokenizerBase, pairs: dict[str, Pairs]
) -> dict[str, HeadTracker]:
    """The run of each mode, made or checked, and its tracker. model: path of its weights.

    Raises:
        ValueError: a setting is wrong, or OUT was made of another model, pairs or settings.
    """
    from analysis.commands import track
    from analysis.commands.tracked_run import prepare_run
    from analysis.records.run_file import RunFile, is_run
    from analysis.tracking.tracker import HeadTracker

    settings = options.tracking.settings()
    trackers = {}
    for mode in pairs:
        run = Path(options.out) / mode
        if is_run(run):
            file = RunFile.read(run)
            for name, saved, now in (
                ("base", file.base, model),
                ("dtype", file.dtype, options.dtype),
            ):
                if saved != now:
                    raise ValueError(
                        f"{run} was measured with {name} {saved}, not {now}; give the same, or "
                        "another out=DIR"
                    )
        prepare_run(
            track.Options(
                run=str(run),
                checkpoints=[],
                base=model,
                pairs=str(run / "pairs.jsonl"),
                tracking=options.tracking,
                dtype=options.dtype,
            )
        )
        trackers[mode] = HeadTracker(run, pairs[mode], settings, tokenizer)
        trackers[mode].start()
    return trackers


def track_modes(options: Options, model: Named, trackers: dict[str, HeadTracker]) -> None:
    """Measure the modes that have no record; no weight is loaded if both have one."""
    from analysis.models.loading import load_model

    todo = [mode for mode in trackers if not trackers[mode].is_tracked(0)]
    print(f"2 modes, {len(trackers) - len(todo)} of them measured already", flush=True)
    if not todo:
        return
    loaded = load_model(model.path, options.dtype, base=model.base)
    for mode in todo:
        print(f"think {mode}: {trackers[mode].run}", flush=True)
        trackers[mode].track(loaded, 0)


def read_mode(run: Path) -> Record:
    """The record of one mode.

    Raises:
        ValueError: it is missing or marked invalid.
    """
    from analysis.records.record_files import invalid_steps, read_record

    record = read_record(run, 0)
    if record is None:
        reason = invalid_steps(run).get(0, "it has no record")
        raise ValueError(f"there is no circuit in {run}: {reason}")
    return record


def write(options: Options, modes: Modes) -> None:
    """Write OUT/think.json and the lists of heads."""
    from analysis.comparison.thinking import SETS, summary
    from analysis.files import write_json

    out, names = Path(options.out), modes.head_names()
    for name in SETS:
        ordered, called = modes.ordered(name), modes.called(name)
        heads = {
            "heads": [names[head] for head in ordered],
            "called": [names[head] for head in ordered if called[head]],
        }
        write_json(out / "heads" / f"{name}.json", heads)
    write_json(out / "think.json", {**summary(modes), "options": asdict(options)})


def next_steps(options: Options, modes: Modes) -> str:
    """The commands that take the think-off-only heads away and halve them, in think-off mode."""
    from analysis.prompts.benchmarks import default_suffix
    from analysis.records.checkpoints import find_model
    from analysis.records.run_prompting import prompting_for

    count = len(modes.ordered("think-off-only"))
    if count == 0:
        return "No head is in the think-off circuit alone, so there is none to ablate."
    o = options
    heads = f"{Path(o.out) / 'heads' / 'think-off-only.json'}:{min(count, TRIED)}"
    words = [f"model={o.model}", f"task={o.source}", "think=off"]
    words += [f"options={json.dumps(o.options)}"] if o.options else []
    for name, standard in (("problem_column", "problem"), ("answer_column", "answer")):
        words += [f"{name}={getattr(o, name)}"] if getattr(o, name) != standard else []
    words += [f"answer_pattern={json.dumps(o.answer_pattern)}"] if o.answer_pattern else []
    words += [f"system_prompt={json.dumps(o.system_prompt)}"] if o.system_prompt else []
    asked = prompting_for(find_model(o.model), suffix=o.suffix)
    by_default = prompting_for(
        find_model(o.model), task=o.source, default_suffix=default_suffix(o.source)
    )
    if asked.suffix != by_default.suffix:
        words += [f"suffix={json.dumps(asked.suffix)}"]  # as the circuits were measured
    commands = [
        shlex.join(["headlab", "evaluate", *words, f"intervention={change}:{heads}"])
        for change in ("zero", "scale:0.5")
    ]
    called = int(modes.called("think-off-only").sum())
    doubt = "" if called else ", none of which is called: they may be noise"
    return "\n".join([f"To test the think-off-only heads{doubt}:", *commands])


def act(options: Options) -> None:
    """Track both modes, compare them, write and print."""
    from transformers.utils import logging as transformers_logging

    from analysis.comparison.thinking import compare_modes, format_modes
    from analysis.models.loading import DTYPES
    from analysis.records.checkpoints import find_model

    if options.dtype not in DTYPES:
        raise ValueError(f"unknown dtype {options.dtype!r}; known: {', '.join(DTYPES)}")
    transformers_logging.disable_progress_bar()
    named = find_model(options.model)
    tokenizer = named.load_tokenizer()
    pairs = build_pairs(options, tokenizer)
    track_modes(options, named, start_trackers(options, named.path, tokenizer, pairs))
    q, out = options.tracking.fdr, Path(options.out)
    modes = compare_modes(read_mode(out / "on"), read_mode(out / "off"), q)
    write(options, modes)
    print(format_modes(modes, q))
    print(f"wrote {out / 'think.json'}")
    print(next_steps(options, modes))
