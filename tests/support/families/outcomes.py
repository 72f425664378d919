"""What is known to become of each family; one that is not named here is proved in all ways.

A family that changes its outcome fails its test, in either direction.
"""

from __future__ import annotations

from tests.support.families.proof import Proof

_STREAMS = "several residual streams"
_NO_SUM = "not the residual stream plus the outputs of its parts"
_BESIDE = "beside the residual stream it is given"
_NOT_WHOLE = "share more than whole keys and values"

# part of the reason that is given
REFUSED: dict[str, str] = {
    # with no tokens of its own (prompt_length=0) the causal audit refuses it: every token sees all
    "cpmant": "tokens of its own",
    "deepseek_v4": _STREAMS,
    "gemma3n_text": _STREAMS,
    "gemma4_text": _BESIDE,
    "hrm_text": "more than once",
    "hy_v4": _STREAMS,
    "inkling2_text": _NO_SUM,
    "jetmoe": "no output projection",
    "minimax": _NO_SUM,
    "openai-gpt": _NO_SUM,
    "paligemma": "a token sees those behind it",  # its whole prompt is a prefix
    "qwen4_exp_text": _NO_SUM,
    "reformer": "no list of layers",
    "rwkv": _NO_SUM,
    "zamba": _BESIDE,
    "zamba2": _BESIDE,
    "zaya": "neither an RMSNorm nor a LayerNorm",
}

# A norm over all heads, or keys that a later layer reads too, tie heads together: a destination is
# the rows of a projection, and what a head has at the attention interface is made of others too.
BY_ROWS = {
    *("ctrl", "flex_olmo", "gemma4_unified_text", "minimax_m2", "olmo2", "olmo3", "olmo_hybrid"),
    "olmoe",
}

NO_HEADS = {"falcon_mamba", "mamba"}

# what is refused although the family is proved, with part of the reason
NOT_OFFERED: dict[str, dict[str, str]] = {
    "ungrouped": {
        "axk1": _NOT_WHOLE,
        "axk2": _NOT_WHOLE,
        "bailing_hybrid": _NOT_WHOLE,
        "deepseek_v2": _NOT_WHOLE,
        "deepseek_v3": _NOT_WHOLE,
        "deepseek_v32": _NOT_WHOLE,
        "diffllama": _NOT_WHOLE,
        "doge": _NOT_WHOLE,
        "dots3_note_text": _NOT_WHOLE,
        "gemma4_unified_text": "no rows for the keys that it shares",
        "glm4_moe_lite": _NOT_WHOLE,
        "glm_moe_dsa": _NOT_WHOLE,
        "kimi_linear": _NOT_WHOLE,
        "longcat_flash": _NOT_WHOLE,
        "minicpm3": _NOT_WHOLE,
        "youtu": _NOT_WHOLE,
    }
}


def expected(kind: str) -> str:
    """`proved`, `proved by rows`, `no heads` or `refused`."""
    if kind in REFUSED:
        return "refused"
    return "proved by rows" if kind in BY_ROWS else "no heads" if kind in NO_HEADS else "proved"


def surprise(proof: Proof) -> str | None:
    """How a family's outcome differs from what is known of it, or None."""
    known, outcome = expected(proof.kind), proof.outcome
    if known == "refused":
        reason = REFUSED[proof.kind]
        right = proof.refused is not None and reason in proof.refused
        return None if right else f"expected to be refused for {reason!r}, is {outcome}"
    if outcome != known:
        return f"expected {known}, is {outcome}"
    for what in NOT_OFFERED.keys() | proof.not_offered.keys():
        found = proof.not_offered.get(what)
        wanted = NOT_OFFERED.get(what, {}).get(proof.kind)
        if (found is None) != (wanted is None) or (wanted is not None and wanted not in str(found)):
            return f"{what}: expected to be refused for {wanted!r}, is refused for {found!r}"
    return None
