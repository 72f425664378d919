"""Sizes of a tiny model, under every name that a configuration gives them.

A configuration takes those of its names that hold a number by default (or None, for `OPTIONAL`).
Four heads share two keys and values; every head is eight wide, every layer 32.
"""

from __future__ import annotations

_TABLE = {
    "num_hidden_layers n_layer n_layers num_layers depth": 2,
    "num_attention_heads n_head n_heads num_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_size n_embd d_model embed_dim word_embed_proj_dim attention_hidden_size lru_width": 32,
    "intermediate_size n_inner ffn_dim dff intermediate_size_mlp ffn_hidden_size": 48,
    # tokens and positions
    "vocab_size vocab_size_per_layer_input": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings n_positions n_ctx max_seq_len": 64,
    "rotary_dim sliding_window attention_chunk_size": 4,
    # latents, and indexers that choose nothing at these lengths
    "q_lora_rank kv_lora_rank": 16,
    "qk_rope_head_dim qk_nope_head_dim": 4,
    "qk_head_dim v_head_dim": 8,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "index_topk": 64,
    # experts, the first layer without
    "num_experts num_local_experts n_routed_experts moe_num_experts": 4,
    "num_experts_per_tok num_experts_per_token moe_k moe_topk": 2,
    "n_shared_experts num_shared_experts": 1,
    "n_group topk_group num_expert_group": 1,
    "first_k_dense_replace num_dense_layers moe_layer_start_index": 1,
    "moe_intermediate_size expert_ffn_hidden_size": 24,
    "shared_expert_intermediate_size shared_intermediate_size": 24,
    "zero_expert_num": 0,
    # state spaces, linear attention, convolutions
    "mamba_n_heads mamba_d_head mamba_num_heads mamba_head_dim": 8,
    "mamba_d_state ssm_state_size state_size": 8,
    "mamba_n_groups n_groups": 1,
    "mamba_chunk_size chunk_size": 8,
    "mamba_expand": 2,
    "mamba_d_ssm": 64,
    "mamba_dt_rank": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim linear_value_head_dim": 8,
    "conv_kernel_size conv_L_cache": 3,
    # inputs of their own for each layer
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "num_kv_shared_layers": 0,
    # towers for pictures
    "image_size num_position_embeddings": 16,
    "patch_size": 8,
    "num_patches": 4,
    "out_hidden_size vision_output_dim projector_input_dim projector_output_dim": 32,
    "attention_dropout hidden_dropout embd_pdrop resid_pdrop attn_pdrop dropout": 0.0,
}
SIZES = {name: size for names, size in _TABLE.items() for name in names.split()}
OPTIONAL = {"num_key_value_heads", "head_dim", "n_inner"}
OPTIONAL |= {"pad_token_id", "bos_token_id", "eos_token_id"}
