"""Time and memory of attribution against the floor, and time of the bootstrap.

    headlab bench shape=smollm2-135m tokens=64 batch=4 steps=5
    headlab bench part=bootstrap shape=qwen2.5-1.5b batch=64 resamples=1000
    headlab bench part=size checkpoints=300
    headlab bench part=page checkpoints=300
    headlab bench part=worlds worlds=20
    headlab bench part=stability shape=DIR prompts=pairs.jsonl methods=EAP-IG-inputs,CEAP,GIM

The floor is 2 forward passes and `steps` forward-and-backward passes to the embeddings of the plain
Hugging Face model with frozen weights: same batch, same attention implementation, logits at the
target positions only. Random weights of a named shape (or any local model's directory); float32 on
a CPU, bfloat16 on a GPU. Both are timed in this process, in turns; the ratio is that of the
medians. Memory is the peak above the weights, each side in a process of its own; its limit is
1.5 times the floor's plus sources x d x 4 bytes per token.

The bootstrap (analysis/heads/resampling.py) needs no model: random scores of `batch` pairs on the
graph of the shape. The size of a run (analysis/commands/bench_size.py) needs none either, nor its
page in a browser (analysis/commands/bench_page.py), nor how often calls are right where the truth
is known (analysis/commands/bench_worlds.py). How methods compare
(analysis/commands/bench_stability.py) needs a trained model and pairs.
"""

from __future__ import annotations

import logging
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli import key
from analysis.commands.bench_page import measure_page
from analysis.commands.bench_size import measure_size
from analysis.commands.bench_stability import asked, measure_stability
from analysis.commands.bench_worlds import measure_worlds
from analysis.files import to_json
from analysis.ranges import COUNT, PART, Range

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

    from transformers import PreTrainedModel

    from analysis.prompts.pairs import Pairs


SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "qwen2.5-1.5b": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}


@dataclass
class Options:
    part: str = key("attribution, bootstrap, size, page, worlds or stability", "attribution")
    shape: str = key("a named shape, or a local model's directory", "smollm2-135m")
    batch: int = key("pairs in one pass", 4, COUNT)
    tokens: int = key("tokens of each pair", 64, COUNT)
    steps: int = key("points on the path", 5, COUNT)
    kv: str = key("grouped or ungrouped", "grouped")
    recompute: bool = key("attribution: run each layer twice", False)
    fraction: float = key("bootstrap: share of the edges in the circuit", 0.05, PART)
    resamples: int = key("bootstrap, size and page: resamples of the pairs", 1000, COUNT)
    checkpoints: int = key("size and page: of the run", 300, COUNT)
    layers: int = key("size and page: layers, with as many heads in each", 28, COUNT)
    run: str | None = key("page: a run; default: one that is made up", None)
    browser: str = key("page: the program of a Chromium", "chromium")
    worlds: int = key("worlds: how many, of each kind", 20, Range(2))
    pairs: int = key("worlds: pairs of each", 32, Range(2))
    base_pairs: int = key("worlds: times as many pairs for the base", 4, COUNT)
    scores: str | None = key(
        "worlds: RUN@STEP, a record whose scores of single pairs the worlds are drawn from; "
        "default: lognormal worlds",
        None,
    )
    prompts: str | None = key("stability: JSONL file of pairs", None)
    methods: str = key(
        "stability: NAME, NAME:POINTS or NAME:auto, the first is what the others are compared with",
        "EAP-IG-inputs,CEAP",
    )
    metric: str = key("stability: kl, logit_diff or nll", "logit_diff")
    shares: str = key("stability: sizes of the circuits, as shares of the edges", "0.01,0.05")
    splits: int = key("stability: cuts of the pairs into halves", 50, Range(2))
    repeats: int = key("timed runs of each side, after one that is not", 7, COUNT)
    memory: bool = key("measure peak memory too (builds the model twice more)", True)
    time: bool = key("measure time", True)


