"""Python processes that begin with the heavy packages already imported.

A Python that trains spends 6 s of a core on importing torch, transformers and TRL, and the tests
start some hundred. `warm_python()` is a program to start in the place of `sys.executable`, with
`-m MODULE`, `-c CODE` or a file. One server, which pytest's workers share, makes the imports once
and forks for every process that is asked for: `warm_client.py` hands over its arguments, directory,
environment and standard streams, passes on signals, and ends as the fork ends. To the fork,
`sys.executable` is that program, so what it starts is warm too: a launcher, torchrun and its ranks
are processes of their own as ever, through every line that a user's are.

Only other people's packages are imported beforehand; each process imports the project's modules
itself, and has random states of its own (the hash seed is the server's). `pid_of` is the fork
behind such a process, which is to be killed where SIGKILL is tested. What is about a process's
parents and children, or its start, is tested with `sys.executable`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PACKAGES = (
    *("datasets", "hydra", "math_verify", "peft", "plotly.graph_objects", "scipy.stats"),
    "deepspeed.runtime.zero.muon.muon_optimizer",  # which brings the compiler of torch
)


@functools.cache
def warm_python() -> str:
    """The program to start; the server is started by whoever asks first."""
    uid = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
    pytest = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    home = Path(tempfile.gettempdir()) / f"headlab-warm-{uid}"
    program = home / "python"
    try:
        home.mkdir(mode=0o700)
    except FileExistsError:
        while not program.exists():  # another worker is a moment ahead
            time.sleep(0.01)
        return str(program)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(home / "socket"))
    listener.listen(64)  # clients wait here while the server makes its imports
    draft = home / "draft"
    client = Path(__file__).with_name("warm_client.py").read_text(encoding="utf-8")
    draft.write_text(f"#!{sys.executable} -IS\n{client}", encoding="utf-8")
    draft.chmod(0o700)
    given = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    given["OMP_NUM_THREADS"] = "1"  # a thread does not survive a fork
    given["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    with open(home / "log", "w") as log:
        subprocess.Popen(
            [sys.executable, __file__, str(home), str(pytest), str(listener.fileno())],
            cwd=home,
            env=given,
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    listener.close()
    draft.rename(program)
    return str(program)


def pid_of(process: subprocess.Popen[Any]) -> int:
    """The fork that does the work of a process of `warm_python()`, once it is there.

    Raises:
        ProcessLookupError: the process has ended.
    """
    note = Path(warm_python()).with_name(str(process.pid))
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError, ValueError):  # the server is about to write it
            return int(note.read_text())
        time.sleep(0.002)
    raise ProcessLookupError(f"process {process.pid} has ended")


def finished(
    words: Sequence[str], directory: Path, seconds: float = 300, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A process of `warm_python()` with these arguments, once it has ended with status 0."""
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [warm_python(), *words],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": root, **variables},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def import_packages() -> None:
    """What a process of a training run, of a launcher and of torchrun imports, and first makes."""
    import importlib
    import inspect

    import transformers
    from torch.distributed.run import run  # noqa: F401
    from transformers import conversion_mapping
    from trl import GRPOTrainer, SFTTrainer  # noqa: F401

    for name in PACKAGES:
        importlib.import_module(name)
    transformers.AutoModelForCausalLM, transformers.Qwen3ForCausalLM  # noqa: B018 - these load late
    conversion_mapping.get_checkpoint_conversion_mapping("qwen3")  # a table of all models' names
    # torchrun asks for the source of each frame at each event, and goes through all modules for
    # those that it can't find
    inspect.stack()
    inspect.modulesbyfile |= dict.fromkeys(("<frozen runpy>", __file__), "runpy")
    threads = [Path(path, "comm").read_text() for path in Path("/proc/self/task").iterdir()]
    if len(threads) > 1:
        raise RuntimeError(f"an import has started a thread, so forks are not safe: {threads}")


def receive(connection: socket.socket) -> tuple[list[str], str, dict[str, str], list[int]]:
    """The arguments, directory, environment and streams of a process that a client asks for."""
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    if len(head) < 8:
        raise ValueError("the client has ended")
    with connection.makefile("rb") as stream:
        arguments, directory, environment = json.loads(stream.read(struct.unpack("q", head)[0]))
    return arguments, directory, environment, streams


