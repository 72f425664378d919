"""What is right for a problem: gold texts, any of which is right, or the generator's own scorer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


def pack(value: Any) -> Any:
    """A value as JSON keeps it, with its tuples, sets and keys that are no text.

    >>> pack({1: (2, 3)})
    {'dict': [[1, {'tuple': [2, 3]}]]}

    Raises:
        TypeError: it holds something else than plain values.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {"dict": [[pack(key), pack(entry)] for key, entry in value.items()]}
    for kind in (list, tuple, set):
        if type(value) is kind:
            return {kind.__name__: [pack(entry) for entry in value]}
    raise TypeError(f"a {type(value).__name__} can't be carried to where answers are judged")


def unpack(value: Any) -> Any:
    """What `pack` packed.

    >>> unpack(pack({1: (2, [3])}))
    {1: (2, [3])}
    """
    if not isinstance(value, dict):
        return value
    ((kind, entries),) = value.items()
    if kind == "dict":
        return {unpack(key): unpack(entry) for key, entry in entries}
    return {"list": list, "tuple": tuple, "set": set}[kind](map(unpack, entries))


@dataclass(frozen=True)
class Scorer:
    """The scorer of a reasoning-gym task, with the entry of a problem that it reads.

    The entry is carried as JSON: some generators make another one in another process, and no
    pickled object goes to where answers are judged (analysis/evaluation/verify_worker.py).
    """

    task: str
    options: str  # a JSON object
    seed: int
    size: int
    entry: str  # JSON, packed

    def dataset(self) -> Any:
        """The generator that has the scorer."""
        import reasoning_gym

        options = json.loads(self.options)
        return reasoning_gym.create_dataset(self.task, seed=self.seed, size=self.size, **options)


@dataclass(frozen=True)
class Gold:
    """`texts` are the right answers, without a scorer; with one, only the scorer decides."""

    texts: tuple[str, ...]
    scorer: Scorer | None = None

    def to_json(self) -> str:
        """As one text, for a column of a data set."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Gold:
        """What `to_json` wrote.

        >>> Gold.from_json(Gold(("5", "five")).to_json())
        Gold(texts=('5', 'five'), scorer=None)
        """
        value = json.loads(text)
        scorer = value["scorer"]
        return cls(tuple(value["texts"]), Scorer(**scorer) if scorer else None)
