"""A run as a Slurm job: the script that `resources=slurm` renders, and its submission.

    headlab launch train=grpo resources=slurm resources.nodes=2 resources.gpus=8
    headlab launch ... resources.dry_run=true      prints only the script

One torchrun on each node, started by srun; they meet at the first node. The configuration of the
job says resume=auto, so that a job that starts again, because its time was up or a node failed,
goes on from the last complete checkpoint. Secrets are not in the script: the job inherits the
environment.

How a stop reaches the run: Slurm sends SIGUSR1 to the script only (`B:`) before the time is up.
The script makes a file that the ranks look for at each step, and that nothing else heeds: a signal
to the step would reach W&B and whatever else the run has started. The file's name holds the job and
its start, so that none is left for the next start. When the run has saved and ended, the script
queues the job again. A cancelled or preempted job gets SIGTERM everywhere; where Slurm gives it
time to end (GraceTime), the script sits the signal out, since its end would end the step, and
queues a preempted job again, which Slurm itself does only with jobs that it has to kill.

A job goes into the queue again only while Slurm still runs it (not when it was cancelled meanwhile)
and, from the second start on, only if this start has saved a checkpoint.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from omegaconf import DictConfig

from analysis.files import atomic_write
from launch.processes import GRACE, command, environment, node_of
from train.config import check_one_line

CARRIED = ("HEADLAB_CACHE", "HF_HOME", "WANDB_MODE")
WARNING = GRACE + 10  # seconds before the end of its time at which a job is told
MEETING = ("--rdzv-endpoint=$first:$port", "--rdzv-id=$SLURM_JOB_ID")  # variables of the script

SCRIPT = """\
#!/bin/bash
{options}

cd -- {directory} || exit 1
{exports}
{setup}
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || exit 1
first=${{nodes%%$'\\n'*}}
port={port}

export HEADLAB_STOP={run}/stop-$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}
rm -f -- {run}/stop-*
saved() {{ ls -d -- {run}/checkpoint-*/headlab.json 2> /dev/null; }}
before=$(saved)

warned=
told=
# time is nearly up: ask the run to stop
trap 'told=yes; warned=yes; : > "$HEADLAB_STOP"' USR1
# cancelled or preempted: Slurm tells the run itself
trap 'told=yes' TERM

srun {step} \\
  {command} &
step=$!
while :; do
  told=
  wait "$step"
  status=$?
  [ -n "$told" ] || break  # else it was the signal that ended `wait`
done
# bash 5.2 loses the status where a signal and the end of the step meet
[ "$status" -ge 0 ] || status=143
rm -f -- "$HEADLAB_STOP"
[ "$status" -ne 0 ] || exit 0

# as Slurm has the job: still running, out of time, or cancelled meanwhile; and whether preempted
job=$(scontrol show job -o "$SLURM_JOB_ID")
again=
[[ $job == *JobState=RUNNING* || $job == *Reason=TimeLimit* ]] && again=$warned
if [[ $again && ${{SLURM_RESTART_COUNT:-0}} -gt 0 && $(saved) == "$before" ]]; then
  echo "error: this start had no time to save a step, so the job is not queued again;" \\
    "give it more time (resources.time)" >&2
  again=
