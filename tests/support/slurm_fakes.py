"""Stand-ins for Slurm's commands that run a job on this machine, each node as processes of it."""

from __future__ import annotations

import sys
from pathlib import Path

JOB = "4242"

SBATCH = """\
import os, shlex, subprocess, sys
assert sys.argv[1:-1] == ["--parsable"], sys.argv
heads = [line.removeprefix("#SBATCH ") for line in open(sys.argv[-1]) if line[:7] == "#SBATCH"]
words = [word for line in heads for word in shlex.split(line)]
options = dict(word.removeprefix("--").partition("=")[::2] for word in words)
if options.get("partition") == "nosuch":
    sys.exit("sbatch: error: invalid partition specified: nosuch")
nodes = options["nodes"]
job = {"SLURM_JOB_ID": "@JOB@", "SLURM_JOB_NUM_NODES": nodes, "SLURM_JOB_NODELIST": f"n[1-{nodes}]"}
output = open(options["output"].replace("%j", "@JOB@").replace("%%", "%"), "a")
batch = subprocess.Popen(
    ["bash", sys.argv[-1]], env={**os.environ, **job}, stdin=subprocess.DEVNULL, stdout=output,
    stderr=output, start_new_session=True,
)
open("@HERE@/job", "w").write(str(batch.pid))
print("@JOB@;cluster")
"""

SRUN = """\
#!/bin/bash
while [[ $1 == --* ]]; do shift; done
printf '%s\\n' "$@" > "@HERE@/words"
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do
  SLURM_NODEID=$node SLURM_PROCID=$node "$@" &
done
jobs -p > "@HERE@/step"
status=0
for task in $(jobs -p); do wait "$task" || status=$?; done
exit "$status"
"""

SCONTROL = """\
#!/bin/bash
if [[ "$1 $2" == "show hostnames" ]]; then
  for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do echo localhost; done
elif [[ "$1 $2" == "show job" ]]; then
  cat "@HERE@/state" 2> /dev/null || echo "JobId=@JOB@ JobState=RUNNING PreemptTime=None"
else
  echo "scontrol $@" >> "@HERE@/asked"
fi
"""

# As Slurm does: a signal reaches every process of the step, here the children first, so that what
# the trainer has started is dead when the trainer hears of it.
SCANCEL = """\
import os, signal, sys
from pathlib import Path
with open("@HERE@/asked", "a") as asked:
    print("scancel", *sys.argv[1:], file=asked)
children = {}
for stat in Path("/proc").glob("[0-9]*/stat"):
    try:
        parent = int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        continue
    children.setdefault(parent, []).append(int(stat.parent.name))
def tell(pid):
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\\0")
        if len(words) > 2 and "headlab-warm-" in words[2]:  # of tests.support.warm
            for child in children.get(int(Path(words[2]).with_name(str(pid)).read_text()), []):
                tell(child)
        for child in children.get(pid, []):
            tell(child)
        os.kill(pid, signal.SIGTERM)
    except OSError:
        return
for line in open("@HERE@/step"):
    tell(int(line))
"""

SQUEUE = """\
#!/bin/bash
[[ $* == "-h -j @JOB@" ]] && kill -0 "$(cat "@HERE@/job")" 2> /dev/null && echo "@JOB@ gpu run R"
exit 0
"""


def install(directory: Path) -> Path:
    """Write the commands into a directory that is to be the first on PATH."""
    directory.mkdir(parents=True)
    scripts = {"srun": SRUN, "scontrol": SCONTROL, "squeue": SQUEUE}
    for name, text in {"sbatch": SBATCH, "scancel": SCANCEL}.items():
        scripts[name] = f"#!{sys.executable}\n{text}"
    for name, text in scripts.items():
        path = directory / name
        path.write_text(text.replace("@JOB@", JOB).replace("@HERE@", str(directory)))
        path.chmod(0o755)
    return directory
