"""Real vLLM on a CPU: its greedy answers are those of hf, in all conditions, with one start.

Its Python is that of HEADLAB_VLLM_PYTHON, or of .venv-vllm (tests/real/vllm_environment.sh).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
PROMPTS = ("1+1", "2+3", "What is 7?", "ab", "four words of text", "9")

pytestmark = pytest.mark.real


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    python = Path(os.environ.get("HEADLAB_VLLM_PYTHON", ROOT / ".venv-vllm/bin/python"))
    if not python.is_file():
        pytest.fail(
            f"there is no {python}: build it with `sh tests/real/vllm_environment.sh .venv-vllm`, "
            "or name another in HEADLAB_VLLM_PYTHON"
        )
    return python


def random_model(place: Path, seed: int) -> Path:
    """A Qwen2 with heads of 32 (vLLM on a CPU has none of 16) that answers at random."""
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    from train.recipes.tiny import build_tokenizer

    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= 8
        # so that some answers end before they are cut off
        model.lm_head.weight[tokenizer.eos_token_id] *= 4
    # a second token that ends a text, as the configurations of instruct models name
    ends = [tokenizer.eos_token_id, tokenizer("7").input_ids[0]]
    model.generation_config = GenerationConfig(eos_token_id=ends)
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model, its base, and a file of problems."""
    place = tmp_path_factory.mktemp("vllm")
    task = place / "task.jsonl"
    rows = [{"question": text, "answer": "1"} for text in PROMPTS]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return random_model(place / "model", 1), random_model(place / "base", 2), task


def evaluate(python: Path, *words: object) -> tuple[int, str, str]:
    command = [str(python), "-m", "tests.real.vllm_answers", *map(str, words)]
    variables = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
        **os.environ,
    }
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, errors = process.communicate(timeout=1200)
    finally:
        with suppress(ProcessLookupError):  # vLLM's engine outlives a process that is killed
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said, errors


def answers(out: Path) -> dict[str, list[Any]]:
    """Of each condition, the answers with their tokens, in order."""
    return {
        file.stem: sorted(json.loads(line).items() for line in file.read_text().splitlines())
        for file in sorted((out / "completions").glob("*.jsonl"))
    }


@pytest.mark.parametrize("change", ["zero", "scale:1.7", "mean"])
def test_greedy_answers_are_those_of_hf_with_one_start(change, vllm_python, files, tmp_path):
    model, base, task = files
    words = [
        *(f"model={model}", f"base={base}", f"task=jsonl:{task}", "suffix=''"),
        *("temperature=0", "n=1", "max_new_tokens=12", "dtype=float32", "controls=1"),
        f"intervention={change}:L0H1",
    ]
    starts = {}
    for backend in ("hf", "vllm"):
        status, said, errors = evaluate(
            vllm_python, *words, f"backend={backend}", f"out={tmp_path / backend}"
        )
        assert status == 0, errors[-2000:]
        starts[backend] = json.loads(said.splitlines()[-1])["starts"]
    assert starts == {"hf": 0, "vllm": 1}
    by_hf, by_vllm = (answers(tmp_path / backend) for backend in ("hf", "vllm"))
    assert by_vllm == by_hf
    assert set(by_hf) == {"none", "intervention", "random-1", "base", "base+intervention"}
    texts = {name: [dict(row)["text"] for row in rows] for name, rows in by_hf.items()}
    assert len({tuple(some) for some in texts.values()}) == 5  # the conditions do differ
    cut = [dict(row)["truncated"] for rows in by_hf.values() for row in rows]
    assert any(cut) and not all(cut)


def test_an_engine_that_is_too_short_is_said_to_be(vllm_python, files, tmp_path):
    model, _, task = files
    status, _, errors = evaluate(
        vllm_python,
        *(f"model={model}", f"task=jsonl:{task}", "suffix=''", "temperature=0", "n=1"),
        *("max_new_tokens=60", "backend=vllm", f"out={tmp_path}"),
        "engine={max_model_len: 64, enforce_eager: true}",
    )
    assert status == 1
    # processes of vLLM say more after it
    [line] = [line for line in errors.splitlines() if "do not fit vLLM's engine" in line]
    assert "max_new_tokens=60 do not fit vLLM's engine, which takes 64 tokens" in line
    assert "ValueError" not in line
