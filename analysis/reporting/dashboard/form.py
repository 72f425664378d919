"""The form of the data that the report's page draws, as JSON: one source for Python and the page.

    page ── runs[] ─┬─ judged        of all checkpoints together; a new checkpoint may change it
                    └─ checkpoints[] each of one record and the base; never changes once written

A page that grows while a run goes on is sent `judged` whole, and of `checkpoints` only new ones. A
head is known by its place in `heads` everywhere; T checkpoints, H heads, E edges, P pairs. What is
not known is null in lists and NaN in packed arrays.

`python -m analysis.reporting.dashboard RUN...` prints the data of runs.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

SCHEMA = 1
# of `state`: the raw state of a head against the base, by its number
STATES = ("never", "retained", "emergent", "pruned", "transient")
# of `settled`
SETTLED = ("no", "emergent", "pruned", "transient")


class Packed(TypedDict):
    """An array: little-endian numbers in base64, row by row.

    d: u8, u16, u32, f16 or f32. s: its shape.
    """

    d: str
    s: list[int]
    b: str


class Column(TypedDict):
    """A curve over the checkpoints, with its 95 % interval; each [T], null where unknown.

    chance, chance_high: mean and 97.5 % point of what two resamples of the base give, with nothing
    changed. form: how a value is written: `count` 14, `percent` (of a share), `number` 0.71.
    term: the key of `terms` that explains it, where there is one.
    """

    label: str
    form: str
    term: str | None
    value: list[float | None]
    low: NotRequired[list[float | None]]
    high: NotRequired[list[float | None]]
    chance: NotRequired[list[float | None]]
    chance_high: NotRequired[list[float | None]]


class Tile(TypedDict):
    """A number of the first screen: texts for each checkpoint, [T], and columns for its sparkline.

    value may be `-`, the others may be empty. interval: with its brackets. change: against the
    base. note: what else has to be said.
    """

    title: str
    term: str | None
    columns: list[str]
    value: list[str]
    interval: list[str]
    change: list[str]
    note: list[str]


class Signal(TypedDict):
    """What the training is followed by, as it was logged: loss, reward, ...

    of: how many values were logged; where these are more than the points here, each point is the
    mean of as many that followed one another, at the step of the last of them.
    """

    name: str
    steps: list[int]
    values: list[float | None]
    of: int


class Roles(TypedDict):
    """What heads attend to and copy at one checkpoint, the last that has a record.

    titles: of the S scores, by their names. value, low, high: f16 [S, H].
    """

    step: int
    titles: dict[str, str]
    value: Packed
    low: Packed
    high: Packed


class Judged(TypedDict):
    """What is known when all checkpoints are: sent whole.

    steps: [T]. state: u8 [T, H], of STATES. called: u8 [T, H], 1 where the change is called.
    settled: u8 [T, H], of SETTLED. columns: by name, in the order in which to offer them; those
    that the run does not have are absent. invalid: steps that could not be measured, with the
    reason. verdict: one sentence on the last checkpoint. tiles: four. roles: of the last.
    """

    steps: list[int]
    state: Packed
    called: Packed
    settled: Packed
    columns: dict[str, Column]
    invalid: dict[str, str]
    verdict: str
    tiles: list[Tile]
    roles: Roles | None


# `from` is no name of Python's
Edges = TypedDict(
    "Edges", {"from": Packed, "to": Packed, "score": Packed, "all": int, "left_out": int}
)
Edges.__doc__ = """The circuit's edges, the strongest first.

