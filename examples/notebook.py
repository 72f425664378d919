"""The notebook examples/sft.ipynb, made of the script beside it.

    python examples/notebook.py

The script's `# %%` lines begin its cells. Where it takes words of the command line, the notebook
names the tiny model.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
WORDS = {  # of the script, and what stands for them
    "import sys\n": "import subprocess\n",
    'model, out = sys.argv[1], (sys.argv[2:] or ["runs/example-sft"])[0]\n': (
        'recipe = ["headlab", "recipe", "name=tiny_random"]  # or a directory, or a hub name\n'
        "model = subprocess.check_output(recipe, text=True).strip()\n"
        'out = "runs/example-sft"\n'
    ),
    "#     python examples/sft.py $(headlab recipe name=tiny_random)\n": "",
}


def cells(script: str) -> list[tuple[str, str]]:
    """The kind (code, markdown) and the text of each cell of a script."""
    found = []
    for part in script.split("# %%")[1:]:
        mark, _, text = part.partition("\n")
        if mark.strip() == "[markdown]":
            lines = [line.removeprefix("#").removeprefix(" ") for line in text.splitlines()]
            found.append(("markdown", "\n".join(lines).strip()))
        else:
            found.append(("code", text.strip()))
    return found


def notebook() -> str:
    """The notebook as a file's text."""
    script = (HERE / "sft.py").read_text(encoding="utf-8")
    for words, instead in WORDS.items():
        assert words in script, words
        script = script.replace(words, instead)
    made = []
    for number, (kind, text) in enumerate(cells(script)):
        own = {"outputs": [], "execution_count": None} if kind == "code" else {}
        source = text.splitlines(keepends=True)
        made.append({"cell_type": kind, "id": str(number), "metadata": {}, "source": source, **own})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4}
    return json.dumps({**content, "nbformat_minor": 5}, indent=1) + "\n"


if __name__ == "__main__":
    (HERE / "sft.ipynb").write_text(notebook(), encoding="utf-8")
