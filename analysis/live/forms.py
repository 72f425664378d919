"""How trainers name and write their checkpoints: the step in a name, where the weights lie, and by
what command those are converted that can't be read here.

Read are safetensors under the names of transformers and PEFT, anywhere below a checkpoint. Nothing
else is opened: shards of FSDP, Megatron and DeepSpeed need the trainer's own converter, and pickled
files could run code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from analysis.models.adapters import ADAPTER_WEIGHTS
from analysis.models.weights import INDEX, SINGLE

DEPTH = 5  # levels of directories below a checkpoint, or above it in a watched one
FILES = 5000  # entries of a checkpoint that are looked at

_STEP = re.compile(
    r"(checkpoint|ckpt|global[-_]?step|step|iteration|iter|epoch)[-_]?(\d+)(?:[-_](?:hf|unsharded))?$"
)
_DRAFT = re.compile(r"^(\.|_|tmp)")  # what a trainer renames once it is whole
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors$")
_OTHERS = {"critic", "reward", "reward_model", "ref", "reference", "teacher", "value", "ema"}

_TRANSFORMERS = (
    "python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{place}')"
    ".save_pretrained('{out}')\""
)


@dataclass(frozen=True)
class Foreign:
    """Weights in a form that is not read. pattern: of a file's path, from the checkpoint on.

    up: how many directories above the file the converter takes.
    """

    what: str
    pattern: str
    up: int
    command: str


# the first that fits is named
FOREIGN = (
    Foreign(
        "verl's FSDP shards",
        r"model_world_size_\d+_rank_\d+\.pt$",
        1,
        "python -m verl.model_merger merge --backend fsdp --local_dir {place} "
        "--target_dir {place}/huggingface (or save hf_model too: checkpoint.save_contents)",
    ),
    Foreign(
        "verl's Megatron shards",
        r"(^|/)dist_ckpt/.*\.distcp$",
        2,
        "python -m verl.model_merger merge --backend megatron --local_dir {place} "
        "--target_dir {place}/huggingface (or save hf_model too: checkpoint.save_contents)",
    ),
    Foreign(
        "FSDP shards of accelerate",
        r"(^|/)pytorch_model_fsdp_\d+/.*\.distcp$",
        1,
        "accelerate merge-weights {place} {out} (or train with fsdp_state_dict_type: "
        "FULL_STATE_DICT)",
    ),
    Foreign(
        "DeepSpeed shards",
        r"_model_states\.pt$",
        2,
        "python {place}/zero_to_fp32.py {place} {out} --safe_serialization --tag {tag} (or train "
        "with stage3_gather_16bit_weights_on_model_save)",
    ),
    Foreign(
        "Megatron's distributed checkpoint",
        r"(^|/)common\.pt$",
        1,
        "python examples/conversion/convert_checkpoints.py export --hf-model BASE "
        "--megatron-path {place} --hf-path {out} (Megatron Bridge)",
    ),
    Foreign(
        "Megatron's shards",
        r"(^|/)mp_rank_\d+(_\d+)*/.*\.pt$",
        2,
        "Megatron-LM with --ckpt-convert-format torch_dist, then python "
        "examples/conversion/convert_checkpoints.py export --hf-model BASE --megatron-path "
        "{place} --hf-path {out} (Megatron Bridge)",
    ),
    Foreign(
        "a distributed checkpoint of torch (DCP)",
        r"\.distcp$",
        1,
        "the trainer's converter (torchtitan: scripts/checkpoint_conversion/convert_to_hf.py "
        "{place} {out}; NeMo RL: examples/converters/convert_dcp_to_hf.py --dcp-ckpt-path {place} "
        "--hf-ckpt-path {out})",
    ),
    Foreign(
        "an adapter in a pickled file",
        r"(^|/)adapter_model\.bin$",
        1,
        "python -c \"from peft import AutoPeftModelForCausalLM as M; M.from_pretrained('{place}')"
        ".save_pretrained('{out}')\"",
    ),
    Foreign(
        "weights in pickled files",
        r"(^|/)pytorch_model([-_.].*)?\.bin$",
        1,
        f"{_TRANSFORMERS} (or train with save_safetensors)",
    ),
    Foreign(
        "weights in pickled files",
        r"(^|/)(consolidated\.\d+\.pth|hf_model_.*\.pt|.*\.ckpt)$",
        1,
        "the trainer's own converter to save_pretrained's form",
    ),
    Foreign(
        "safetensors under names that transformers does not read",
        r"(^|/)(consolidated|pytorch_model|ft-model|weights)[^/]*\.safetensors$",
        1,
        "the trainer's own converter to save_pretrained's form (model.safetensors)",
    ),
)


def step_in(name: str) -> int | None:
    """The step at the end of a directory's name; None if there is none.

    >>> [step_in(n) for n in ("checkpoint-40", "global_step20_hf", "iter_0000100", "final", "v1.5")]
    [40, 20, 100, None, None]
    """
    found = _STEP.search(name)
    return None if found is None else int(found[2])


def series_of(checkpoint: Path) -> tuple[Path, str]:
    """What the checkpoints of one training have in common: their place, and their names' words."""
    found = _STEP.search(checkpoint.name)
    start, end = (found.start(2), found.end(2)) if found else (0, 0)
    return checkpoint.parent, f"{checkpoint.name[:start]}N{checkpoint.name[end:]}"


