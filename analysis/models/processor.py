"""What a multimodal model's directory holds beside weights and tokenizer: its processor's files.

They say how images, videos and sound become tokens, for engines and users of the checkpoint; here
nothing but the chat template is read of them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

TEMPLATE = "chat_template.json"  # of processors before transformers 5, which no tokenizer reads
FILES = ("*processor_config.json", TEMPLATE)


def copy_processor(source: Path, out: Path) -> None:
    """Give a model's directory the processor's files of the one that it was made from, if any."""
    for pattern in FILES:
        for file in source.glob(pattern):
            if not (out / file.name).exists():
                shutil.copyfile(file, out / file.name)


def processor_template(place: Path) -> str | None:
    """The chat template that a directory has for its processor only; None if there is none.

    Raises:
        ValueError: the file is damaged.
    """
    file = place / TEMPLATE
    if not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["chat_template"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); copy the model again") from error
