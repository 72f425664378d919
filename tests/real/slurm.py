"""A real Slurm on this machine: one controller, two nodes, no systemd, no cgroups, no accounts.

Debian's slurm-wlm lets several slurmd run beside each other, each as a node. Everything is in a
directory of its own, and every daemon is a child of this process, which ends it. The names of the
nodes have to resolve, as the processes of a job meet at the first, so /etc/hosts gets a line.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

NODES = ("headlab-node1", "headlab-node2")
HOSTS = Path("/etc/hosts")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")

CONF = """\
ClusterName=headlab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={nodes[0]} NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[1]} CPUs=2
NodeName={nodes[1]} NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[2]} CPUs=2
PartitionName=usual Nodes=ALL Default=YES PriorityTier=1 GraceTime=120 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    """A running cluster; `variables` are what its commands and jobs need of the environment."""

    def __init__(self, place: Path) -> None:
        """Start it in an empty directory.

        Raises:
            RuntimeError: it does not come up; its logs are in the directory.
        """
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing or os.getuid() != 0:
            raise RuntimeError(f"no {', '.join(missing) or 'root'}: see `make test-real`")
        self.place = place
        self.variables = {**os.environ, "SLURM_CONF": str(place / "slurm.conf")}
        self._hosts = HOSTS.read_text()
        HOSTS.write_text(f"{self._hosts.rstrip()}\n127.0.0.1 {' '.join(NODES)}\n")
        (place / "state").mkdir()
        key = place / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        conf = CONF.format(host=host, place=place, ports=free_ports(3), nodes=NODES)
        (place / "slurm.conf").write_text(conf)
        self._daemons: list[subprocess.Popen[bytes]] = []
        try:
            files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid"}
            files |= {"seed-file": "munge.seed", "log-file": "munge.log"}
            given = [f"--{name}={place / file}" for name, file in files.items()]
            self._start("munged", "--foreground", "--force", *given)
            self._until(lambda: (place / "munge.socket").exists(), "munged")
            self._start("slurmctld", "-D")
            for node in NODES:
                (place / f"spool-{node}").mkdir()
                self._start("slurmd", "-D", "-N", node)
            self._until(lambda: self.ask("sinfo", "-h", "-t", "idle", "-N").count("usual") == 2, "")
        except BaseException:
            self.stop()
            raise

    def _start(self, program: str, *words: str) -> None:
        log = open(self.place / f"{program}-{len(self._daemons)}.out", "wb")  # noqa: SIM115
        self._daemons.append(
            subprocess.Popen(
                [shutil.which(program) or program, *words],
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        )
        log.close()

    def _until(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what or 'Slurm'} does not come up; see {self.place}")
            time.sleep(0.1)

    def ask(self, *words: str) -> str:
        """What a command of Slurm prints; empty where it fails."""
        done = subprocess.run(words, env=self.variables, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    def state(self, job: str) -> str:
        """The state of a job, as RUNNING, PENDING, COMPLETED, FAILED."""
        return self.ask("scontrol", "show", "job", "-o", job).partition("JobState=")[2].split()[0]

    def restarts(self, job: str) -> int:
        """How often Slurm has queued a job again."""
        text = self.ask("scontrol", "show", "job", "-o", job).partition("Restarts=")[2]
        return int(text.split()[0])

    def start_now(self, job: str) -> None:
        """Start a job that was queued again, which Slurm lets wait for two minutes.

        slurmd takes nothing for a job that was made in the second in which the job was ended, or
        before: "Job credential revoked", and the job fails without a line. Slurm's own wait rules
        that out; this one is a second.
        """
        time.sleep(1.1)
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

    def stop(self) -> None:
        """End all jobs, then the daemons, and give /etc/hosts its lines back."""
        for job in self.ask("squeue", "-h", "-o", "%A").split():
            self.ask("scancel", job)
        deadline = time.monotonic() + 60
        while self.ask("squeue", "-h").strip() and time.monotonic() < deadline:
            time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait()
        HOSTS.write_text(self._hosts)
