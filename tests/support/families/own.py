"""What single families need beside the common sizes: kinds of layers, and numbers that are not 1.

Every factor of a configuration (multipliers, scales, caps) is set to a number that shows when it
is left out. A wrapper's text model takes what its own type needs and the wrapper's `text_config`.
"""

from __future__ import annotations

from typing import Any

_FULL, _SLIDING, _LINEAR = "full_attention", "sliding_attention", "linear_attention"
_ALTERNATING = {"layer_types": [_SLIDING, _FULL]}
_FOUR_ALTERNATING = {"num_hidden_layers": 4, "layer_types": [_SLIDING, _FULL] * 2}
_HYBRID = {"num_hidden_layers": 4, "layer_types": [_LINEAR, _FULL] * 2}
_NO_SHARING = {"num_key_value_heads": 4}
_GRANITE = {
    "residual_multiplier": 0.4,
    "embedding_multiplier": 2.0,
    "logits_scaling": 2.0,
    "attention_multiplier": 0.3,
}
_CAPPED = {"query_pre_attn_scalar": 12, "final_logit_softcapping": 3.0}
_WIDE_EVERY_SECOND = {
    **_FOUR_ALTERNATING,
    "num_kv_shared_layers": 2,
    "per_layer_config": {"01": {"head_dim": 16}, "03": {"head_dim": 16}},
}
_ZAMBA = {
    "num_hidden_layers": 4,
    "layers_block_type": [_LINEAR, "hybrid"] * 2,
    "attention_hidden_size": 64,
    "attention_head_dim": 16,
    "use_mamba_kernels": False,
}
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_INKLING = {
    "swa_head_dim": 8,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "d_rel": 4,
    "rel_extent": 16,
    "sliding_window_size": 4,
    "layer_types": ["hybrid_sliding", "hybrid"],
}

_ATTENTION: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.5, "use_qk_norm": True},
    "cohere2": {"logit_scale": 0.5, **_ALTERNATING},
    "cohere_compass_text": {**_ALTERNATING, "rope_parameters": {_FULL: _ROPE, _SLIDING: _ROPE}},
    "cpmant": {"dim_head": 8, "dim_ff": 48, "prompt_length": 2},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "exaone4": {**_FOUR_ALTERNATING, "sliding_window_pattern": 2},
    "falcon": {"new_decoder_architecture": False, "multi_query": False, "parallel_attn": True},
    "gemma2": {**_ALTERNATING, **_CAPPED, "attn_logit_softcapping": 5.0},
    "gemma3_text": {**_ALTERNATING, **_CAPPED},
    "gemma3n_text": {
        **_FOUR_ALTERNATING,
        "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        "num_kv_shared_layers": 2,
    },
    "gemma4_text": _WIDE_EVERY_SECOND,
    "gemma4_unified_text": _WIDE_EVERY_SECOND,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "gpt_oss": _ALTERNATING,
    "granite": _GRANITE,
    "granite_swa": _GRANITE,
    "granitemoe": _GRANITE,
    "granitemoe_swa": _GRANITE,
    "granitemoeshared": _GRANITE,
    "hyperclovax": _GRANITE,
    "inkling_text": {**_INKLING, "mlp_layer_types": ["dense", "sparse"]},
    "inkling2_text": {**_INKLING, "n_layers_per_attn_res_block": 2},
    "llama4_text": {
        "num_hidden_layers": 4,
        "no_rope_layers": [1, 1, 1, 0],
        "moe_layers": [1, 3],
        "num_experts_per_tok": 1,
        "floor_scale": 4,
    },
    "mpt": {"expansion_ratio": 2},
    "olmo3": _ALTERNATING,
    "persimmon": {"qk_layernorm": True},
    "phi": {"qk_layernorm": True},
    "qwen2_moe": {"num_experts_per_tok": 2},
    "reformer": {
        "axial_pos_embds": False,
        "attention_head_size": 8,
        "feed_forward_size": 48,
        "is_decoder": True,
    },
    "smollm3": {
        "num_hidden_layers": 4,
        "no_rope_layers": [1, 1, 1, 0],
        "no_rope_layer_interval": 4,
    },
    "stablelm": {"qk_layernorm": True},
    "vaultgemma": {**_ALTERNATING, "query_pre_attn_scalar": 12},
    "zaya": {
        "num_experts_per_tok": 1,
        "layer_types": ["hybrid", "hybrid"],
        "router_hidden_size": 16,
    },
}