fi
[[ $job == *JobState=RUNNING* && $job =~ PreemptTime=[0-9] ]] && again=yes
[ -z "$again" ] || scontrol requeue "$SLURM_JOB_ID"
exit "$status"
"""


_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")


def seconds_of(time: str) -> int | None:
    """A time limit as Slurm reads it; None where it sets none, or is for sbatch to refuse.

    >>> seconds_of("90"), seconds_of("1:30:00"), seconds_of("1-12"), seconds_of("UNLIMITED")
    (5400, 5400, 129600, None)
    """
    found = _TIME.fullmatch(time.strip())
    if found is None:
        return None
    parts = [int(part or 0) for part in found.group("first", "second", "third")]
    if found["days"] is not None or found["third"] is not None:  # days-hours:minutes:seconds
        hours, minutes, seconds = parts
    else:  # minutes:seconds
        hours, minutes, seconds = 0, parts[0], parts[1]
    days = int(found["days"] or 0)
    return (((days * 24 + hours) * 60) + minutes) * 60 + seconds or None  # 0: no limit


def check_job(cfg: DictConfig, run: Path) -> None:
    """What can be wrong with a job that sbatch would take, before anything is written.

    Raises:
        ValueError: with the key, the offending value, and the mend.
    """
    check_one_line("the path of run_dir", str(run.absolute()))
    given = [*(["--time", cfg.resources.time] if cfg.resources.time else []), *cfg.resources.sbatch]
    words = [part for word in given for part in word.partition("=")[::2] if part]
    for name, value in pairwise(words):
        time = value if name in ("--time", "-t") else ""
        seconds = seconds_of(time)
        if seconds is not None and seconds <= WARNING:
            raise ValueError(
                f"the time limit of the job is {time} ({seconds} s), and a run is told to save "
                f"{WARNING} s before its time is up: it would never take a step; give it more "
                "(resources.time)"
            )


def options(cfg: DictConfig, run: Path) -> list[str]:
    """The options of sbatch, one for each line of the script's head."""
    r = cfg.resources
    directory = str(run.absolute()).replace("%", "%%")  # %j and the like stand for numbers
    found = {
        "job-name": cfg.name,
        "nodes": r.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": r.gpus or None,
        "cpus-per-task": r.cpus,
        "time": r.time,
        "partition": r.partition,
        "account": r.account,
        "output": f"{directory}/slurm-%j.out",
        "open-mode": "append",
        "export": "ALL",
        "signal": f"B:USR1@{WARNING}",
    }
    given = [f"--{key}={value}" for key, value in found.items() if value is not None]
    return [*given, "--requeue", *r.sbatch]


def render(cfg: DictConfig, config_file: Path, outer: Mapping[str, str] | None = None) -> str:
    """The script of the job that runs a resolved configuration.

    `outer` is the environment from which HEADLAB_CACHE, HF_HOME and WANDB_MODE are taken over.
    """
    outer = os.environ if outer is None else outer
    r, node = cfg.resources, node_of(cfg.resources)
    given = {key: outer[key] for key in CARRIED if key in outer} | environment(cfg, node, outer)
    meeting = [f"--nnodes={r.nodes}", "--rdzv-backend=c10d", *MEETING]
    words = command(cfg, node, config_file.absolute(), meeting)
    # once one node has ended, the others have this long to end too
    step = [f"--wait={WARNING}", *([f"--cpus-per-task={r.cpus}"] if r.cpus else [])]
    return SCRIPT.format(
        options="\n".join(f"#SBATCH {_quote(word)}" for word in options(cfg, config_file.parent)),
        directory=shlex.quote(str(Path.cwd())),
        run=shlex.quote(str(config_file.parent.absolute())),
        exports="\n".join(f"export {key}={shlex.quote(text)}" for key, text in given.items()),
        setup="\n".join(r.setup),
        port=r.port or "$((10000 + SLURM_JOB_ID % 20000))",
        step=" ".join(step),
        command=" ".join(_quote(word) for word in words),
    )


def _quote(word: str) -> str:
    """A word for the shell; only the words of MEETING hold variables."""
    return f'"{word}"' if word in MEETING else shlex.quote(word)


def queued(run: Path) -> str | None:
    """The number of the job of a run directory, if it is waiting or running."""
    file = run / "slurm-job"
    if not file.exists() or shutil.which("squeue") is None:
        return None
    job = file.read_text(encoding="utf-8").strip()
    if not job.isdigit():
        return None
    listed = subprocess.run(["squeue", "-h", "-j", job], capture_output=True, text=True)
    return job if listed.stdout.strip() else None


def submit(cfg: DictConfig, config_file: Path) -> int:
    """Write the script into the run directory and submit it; the number goes to `slurm-job`.

    Raises:
        ValueError: sbatch refuses the script.
    """
    run = config_file.parent
    script = run / "slurm.sh"
    with atomic_write(script) as draft:
        draft.write_text(render(cfg, config_file), encoding="utf-8")
    done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"sbatch refuses {script}: {done.stderr.strip() or done.stdout.strip()}")
    job = done.stdout.strip().partition(";")[0]
    with atomic_write(run / "slurm-job") as draft:
        draft.write_text(job, encoding="utf-8")
    print(f"job {job} is in the queue: {run}")
    print(f"  its output:  tail -F {shlex.quote(str(run / f'slurm-{job}.out'))}")
    print(f"  its state:   squeue -j {job}")
    print(f"  to stop it:  scancel {job}", flush=True)
    return 0
