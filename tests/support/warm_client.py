"""The program of `tests.support.warm`: a process whose work a fork of the warm server does."""

import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path

WARM = ("-m", "-c", "-u")
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(arguments: list[str]) -> None:
    if arguments[0].startswith("-") and arguments[0] not in WARM:  # such as the verifier, with -P
        os.execv(sys.executable, [sys.executable, *arguments])
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(str(Path(__file__).with_name("socket")))
        request = json.dumps([arguments, str(Path.cwd()), dict(os.environ)]).encode()
        socket.send_fds(server, [struct.pack("q", len(request))], [0, 1, 2])
        server.sendall(request)
        for number in PASSED_ON:
            signal.signal(number, lambda number, frame: server.send(bytes([number])))
        answer = server.recv(4)
    if len(answer) < 4:
        sys.exit(f"the warm server has ended; see {Path(__file__).with_name('log')}")
    status = os.waitstatus_to_exitcode(struct.unpack("i", answer)[0])
    if status < 0:
        if -status in PASSED_ON:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


main(sys.argv[1:])
