"""Load a checkpoint as training had it: a whole model, or an adapter attached to its base."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.measurement import load_part


@dataclass(frozen=True)
class Base:
    """What a run started from, as it stands in RUN/base.json.

    path: directory or hub name. dtype: of the weights in training, in which all checkpoints are
    measured.
    """

    path: str
    dtype: str

    @classmethod
    def read(cls, run: Path) -> Base | None:
        """That of a run, or None if the run has not got so far."""
        path = run / "base.json"
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def load(self, checkpoint: Path | None, device: str) -> Any:
        """The model of a checkpoint, or of the base itself, in eval mode; safetensors alone.

        An adapter is attached to the base and not merged; nothing is written.

        Raises:
            ValueError: it can't be loaded.
        """
        import torch
        from transformers import AutoModelForCausalLM

        adapter = checkpoint is not None and (checkpoint / "adapter_config.json").exists()
        path = self.path if checkpoint is None or adapter else str(checkpoint)
        model = load_part(
            AutoModelForCausalLM, path, dtype=getattr(torch, self.dtype), use_safetensors=True
        )
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(checkpoint))
        return model.to(device).eval()
