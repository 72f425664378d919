"""Tiny random models and pairs."""

from __future__ import annotations

from typing import Any

import torch

ARCHITECTURES = ("qwen2", "qwen3", "llama", "mistral", "gemma2", "gemma3", "gpt2")


def tiny_model(architecture: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    """A random model of 2 layers, 4 query heads, 2 key/value heads, with wide weights.

    Norm weights and biases are random too, so that a mistake in either shows.
    """
    import transformers

    if architecture == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64, n_inner=48
        )
        model = transformers.GPT2LMHeadModel(config).to(dtype)
    else:
        kind = {"gemma3": "Gemma3", "qwen2": "Qwen2"}.get(architecture, architecture.capitalize())
        options: dict[str, Any] = {"head_dim": 16 if architecture == "qwen3" else 8}
        if architecture.startswith("gemma"):
            options["query_pre_attn_scalar"] = 12
            options["final_logit_softcapping"] = 3.0
            options["layer_types"] = ["sliding_attention", "full_attention"]
        config_class = getattr(
            transformers, "Gemma3TextConfig" if architecture == "gemma3" else f"{kind}Config"
        )
        config = config_class(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            sliding_window=4 if architecture in ("mistral", "gemma2", "gemma3") else None,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=architecture in ("qwen3", "gemma2", "gemma3"),
            **options,
        )
        model = getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=dtype)
            scale = 0.3 if parameter.ndim == 2 else 0.2
            norm = "weight" in name and any(part in name for part in ("norm", "ln_"))
            offset = 1.0 if norm and not architecture.startswith("gemma") else 0.0
            parameter.copy_(noise * scale + offset)
    return model.eval()


def tiny_wrapper(kind: str, vocabulary: int = 50) -> Any:
    """A random multimodal model around a small language model: gemma3, qwen3_5 or llava."""
    import transformers

    shared = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
    }
    seen: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    if kind == "qwen3_5":
        layers = ["linear_attention", "full_attention"]
        small = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
        small |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
        vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
        config: Any = transformers.Qwen3_5Config(
            text_config={**shared, **small, "layer_types": layers},
            vision_config={**vision, "out_hidden_size": 32, "num_position_embeddings": 16},
        )
        model: Any = transformers.Qwen3_5ForConditionalGeneration(config)
    elif kind == "gemma3":
        text = {**shared, "query_pre_attn_scalar": 12, "sliding_window": 4}
        vision = {**seen, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14}
        config = transformers.Gemma3Config(text_config=text, vision_config=vision)
        model = transformers.Gemma3ForConditionalGeneration(config)
    else:
        vision = {**seen, "num_hidden_layers": 2, "image_size": 28, "patch_size": 14}
        config = transformers.LlavaConfig(
            text_config={**shared, "model_type": "llama"},
            vision_config={**vision, "model_type": "clip_vision_model"},
            image_token_index=vocabulary - 1,
        )
        model = transformers.LlavaForConditionalGeneration(config)
    return model.eval()


def random_pairs(
    count: int = 3, lengths: tuple[int, ...] = (6, 4, 5), seed: int = 0, answers: bool = True
) -> Any:
    """Pairs of random tokens of different lengths, with targets and foils if they have answers."""
    from analysis import Pair, Pairs

    generator = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 50, (n,), generator=generator).tolist())

    sizes = [lengths[index % len(lengths)] for index in range(count)]
    both = [(10 + i, 20 + i) if answers else () for i in range(count)]
    return Pairs([Pair(tokens(n), tokens(n), *ids) for n, ids in zip(sizes, both, strict=True)])