def serve(
    listener: socket.socket, pytest: int
) -> tuple[list[str], str, dict[str, str], list[int]] | None:
    """Fork for each client: returns in each fork what it is to be, and None once pytest has ended.

    Watched are the listener, pytest itself, the clients (each byte is a signal, and the end of the
    stream that of the client) and the forks, of which the client gets the status.
    """
    watch = selectors.DefaultSelector()
    watch.register(listener, selectors.EVENT_READ, None)
    watch.register(end := os.pidfd_open(pytest), selectors.EVENT_READ, None)
    while True:
        for key, _ in watch.select():
            if key.fileobj == end:
                for other in watch.get_map().values():
                    if isinstance(other.fileobj, int) and other.data:
                        os.kill(other.data[0], signal.SIGKILL)
                return None
            if key.fileobj is listener:
                connection, _ = listener.accept()
                try:
                    request = receive(connection)
                except (OSError, ValueError):  # the client was killed before it had said all
                    connection.close()
                    continue
                client = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                place = Path(str(struct.unpack("3i", client)[0]))
                child = os.fork()
                if child == 0:
                    # here, so that it stands before the first word of the process
                    place.write_text(str(os.getpid()))
                    for other in watch.get_map().values():
                        if other.fileobj is not listener:
                            os.close(other.fd)
                    watch.close()
                    connection.close()
                    return request
                for stream in request[3]:
                    os.close(stream)
                watch.register(connection, selectors.EVENT_READ, (child, None))
                watch.register(os.pidfd_open(child), selectors.EVENT_READ, (child, connection))
            elif isinstance(key.fileobj, socket.socket):
                numbers = key.fileobj.recv(16)
                for number in numbers or [signal.SIGKILL]:
                    os.kill(key.data[0], number)
                if not numbers:
                    watch.unregister(key.fileobj)
            else:
                child, connection = key.data
                _, status = os.waitpid(child, 0)
                watch.unregister(key.fileobj)
                os.close(key.fd)
                if connection.fileno() in watch.get_map():
                    watch.unregister(connection)
                    with contextlib.suppress(OSError):  # the client was killed a moment ago
                        connection.send(struct.pack("i", status))
                connection.close()
                break  # the events of this round may be of what is closed now


def become(
    arguments: list[str], directory: str, environment: dict[str, str], streams: list[int]
) -> None:
    """Run a module, some code or a file as a Python that has just started would."""
    import numpy as np
    import torch

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    np.random.seed()  # noqa: NPY002 - else forks draw the same where other processes do not
    torch.seed()
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    places = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:0] = places
    if any(Path(place, "sitecustomize.py").exists() for place in places):
        sys.modules.pop("sitecustomize", None)
        import sitecustomize  # noqa: F401
    flags = [word for word in arguments[:2] if word in ("-u", "-P")]
    if "-u" in flags:
        sys.stdout.reconfigure(write_through=True)
    kind, *rest = arguments = arguments[len(flags) :]
    if kind == "-m":
        if "-P" not in flags:
            sys.path.insert(0, directory)
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:  # with -P headlab.py, which can't see the flag here, takes the place off again
        sys.path.insert(0, str(Path(kind).resolve().parent))
        sys.argv = arguments
        runpy.run_path(kind, run_name="__main__")


class Leave:
    """Ends a fork without the half second that it takes to free what was imported.

    Registered before the imports, so it's called after all else that is to be done at the end.
    """

    status: int | None = None

    def __call__(self) -> None:
        if self.status is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.status)

    @contextlib.contextmanager
    def with_status(self) -> Iterator[None]:
        try:
            yield
            self.status = 0
        except SystemExit as end:
            code = 0 if end.code is None else end.code
            self.status = code & 255 if isinstance(code, int) else 1
            raise
        except Exception:
            self.status = 1
            raise


def main(home: str, pytest: str, listener: str) -> None:
    del sys.path[0]  # tests/support, where this file is
    atexit.register(leave := Leave())
    import_packages()
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(listener)) as listening:
        request = serve(listening, int(pytest))
    if request is None:
        shutil.rmtree(home)
    else:
        sys.executable = f"{home}/python"
        with leave.with_status():
            become(*request)


if __name__ == "__main__":
    main(*sys.argv[1:])
