"""Plans that were found before: in the process, and where that took long, in files.

A plan is kept by what it depends on: the model's class and configuration, its modules, this
package's code and the versions of torch and transformers. Plans with numbers that training may
change are not kept. A file that can't be read or written is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import torch
import transformers

from analysis.detection.find import find
from analysis.detection.plan import Plan
from analysis.files import atomic_write

_WORTH_A_FILE = 0.5  # seconds that detection took
_PLANS: dict[str, Plan] = {}
# what a configuration holds beside the shape of its model
_ASIDE = ("_name_or_path", "architectures", "dtype", "transformers_version", "use_cache")


def kept(causal_lm: Any) -> Plan | None:
    """The plan that was found before of a model like this one, whose weights need no values."""
    key = key_of(causal_lm)
    return _PLANS.get(key) or _read(key)


def plan_of(causal_lm: Any, anew: bool = False) -> tuple[Plan, bool]:
    """The plan of a causal language model, and whether it was kept; `anew` finds it now.

    Raises:
        Unsupported: its anatomy can't be found.
    """
    key = key_of(causal_lm)
    plan = None if anew else _PLANS.get(key) or _read(key)
    kept = plan is not None
    if plan is None:
        start = monotonic()
        plan = find(causal_lm)
        if plan.fixed and monotonic() - start > _WORTH_A_FILE:
            _write(key, plan)
    if plan.fixed:
        _PLANS[key] = plan
    return plan, kept


def key_of(causal_lm: Any) -> str:
    """What a model's plan depends on, as a hash."""
    config = {key: x for key, x in causal_lm.config.to_dict().items() if key not in _ASIDE}
    modules = [f"{name} {type(m).__qualname__}" for name, m in causal_lm.named_modules()]
    kind = f"{type(causal_lm).__module__}.{type(causal_lm).__qualname__}"
    dtype = str(next(causal_lm.parameters()).dtype)  # some norms have its smallest step for eps
    parts = (kind, dtype, json.dumps(config, sort_keys=True, default=str), *modules, _code())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@cache
def _code() -> str:
    """The code that makes plans, and what it runs on."""
    found = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        found.update(file.read_bytes())
    return f"{found.hexdigest()} {torch.__version__} {transformers.__version__}"


def file_of(key: str) -> Path:
    """Where the plan of a key is kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "headlab" / "anatomy" / f"{key}.json"


def _read(key: str) -> Plan | None:
    try:
        return msgspec.json.decode(file_of(key).read_bytes(), type=Plan)
    except (OSError, RuntimeError, msgspec.DecodeError):  # RuntimeError: there is no home
        return None


def _write(key: str, plan: Plan) -> None:
    try:
        with atomic_write(file_of(key)) as draft:
            draft.write_bytes(msgspec.json.encode(plan))
    except (OSError, RuntimeError):
        return
