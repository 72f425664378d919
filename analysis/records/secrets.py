"""Which keys of a configuration hold a secret, and a copy of it without them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# not eos_token and its like, which are arguments of SFTConfig and secret to nobody
_SECRET = re.compile(
    r"(^|_)(?<!^bos_)(?<!^eos_)(?<!^pad_)(?<!^unk_)(token|key|secret|password)$", re.IGNORECASE
)


# what the hub, GitHub, AWS and makers of models give as tokens
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9_-])(hf_[A-Za-z]{30,}|gh[pousr]_[A-Za-z0-9]{36,}|AKIA[0-9A-Z]{16}"
    r"|sk-(?:proj-|ant-)?[A-Za-z0-9_]{32,})(?![A-Za-z0-9])"
)


def tokens_in(text: str) -> list[str]:
    """What looks like a token in a text.

    >>> tokens_in("HF_TOKEN=hf_" + "a" * 34 + " eos_token=<end>")
    ['hf_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa']
    """
    return _TOKEN.findall(text)


def redact(config: object) -> Any:
    """A copy of a configuration in which the values of keys that name a secret are masked.

    >>> redact({"api_key": "x", "seed": 0})
    {'api_key': '<redacted>', 'seed': 0}
    """
    if isinstance(config, Mapping):
        return {
            key: "<redacted>" if _SECRET.search(str(key)) and value else redact(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return [redact(value) for value in config]
    return config


def secrets_in(config: object, prefix: str = "") -> list[str]:
    """The keys of a configuration that hold a secret.

    >>> secrets_in({"model": {"hub_token": "hf_x"}, "eos_token": "<end>"})
    ['model.hub_token']
    """
    found = []
    for key, value in config.items() if isinstance(config, Mapping) else ():
        if _SECRET.search(str(key)) and value:
            found.append(f"{prefix}{key}")
        else:
            found += secrets_in(value, f"{prefix}{key}.")
    return found


def redact_yaml(text: str) -> str:
    """The text of a configuration, written anew where a value of it is masked.

    >>> redact_yaml("api_key: x\\nseed: 0  # as ever\\n")
    'api_key: <redacted>\\nseed: 0\\n'
    """
    import yaml

    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        return text  # no keys can be told
    masked = redact(content)
    return text if masked == content else yaml.safe_dump(masked, sort_keys=False)