def checkpoints_below(root: Path) -> list[Path]:
    """Directories below a place, or those of a glob, that are named after a step, by their paths.

    What a trainer has not yet renamed (tmp_step_10), and the records of a run, are passed over.
    """
    found: list[Path] = []
    if is_pattern(root):
        return [path for path in matching(str(root)) if step_in(path.name) is not None]

    def look(directory: Path, depth: int) -> None:
        for path in directories(directory):
            if _DRAFT.search(path.name) or path.name in ("heads", "evaluations", "locks", "wandb"):
                continue
            if step_in(path.name) is not None:
                found.append(path)
            elif depth and not path.is_symlink():
                look(path, depth - 1)

    look(root, DEPTH)
    return sorted(found)


def matching(pattern: str) -> list[Path]:
    """The directories that a glob matches, in order."""
    root = Path("/") if pattern.startswith("/") else Path()
    return sorted(path for path in root.glob(pattern.lstrip("/")) if path.is_dir())


def is_pattern(text: str | Path) -> bool:
    """Whether a text is a glob."""
    return any(mark in str(text) for mark in "*?[")


def directories(directory: Path) -> list[Path]:
    """Those in a directory; none if it has just gone."""
    try:
        with os.scandir(directory) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir())
    except OSError:
        return []


def files_below(checkpoint: Path) -> Iterator[Path]:
    """The files of a checkpoint, of FILES at most."""
    count = 0
    for place, inner, names in os.walk(checkpoint):
        depth = len(Path(place).relative_to(checkpoint).parts)
        inner[:] = sorted(inner) if depth < DEPTH else []
        for name in sorted(names):
            yield Path(place, name)
            count += 1
            if count >= FILES:
                return


def weights_in(checkpoint: Path) -> Path | None:
    """The directory of a checkpoint's weights in safetensors: its own, or the only one below.

    Of several below, those of a critic, a reference and the like are passed over.

    Raises:
        ValueError: it holds those of several models.
    """
    places = {file.parent for file in files_below(checkpoint) if holds_weights(file)}
    if not places or checkpoint in places:
        return checkpoint if places else None
    own = [p for p in places if not _OTHERS & set(p.relative_to(checkpoint).parts)] or [*places]
    if len(own) > 1:
        names = ", ".join(sorted(str(place.relative_to(checkpoint)) for place in own))
        raise ValueError(
            f"{checkpoint} holds the weights of {len(own)} models ({names}); name those that are "
            "meant with checkpoints='.../*/DIR'"
        )
    return own[0]


def holds_weights(file: Path) -> bool:
    """Whether a file is one of safetensors as transformers or PEFT name them."""
    return file.name in (SINGLE, INDEX, ADAPTER_WEIGHTS) or bool(_SHARD.search(file.name))


def foreign(checkpoint: Path) -> str | None:
    """A line on the weights of a checkpoint that are in another form; None if there are none."""
    names = [file.relative_to(checkpoint).as_posix() for file in files_below(checkpoint)]
    for form in FOREIGN:
        for name in names:
            if re.search(form.pattern, name):
                above = (checkpoint / name).parents
                command = form.command.format(
                    place=above[form.up - 1], tag=above[0].name, out=checkpoint / "hf"
                )
                return f"{checkpoint} holds {form.what}, which are not read; convert: {command}"
    return None
