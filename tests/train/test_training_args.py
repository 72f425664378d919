"""The command lines of the docs that train with vLLM."""

from __future__ import annotations

import re
import shlex

from tests.support.places import ROOT
from train.config import check


def vllm_lines() -> list[list[str]]:
    """The command lines of docs/training.md that train with vLLM."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    wanted = [line for line in lines if "headlab launch" in line and "use_vllm=true" in line]
    return [shlex.split(line, comments=True) for line in wanted]


def test_the_lines_of_the_docs_for_vllm_build_their_arguments(compose, tmp_path):
    from train.build import training_args

    modes = []
    for words in vllm_lines():
        overrides = words[words.index("launch") + 1 :]
        overrides.remove("train=grpo")
        cfg = compose("grpo", *overrides, f"run_dir={tmp_path}")
        check(cfg)
        args = training_args(cfg)
        assert args.use_vllm
        modes.append(args.vllm_mode)
    assert sorted(modes) == ["colocate", "server"]
