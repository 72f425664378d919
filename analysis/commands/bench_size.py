"""Time and memory of what is made of a long run: `headlab bench part=size`.

A run of made-up records is written into a directory of the system's temporary files. Then naming
heads, the trajectory, the report and publishing (to an offline run of W&B) are timed, each in a
process of its own that starts with nothing in memory. Seconds of CPU, which a busy machine changes
least, are those of that process and of the ones that it has started and waited for (W&B's).
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.context import SpawnContext
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

PAIRS, HEADS_OF_KV, STEP = 8, 4, 10
NOISE, DRIFT = 0.3, 0.02  # of the log strength of heads: in resamples, and from one to the next
INSIDE = 0.3  # share of the heads that are in the circuit


def write_run(run: Path, checkpoints: int, layers: int, heads: int, resamples: int) -> None:
    """A run whose heads drift away from its base; its scores of single pairs are left out."""
    import torch

    from analysis.heads.resampling import SWEEP, Resampled, Selection
    from analysis.models.graph import Graph
    from analysis.records.record import Record
    from analysis.records.record_files import write_record
    from analysis.records.run_file import RunFile

    graph = Graph(layers, heads, HEADS_OF_KV if heads % HEADS_OF_KV == 0 else heads)
    n_heads, generator = graph.n_heads_total, torch.Generator().manual_seed(0)
    start, way = (torch.randn(n_heads, generator=generator) for _ in range(2))
    mean = torch.randn(graph.n_edges, generator=generator)
    circuit = torch.rand(graph.n_edges, generator=generator) < 0.05
    metric = torch.tensor([[0.4], [0.0], [2.0]]) + torch.rand(3, PAIRS, generator=generator)
    RunFile(run.name, "sft", "loss").write(run)
    for number in range(checkpoints):
        noise = NOISE * torch.randn(1 + resamples, n_heads, generator=generator)
        noise[0] = 0
        strength = (start + DRIFT * number * way + noise).exp()
        threshold = strength.quantile(1 - INSIDE, dim=1)
        share = strength * (strength >= threshold[:, None])
        degree = strength.clamp_max(30).to(torch.int16)
        tables = Resampled(
            strength=strength,
            signed=0.9 * strength,
            importance=share / share.sum(1, keepdim=True),
            out_degree=degree,
            in_degree=degree.clone(),
            threshold=threshold,
            sweep=torch.stack([threshold / factor**0.5 for factor in SWEEP], 1),
        )
        record = Record(
            step=STEP * number,
            graph=graph,
            pairs_hash="made up",
            settings={"metric": "kl", "resamples": resamples, "seed": 0},
            origin={},
            selection=asdict(Selection(int(circuit.sum()))),
            completeness_gap=0.01,
            metric_clean=0.0,
            metric_corrupted=2.0,
            n_pairs=PAIRS,
            seconds=1.0,
            circuit=circuit,
            mean=mean,
            evaluation=metric,
            resampled=tables,
        )
        write_record(run, record, torch.zeros(1, 1))


def name_heads(run: Path, layers: int, heads: int) -> None:
    from analysis.interventions.head_sets import parse_heads
    from analysis.models.graph import Graph

    parse_heads(f"{run}@last:emergent:10", Graph(layers, heads, heads))


def trajectory(run: Path, layers: int, heads: int) -> None:
    from analysis.trajectories.run import Run
    from analysis.trajectories.trajectory import write_trajectory

    write_trajectory(run / "trajectory.json", Run.read(run).points)


def report(run: Path, layers: int, heads: int) -> None:
    from analysis.commands.report import Options, act

    act(Options(runs=str(run)))


def publish(run: Path, layers: int, heads: int) -> None:
    from analysis.commands.publish import Options, act

    act(Options(run=str(run), mode="offline"))


MEASURED = {"naming ten heads": name_heads, "trajectory": trajectory, "report": report}
MEASURED["publish"] = publish


def _cpu() -> float:
    """Seconds of CPU that this process and those that it has waited for have taken."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _measure(
    what: str, run: Path, layers: int, heads: int, queue: Queue[tuple[float, float, int]]
) -> None:
    started, before = time.perf_counter(), _cpu()
    MEASURED[what](run, layers, heads)
    seconds, cpu = time.perf_counter() - started, _cpu() - before
    queue.put((seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def _in_a_process(context: SpawnContext, what: str, act: Callable[..., None], *given: Any) -> None:
    process = context.Process(target=act, args=given)
    process.start()
    process.join()
    if process.exitcode:
        raise ValueError(f"{what} ended with status {process.exitcode}")


def measure_size(checkpoints: int, layers: int, heads: int, resamples: int) -> None:
    """Write a run, and print seconds and peak memory of each thing that is made of it."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="headlab-bench-") as scratch:
        run = Path(scratch) / "run"
        # this process stays small, as Linux counts its peak as that of each that it starts
        written = (run, checkpoints, layers, heads, resamples)
        _in_a_process(context, "writing the run", write_run, *written)
        print(f"{checkpoints} checkpoints of {layers} x {heads} heads, {resamples} resamples")
        for what in MEASURED:
            queue = context.Queue()
            _in_a_process(context, what, _measure, what, run, layers, heads, queue)
            seconds, cpu, peak = queue.get()
            spent = f"{seconds:.1f} s, {cpu:.1f} s of CPU"
            print(f"{what}: {spent}, peak of its memory {peak / 2**30:.2f} GiB", flush=True)
