"""The families: every decoder-only text type of transformers, and wrappers around one.

A kind is a `model_type`. `TEXT` is what transformers maps to a causal language model, less what is
no decoder of one text; a type that a new version brings is there at once, and the table of expected
outcomes (tests/support/families/outcomes.py) says that it misses it.
"""

from __future__ import annotations

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

_ENCODERS = """
    bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert
    roberta roberta-prelayernorm roc_bert roformer xlm xlm-roberta xlm-roberta-xl xmod xlnet
"""
_ENCODER_DECODERS = """
    bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart prophetnet
    trocr whisper
"""
_WITH_PICTURES_OR_SOUND = """
    emu3 fuyu gemma3 gemma3n gemma4 gemma4_unified git got_ocr2 mllama moshi moss_transcribe_diarize
    musicgen musicgen_melody phi4_multimodal
"""
_OF_SEVERAL_MODELS = "blt gemma4_assistant gemma4_unified_assistant"  # bytes; drafters
_TEXT_OF_A_WRAPPER = "dots3_note llama4 qwen3_5 qwen3_5_moe qwen4_exp"  # also there as X_text
_OTHER = {
    kind
    for kinds in (
        _ENCODERS,
        _ENCODER_DECODERS,
        _WITH_PICTURES_OR_SOUND,
        _OF_SEVERAL_MODELS,
        _TEXT_OF_A_WRAPPER,
    )
    for kind in kinds.split()
}

TEXT = tuple(sorted(kind for kind in CAUSAL if kind not in _OTHER))

# `X`ForConditionalGeneration: text models with a tower for pictures beside them
_WRAPPERS = """
    aya_vision gemma3 gemma4 glm4v idefics3 internvl lfm2_vl llama4 llava llava_next llava_onevision
    mistral3 paligemma qwen2_5_vl qwen2_vl qwen3_5 qwen3_vl qwen3_vl_moe smolvlm
"""
WRAPPERS = tuple(_WRAPPERS.split())

# What is trained most, and with it one of each concept that an anatomy has.
EVERYDAY = {
    "llama": "the regular block",
    "qwen2": "biases of q, k and v",
    "qwen3_moe": "experts; norms of q and k",
    "qwen3_5_text": "gates interleaved with queries; layers of linear attention",
    "mixtral": "experts of one tensor",
    "gemma2": "norms after the branches; capped logits",
    "gemma3": "a wrapper; two ways of attention",
    "phi3": "q, k and v in one projection",
    "olmo2": "no norm before; norms over all heads",
    "granite": "scaled branches and logits",
    "smollm3": "layers without positions",
    "glm4": "norms after the branches, Llama's names otherwise",
    "gpt_oss": "sinks; a branch that returns two things",
    "lfm2": "layers of convolutions",
    "gpt_neox": "parallel branches; rows interleaved head by head",
    "deepseek_v3": "latents that all heads share",
    "cohere2": "parallel branches behind one norm",
    "falcon_h1": "a state space beside the attention",
    "bloom": "no attention interface",
    "mistral3": "a wrapper of another depth",
}
