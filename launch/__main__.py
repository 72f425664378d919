"""Start a training run on this machine, in one process or several.

    python -m launch train=grpo experiment=tiny
    python -m launch train=sft experiment=tiny resources.processes=2

The configuration is composed and checked once, here, and written into the run directory; the
processes get the resolved file, so that all of them see the same values.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from train.entry import start

if TYPE_CHECKING:
    from omegaconf import DictConfig


def command(cfg: DictConfig, config_file: Path) -> list[str]:
    """The command that runs a resolved configuration with the asked number of processes."""
    if cfg.resources.processes == 1:
        return [sys.executable, "-m", "train.run", str(config_file)]
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={cfg.resources.processes}", "-m", "train.run", str(config_file)),
    ]


def action(cfg: DictConfig) -> None:
    import yaml

    from analysis.records import atomic_write
    from train.config import check, plain

    try:
        check(cfg)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    config_file = Path(cfg.run_dir) / "launch.yaml"
    with atomic_write(config_file) as draft:
        draft.write_text(yaml.safe_dump(plain(cfg), sort_keys=False), encoding="utf-8")
    raise SystemExit(subprocess.run(command(cfg, config_file)).returncode)


if __name__ == "__main__":
    start(None, action, __doc__ or "")
