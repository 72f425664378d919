"""Start the processes of a run on this machine and stay with them until they end."""

from __future__ import annotations

import os
import signal
import subprocess
import types
from pathlib import Path

from omegaconf import DictConfig

from launch.processes import Node, command, environment, local_node

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def local_command(cfg: DictConfig, node: Node, config_file: Path) -> list[str]:
    """The command of a run on this machine; without a port the processes find a free one."""
    port = cfg.resources.port
    meeting = ["--standalone"]
    if port is not None:
        meeting = [
            *("--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}"),
            f"--rdzv-id={cfg.name}",
        ]
    return command(cfg, node, config_file, meeting)


def devices(node: Node, visible: str | None) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES for a node's GPUs: the first of those that are visible now.

    With more than it has processes, a lone process would spread its model over all of them.
    """
    if node.gpus == 0:
        return {}
    names = visible.split(",") if visible else [str(index) for index in range(node.gpus)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[: node.gpus])}


def start(cfg: DictConfig, config_file: Path, token: str) -> int:
    """Run the processes; their status, as a shell gives it.

    `token` is that of the run's lock, which the first process takes over.

    Raises:
        SystemExit: with the status, if a signal stopped this process; it was passed on.
    """
    node = local_node(cfg.resources)
    given = {
        **os.environ,
        **environment(cfg, node),
        **devices(node, os.environ.get("CUDA_VISIBLE_DEVICES")),
        "HEADLAB_LOCK": token,
    }
    status, stopped = run_forwarding(local_command(cfg, node, config_file), given)
    if stopped:  # also ends a sweep
        raise SystemExit(status)
    return status


def run_forwarding(words: list[str], given: dict[str, str]) -> tuple[int, bool]:
    """Run a command, passing on the signals that ask to stop.

    The command has a process group of its own, so that a Ctrl-C in a terminal reaches it once, from
    here, and not a second time from the terminal.

    Returns:
        The command's status, as a shell gives it, and whether a signal was passed on.
    """
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, frame: types.FrameType | None) -> None:
        received.append(number)
        if child is not None:
            child.send_signal(number)

    heeded = [number for number in FORWARDED if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in heeded}
    try:
        child = subprocess.Popen(words, env=given, process_group=0)
        for number in received:  # those that came before there was a child
            child.send_signal(number)
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return (status if status >= 0 else 128 - status), bool(received)
