"""What is masked in the files of a run."""

from __future__ import annotations

from analysis.records.secrets import redact


def test_a_token_of_a_tokenizer_is_no_secret():
    args = {"eos_token": "<|im_end|>", "pad_token": "x", "hub_token": "s", "push_to_hub_token": "s"}
    masked = {"hub_token": "<redacted>", "push_to_hub_token": "<redacted>"}
    assert redact({"args": args}) == {"args": args | masked}