from: u16 [E], places in `graph.nodes.name`. to: u16 [E], places in `graph.readers.name`. score: f32
[E], the mean over pairs with its sign. all: edges of the circuit. left_out: those that are not
here, which are the weakest.
"""


class Patterns(TypedDict):
    """Attention from the positions where the metric is read, in the mean over these, per pair.

    weights: for each of the P pairs u8 [H, tokens]: 255 times the share of a head's attention.
    unseen: heads without a pattern (linear attention, or none that is seen); their rows are 0.
    """

    weights: list[Packed]
    unseen: list[int]


class Checkpoint(TypedDict):
    """One record.

    importance, importance_low, importance_high: f16 [H], NaN where sums of scores are no amounts.
    inclusion: f16 [H], share of the resamples in which a head is in the circuit. margin: f16 [H],
    log of a head's strength over the circuit's threshold: above 0 it is in. p_value: f32 [H], of
    its change against the base; 1e-37 stands for all that are smaller and above 0. edges: of the
    circuit. patterns: null where none are stored, or left out to keep the page small.
    """

    step: int
    importance: Packed
    importance_low: Packed
    importance_high: Packed
    inclusion: Packed
    margin: Packed
    p_value: Packed
    edges: Edges
    patterns: Patterns | None


class Nodes(TypedDict):
    """What writes into the stream, and `logits` last: names as `a0.h1`, `m0`, `input`.

    layer: of each; 0 for `input`, the number of layers for `logits`. head: its place in `heads`, or
    -1.
    """

    name: list[str]
    layer: list[int]
    head: list[int]


class Readers(TypedDict):
    """What reads from the stream: names as `a0.h1<q>`, `a0.kv0<k>`, `m0`, `logits`.

    side: the letter in brackets (q, k, v, ...), empty without one. feeds: the nodes that it feeds,
    as places in `nodes.name`; a shared key or value head feeds several heads.
    """

    name: list[str]
    side: list[str]
    feeds: list[list[int]]


class Shape(TypedDict):
    """The graph of the model.

    layers: how many heads each layer has. linear: heads without a pattern (linear attention,
    state-space models), as places in `heads`.
    """

    layers: list[int]
    linear: list[int]
    nodes: Nodes
    readers: Readers


class RunData(TypedDict):
    """A run.

    label: its name, and its path where names are equal. kind: sft, grpo, track, ... state: what it
    does now (running, ended, stopped), by who watches it; null on a page that is written. graph,
    heads: null and empty before the first record of the base. tokens: of the stored clean prompts,
    [P] lists of texts. ablate: a command in parts; every second one is a name, `step` or `head`, to
    be replaced by the one that is shown: ["headlab ... step=", "step", " heads=", "head", ""].
    """

    name: str
    label: str
    kind: str
    state: str | None
    signal: Signal | None
    graph: Shape | None
    heads: list[str]
    tokens: list[list[str]]
    ablate: list[str]
    judged: Judged
    checkpoints: list[Checkpoint]


class Numbers(TypedDict):
    """A number of two circuits, as texts. called: of the heads that differ; chance: what two
    resamples of a give, with nothing changed; null and empty where that is no question."""

    title: str
    term: str | None
    shown: str
    called: int | None
    chance: str


class Group(TypedDict):
    """Heads that were gained or lost since the base of their own run.

    group: `both`, `only a`, `only b`. jaccard: of those with this change in a and those in b.
    """

    change: str
    group: str
    shown: str
    called: int | None
    heads: list[int]
    jaccard: str


class Pair(TypedDict):
    """Two runs at their last checkpoints.

    a, b: places in `runs`. alike: whether their graphs are equal. differ: what was measured
    otherwise; if anything was, the lists after it are empty. called: heads in one circuit only
    beyond the noise of the pairs. since: empty where a run has no checkpoint after its base.
    """

    a: int
    b: int
    steps: list[int]
    alike: bool
    differ: list[str]
    numbers: list[Numbers]
    called: list[int]
    since: list[Group]


class PageData(TypedDict):
    """All that is drawn.

    verdict: sentences, of each run and between them. terms: what a term means, in plain text. code:
    who wrote the page. between: each two of the runs with heads; null without two.
    """

    schema: int
    title: str
    verdict: list[str]
    code: str
    terms: dict[str, str]
    runs: list[RunData]
    between: list[Pair] | None
