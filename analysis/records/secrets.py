"""Which keys of a configuration hold a secret, and a copy of it without them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# not eos_token and its like, which are arguments of SFTConfig and secret to nobody
_SECRET = re.compile(
    r"(^|_)(?<!^bos_)(?<!^eos_)(?<!^pad_)(?<!^unk_)(token|key|secret|password)$", re.IGNORECASE
)


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
