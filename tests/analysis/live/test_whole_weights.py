"""FSDP1 and FSDP2 in two processes over gloo: left alone, and measured as by one process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from analysis import Pairs, attribute
from analysis.live.plain_copy import plain_copy
from analysis.live.whole_weights import whole_model
from analysis.records.record_files import read_records, read_scores
from tests.support.models import random_pairs, tiny_model
from tests.support.places import ROOT
from tests.support.warm import finished

JOBS = ("fsdp2", "fsdp2-lora", "fsdp1", "fsdp1-flat")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """The directory of all trainings of tests/support/sharded.py, of one start."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from train.recipes.tiny import build_tokenizer

    home = tmp_path_factory.mktemp("sharded")
    tokenizer = build_tokenizer()
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen3Config(
        vocab_size=len(tokenizer), tie_word_embeddings=True, bos_token_id=None, **ends, **shape
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(home / "model")
    tokenizer.save_pretrained(home / "model")
    random_pairs(4).save(home / "pairs.jsonl")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words += [str(ROOT / "tests/support/sharded.py"), str(home), *JOBS]
    finished(words, ROOT, OMP_NUM_THREADS="1")
    return home


def assert_same(a: object, b: object, where: str = "") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, torch.Tensor):
        a, b = (x.to_local() if hasattr(x, "to_local") else x for x in (a, b))
        assert torch.equal(a, b), where
    else:
        assert a == b, where


@pytest.mark.distributed
@pytest.mark.parametrize("job", JOBS)
def test_training_is_bit_identical_to_one_that_nobody_looked_at(sharded, job):
    for rank in (0, 1):
        tracked, plain = (
            torch.load(sharded / f"{job}-{way}" / f"end-{rank}.pt", weights_only=False)
            for way in ("tracked", "plain")  # our own files of a moment ago
        )
        assert tracked["weights"] and tracked["optimizer"]
        assert_same(tracked, plain)


@pytest.mark.distributed
@pytest.mark.parametrize("job", JOBS)
def test_records_are_those_of_one_process_with_the_same_weights(sharded, job):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    run, pairs = sharded / f"{job}-tracked", Pairs.load(sharded / "pairs.jsonl")
    assert [record.step for record in read_records(run)] == [0, 2, 4]
    for step in (0, 2, 4):
        model = AutoModelForCausalLM.from_pretrained(sharded / "model")
        if job == "fsdp2-lora":
            model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2))
        model.load_state_dict(torch.load(run / f"whole-{step}.pt"))
        expected = attribute(model.eval(), pairs, ig_steps=2, quadrature="midpoint").per_edge
        found = read_scores(run, step)
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert not torch.equal(read_scores(run, 4), read_scores(run, 0))


@pytest.mark.distributed
def test_what_is_gathered_is_what_is_saved(sharded):
    run = sharded / "fsdp2-tracked"
    saved = load_file(run / "checkpoint-4" / "model.safetensors")
    whole = torch.load(run / "whole-4.pt")
    assert all(torch.equal(whole[name], saved[name]) for name in saved)
    assert whole.keys() - saved.keys() <= {"lm_head.weight"}  # tied


def test_a_copy_has_the_same_parts_and_the_hooks_of_users_only():
    model = tiny_model("qwen3", torch.float32)
    model.tie_weights()
    pairs = random_pairs(2)
    expected = attribute(model, pairs).per_edge
    calls = []
    model.model.norm.register_forward_hook(lambda *_: calls.append("a user's"))
    model.model.layers[0] = checkpoint_wrapper(model.model.layers[0])
    copy = plain_copy(model, torch.clone)
    assert type(copy) is type(model) and copy.lm_head.weight is copy.model.embed_tokens.weight
    theirs = {id(p) for p in model.parameters()}
    assert not theirs & {id(p) for p in copy.parameters()}
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(copy(ids).logits, model(ids).logits)
    assert calls == ["a user's"] * 2
    assert torch.equal(attribute(copy, pairs).per_edge, expected)


def test_split_modules_are_refused_and_zero_3_asks_for_the_trainer():
    model = tiny_model("qwen2", torch.float32)
    with whole_model(model) as whole:
        assert whole is model
    trainer = SimpleNamespace(get_tp_size=lambda: 2)
    with pytest.raises(ValueError, match="tensor parallelism"), whole_model(model, trainer):
        pass
    model.config.distributed_config = SimpleNamespace(pp_size=2)
    with pytest.raises(ValueError, match="pipeline parallelism"), whole_model(model):
        pass
    del model.config.distributed_config
    model.lm_head.weight.ds_id = 0
    with pytest.raises(ValueError, match=r"trainer=trainer"), whole_model(model):
        pass