_LATENTS: dict[str, dict[str, Any]] = {
    "axk1": {**_NO_SHARING, "head_dim": 4},
    "axk2": _NO_SHARING,
    "bailing_hybrid": {**_HYBRID, **_NO_SHARING},
    "deepseek_v2": {
        **_NO_SHARING,
        "head_dim": 4,
        "topk_method": "greedy",
        "topk_group": 1,
        "n_group": 1,
        "num_experts_per_tok": 2,
    },
    "deepseek_v3": {**_NO_SHARING, "head_dim": 4},
    "deepseek_v32": _NO_SHARING,
    "deepseek_v4": {
        "num_key_value_heads": 1,
        "o_lora_rank": 8,
        "o_groups": 2,
        "layer_types": [_SLIDING, _SLIDING],
        "mlp_layer_types": ["moe", "moe"],
        "partial_rotary_factor": 0.5,
    },
    "dots3_note_text": {
        **_NO_SHARING,
        "layer_types": ["indexed_attention", _SLIDING],
        "per_layer_config": {},
        "mlp_layer_types": ["dense", "sparse"],
    },
    "glm4_moe_lite": _NO_SHARING,
    "glm_moe_dsa": _NO_SHARING,
    "hy_v4": _NO_SHARING,
    "kimi_linear": {
        **_HYBRID,
        **_NO_SHARING,
        "mlp_layer_types": ["dense", "dense", "sparse", "sparse"],
        "linear_head_dim": 8,
        "linear_num_heads": 4,
    },
    "longcat_flash": {**_NO_SHARING, "head_dim": 4},
    "minicpm3": {**_NO_SHARING, "scale_depth": 1.4, "scale_emb": 2.0, "dim_model_base": 16},
    "youtu": {**_NO_SHARING, "head_dim": 4},
}

_MIXERS: dict[str, dict[str, Any]] = {
    "bamba": {"num_hidden_layers": 4, "attn_layer_indices": [1, 3], "mamba_d_head": "auto"},
    "falcon_h1": {
        "attention_in_multiplier": 0.7,
        "attention_out_multiplier": 1.3,
        "ssm_out_multiplier": 0.8,
        "embedding_multiplier": 1.5,
        "lm_head_multiplier": 0.5,
        "key_multiplier": 0.9,
    },
    "granitemoehybrid": {**_HYBRID, **_GRANITE},
    "jamba": {
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "lfm2": {
        "num_hidden_layers": 4,
        "layer_types": ["conv", _FULL] * 2,
        "full_attn_idxs": [1, 3],
        "block_auto_adjust_ff_dim": False,
    },
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": ["conv", _FULL] * 2},
    "lfm3": {"num_hidden_layers": 4, "layer_types": ["conv", _FULL, "conv", _SLIDING]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "minimax": {"layer_types": [_LINEAR, _FULL], "block_size": 8},
    "nemotron_h": {
        "num_hidden_layers": None,
        "layers_block_type": [_LINEAR, "mlp", _FULL, "moe", _FULL, "mlp"],
        "moe_shared_expert_intermediate_size": 24,
        "expand": 2,
    },
    "olmo_hybrid": _HYBRID,
    "qwen3_5_moe_text": _HYBRID,
    "qwen3_5_text": _HYBRID,
    "qwen3_next": _HYBRID,
    "qwen4_exp_text": {
        "num_hidden_layers": 4,
        "layer_types": [_LINEAR, "indexed_attention"] * 2,
        "hc_lowrank": 8,
        "ngram_vocab_size_base": 1000,
        "ple_embed_dim": 32,
        "indexer_n_heads": 2,
        "indexer_head_dim": 8,
        "indexer_kv_heads": 1,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {
        "num_hidden_layers": 3,
        "block_types": ["recurrent", "recurrent", "attention"],
        "attention_window_size": 4,
        "num_key_value_heads": 1,
        "conv1d_width": 3,
    },
    "zamba": {**_ZAMBA, "n_mamba_heads": 2},
    "zamba2": {
        **_ZAMBA,
        "hybrid_layer_ids": [1, 3],
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "mamba_ngroups": 1,
        "adapter_rank": 4,
        "kv_channels": 8,
        "num_query_groups": 4,
    },
}

_POSITIONS_OF_PICTURES = {"rope_parameters": _ROPE | {"mrope_section": [2, 1, 1]}}
_WRAPPED: dict[str, dict[str, Any]] = {
    "gemma4": {
        "text_config": {  # as the 26B and 31B ones; `gemma4_text` is as the small ones
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "attention_k_eq_v": True,
            "per_layer_config": dict.fromkeys(
                ["01", "03"], {"head_dim": 16, "num_key_value_heads": 1}
            ),
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 24,
        },
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "position_embedding_size": 16,
        },
    },
    "glm4v_text": _POSITIONS_OF_PICTURES,
    "lfm2_vl": {"projector_hidden_size": 32},
    "qwen2_5_vl_text": _POSITIONS_OF_PICTURES,
    "qwen2_vl_text": _POSITIONS_OF_PICTURES,
}

OWN: dict[str, dict[str, Any]] = {**_ATTENTION, **_LATENTS, **_MIXERS, **_WRAPPED}