def build(options: Options) -> PreTrainedModel:
    """The model of a shape with random weights, or the one in a directory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from analysis.models.loading import load_model

    on_gpu = torch.cuda.is_available()
    dtype = "bfloat16" if on_gpu else "float32"
    if options.shape in SHAPES:
        shape = dict(SHAPES[options.shape])
        config = AutoConfig.for_model(**shape, max_position_embeddings=32768)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), trust_remote_code=False
        )
    elif Path(options.shape).is_dir():
        model = load_model(options.shape, dtype)
    else:
        raise ValueError(f"no shape and no directory {options.shape!r}; known: {', '.join(SHAPES)}")
    return model.eval().requires_grad_(False).to("cuda" if on_gpu else "cpu")


def random_pairs(options: Options, vocabulary: int) -> Pairs:
    """Pairs of random tokens, all of one length."""
    import torch

    from analysis.prompts.pairs import Pair, Pairs

    generator = torch.Generator().manual_seed(1)
    shape = (2, options.batch, options.tokens)
    clean, corrupted = torch.randint(10, vocabulary, shape, generator=generator).tolist()
    return Pairs([Pair(tuple(a), tuple(b)) for a, b in zip(clean, corrupted, strict=True)])


def sides(options: Options) -> tuple[Callable[[], object], Callable[[], object]]:
    """The floor and the attribution, ready to run."""
    import torch

    logging.getLogger("analysis.attribution.eap").setLevel(
        logging.WARNING
    )  # it is called many times

    from analysis import attribute
    from analysis.attribution.metrics import kl

    model = build(options)
    pairs = random_pairs(options, model.config.vocab_size)
    (batch,) = (b.to(model.device) for b in pairs.batches(options.batch))

    def logits(**inputs: torch.Tensor) -> torch.Tensor:
        hidden = model.model(**inputs, attention_mask=batch.mask, use_cache=False).last_hidden_state
        return model.lm_head(hidden[batch.rows, batch.positions]).float()

    def floor() -> None:
        with torch.no_grad():
            clean = logits(input_ids=batch.clean)
            logits(input_ids=batch.corrupted)
            embeddings = [model.model.embed_tokens(x) for x in (batch.clean, batch.corrupted)]
        for step in range(options.steps):
            mixed = torch.lerp(embeddings[1], embeddings[0], step / options.steps).requires_grad_()
            loss = kl(logits(inputs_embeds=mixed), clean, batch).sum()
            torch.autograd.grad(loss, mixed)
        _synchronize()

    def attribution() -> None:
        o = options
        attribute(
            *(model, pairs),
            ig_steps=o.steps,
            kv=o.kv,
            batch_size=o.batch,
            recompute=o.recompute,
        )
        _synchronize()

    return floor, attribution


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_time(options: Options) -> dict[str, Any]:
    """Seconds of each run of both sides, in turns, and the ratio of their medians."""
    runs = dict(zip(("floor", "attribution"), sides(options), strict=True))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(options.repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if repeat:  # the first is not counted
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    pairs = [a / f for f, a in zip(seconds["floor"], seconds["attribution"], strict=True)]
    return {
        "ratio": medians["attribution"] / medians["floor"],
        "ratio_range": [min(pairs), max(pairs)],
        "seconds": medians,
        "all_seconds": seconds,
    }


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


def _peak_of(options: Options, side: int, queue: Queue[tuple[int, int]]) -> None:
    import torch

    run = sides(options)[side]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        queue.put((before, torch.cuda.max_memory_allocated()))
        return
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
    run()
    queue.put((before, _status("VmHWM")))


def measure_memory(options: Options) -> dict[str, Any]:
    """Peak bytes above the weights of both sides, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for side, name in enumerate(("floor", "attribution")):
        queue = context.Queue()
        process = context.Process(target=_peak_of, args=(options, side, queue))
        process.start()
        while queue.empty() and process.is_alive():
            time.sleep(0.1)
        process.join()
        if process.exitcode:
            raise ValueError(f"the {name} process ended with status {process.exitcode}")
        before, peak = queue.get()
        peaks[name] = {"before": before, "peak": peak, "above": peak - before}
    return peaks


def bootstrap_seconds(options: Options) -> list[float]:
    """Seconds of each run of the bootstrap, after one that is not counted."""
    import torch

    from analysis.circuits.circuit import edge_budget
    from analysis.heads.resampling import Selection, resample_heads
    from analysis.models.graph import Graph

    shape = _dimensions(options)
    graph = Graph(shape["layers"], shape["heads"], shape["kv_heads"], options.kv)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(options.batch, graph.n_edges, generator=generator)
    selection = Selection(edge_budget(graph, None, options.fraction))
    seconds = []
    for _ in range(options.repeats + 1):
        started = time.perf_counter()
        resample_heads(graph, scores, selection, options.resamples, seed=0)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def act(options: Options) -> None:
    """Measure, and print what was measured."""
    import torch

    parts = ("attribution", "bootstrap", "size", "page", "worlds", "stability")
    if options.part not in parts:
        raise ValueError(f"part is {options.part!r}; choose one of: {', '.join(parts)}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    print(f"{device or 'CPU'}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(to_json(asdict(options)))
    if options.part == "size":
        measure_size(options.checkpoints, options.layers, options.layers, options.resamples)
        return
    if options.part == "page":
        o = options
        measure_page(o.run, o.checkpoints, o.layers, o.resamples, o.browser, o.repeats)
        return
    if options.part == "worlds":
        measure_worlds(options.worlds, options.pairs, options.scores, options.base_pairs)
        return
    if options.part == "stability":
        o = options
        what = asked(o.methods, o.steps, o.metric, o.shares, o.splits, o.batch)
        measure_stability(o.shape, o.prompts, what)
        return
    if options.part == "bootstrap":
        runs = bootstrap_seconds(options)
        print(
            f"{options.resamples} resamples of {options.batch} pairs: median "
            f"{statistics.median(runs):.2f} s [{min(runs):.2f}-{max(runs):.2f}, {len(runs)} runs]"
        )
        return
    if options.time:
        timed = measure_time(options)
        low, high = timed["ratio_range"]
        seconds = timed["seconds"]
        print(
            f"time: {timed['ratio']:.3f} times the floor [{low:.3f}-{high:.3f} over "
            f"{options.repeats} turns]; medians {seconds['attribution']:.2f} s and "
            f"{seconds['floor']:.2f} s"
        )
    if options.memory:
        peaks = measure_memory(options)
        shape = _dimensions(options)
        allowance = shape["sources"] * shape["d_model"] * 4 * options.batch * options.tokens
        limit = 1.5 * peaks["floor"]["above"] + allowance
        gib = {name: value["above"] / 2**30 for name, value in peaks.items()}
        print(
            f"memory above the weights: {gib['attribution']:.2f} GiB, floor {gib['floor']:.2f} GiB "
            f"(ratio {gib['attribution'] / gib['floor']:.2f}); limit {limit / 2**30:.2f} GiB; "
            f"peak of the whole process {peaks['attribution']['peak'] / 2**30:.2f} GiB"
        )


def _dimensions(options: Options) -> dict[str, int]:
    from analysis.models.loading import load_config

    shape = SHAPES.get(options.shape) or load_config(options.shape).to_dict()
    layers, heads = shape["num_hidden_layers"], shape["num_attention_heads"]
    return {
        "layers": layers,
        "heads": heads,
        "kv_heads": shape["num_key_value_heads"],
        "sources": 1 + layers * (heads + 1),
        "d_model": shape["hidden_size"],
    }
