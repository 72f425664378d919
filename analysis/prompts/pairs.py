"""Prompt pairs that a circuit is measured on: a clean prompt and a corrupted one of equal length.

File format, one JSON object a line, either text or token ids:

    {"clean": "...", "corrupted": "...", "target": " 12", "foil": " 13"}
    {"clean_ids": [...], "corrupted_ids": [...], "target_id": 5, "foil_id": 7}

`target` and `foil` are needed by the metric `logit_diff` only. Of each the token counts that comes
after the clean prompt, when both are tokenized as one text; the two must differ there, and so must
the prompts. The metric is read at `positions` (a list of token indices; negative ones count from
the end), by default the last token. A text is tokenized as it stands: it holds its own special
tokens. What else a file may be: analysis/prompts/row_files.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from analysis.files import short_hash
from analysis.prompts.clusters import Prompt, clusters
from analysis.prompts.row_files import read_rows
from analysis.prompts.values import native

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pair:
    """One clean and one corrupted prompt, as token ids of equal length.

    Raises:
        ValueError: the prompts are empty or differ in length, or a position lies outside them.
    """

    clean_ids: tuple[int, ...]
    corrupted_ids: tuple[int, ...]
    target_id: int | None = None
    foil_id: int | None = None
    positions: tuple[int, ...] = (-1,)

    def __post_init__(self) -> None:
        if len(self.clean_ids) != len(self.corrupted_ids):
            raise ValueError(
                f"clean has {len(self.clean_ids)} tokens and corrupted {len(self.corrupted_ids)}; "
                "a pair needs equal lengths, so that every position has its counterpart"
            )
        if not self.clean_ids:
            raise ValueError("the pair is empty")
        length = len(self.clean_ids)
        if not self.positions:
            raise ValueError("positions is empty; the metric is read at one position at least")
        for position in self.positions:
            if not -length <= position < length:
                raise ValueError(f"position {position} lies outside {length} tokens")
        if len({position % length for position in self.positions}) < len(self.positions):
            raise ValueError(f"positions {list(self.positions)} name a token twice")

    @property
    def read_at(self) -> tuple[int, ...]:
        """`positions`, counted from the start."""
        return tuple(position % len(self.clean_ids) for position in self.positions)

    @property
    def labels(self) -> list[int | None]:
        """The clean token after each position; the target, if any, after the last token."""
        after = (*self.clean_ids[1:], self.target_id)
        return [after[position] for position in self.positions]


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids of some pairs: ids and mask int64 [B, T].

    The metric is read at N places in all: pair `rows` [N], token `positions` [N], followed in the
    clean text by `labels` [N]. target_ids, foil_ids: [B]. None where a pair does not have it.
    """

    clean: torch.Tensor
    corrupted: torch.Tensor
    mask: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor | None
    target_ids: torch.Tensor | None
    foil_ids: torch.Tensor | None

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: None if value is None else value.to(device) for name, value in vars(self).items()
        }
        return Batch(**moved)

    def repeat(self, times: int) -> Batch:
        """The same pairs again and again: row i of the result is pair i modulo B."""

        def again(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else values.repeat(times, *[1] * (values.ndim - 1))

        repeated: dict[str, Any] = {name: again(value) for name, value in vars(self).items()}
        shift = torch.arange(times, device=self.rows.device).repeat_interleave(len(self.rows))
        repeated["rows"] = repeated["rows"] + len(self.clean) * shift
        return Batch(**repeated)


class Pairs(Sequence[Pair]):
    """A fixed list of pairs. Two lists with the same `hash` are the same measurement.

    about: what they were made of, in words, where nobody gave them.  further: more pairs of the
    same source, for the base only (analysis/tracking/further.py).

    Raises:
        ValueError: there are no pairs.
    """

    def __init__(
        self, pairs: Sequence[Pair], about: str | None = None, further: Pairs | None = None
    ) -> None:
        if not pairs:
            raise ValueError("there are no pairs; a circuit needs at least one")
        self._pairs = list(pairs)
        self.about = about
        self.further = further

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: Any) -> Any:
        return self._pairs[index]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)

    @property
    def hash(self) -> str:
        """Content hash over ids, targets and positions, in order: 16 hex digits."""
        text = json.dumps([asdict(pair) for pair in self._pairs], sort_keys=True)
        return short_hash(text)

    @property
    def groups(self) -> list[int]:
        """For each pair the number of its cluster (analysis/prompts/clusters.py).

        Prompts are alike if they are the same, or the same up to the last token that is read.
        """

        def known_by(pair: Pair, ids: tuple[int, ...]) -> Prompt:
            return frozenset((ids, ids[: max(pair.read_at) + 1]))

        clean = [known_by(pair, pair.clean_ids) for pair in self]
        return clusters(clean, [known_by(pair, pair.corrupted_ids) for pair in self])

    @property
    def n_distinct(self) -> int:
        """How many clusters of pairs there are: the size of the sample."""
        return len(set(self.groups))

    def split(self, size: int) -> Pairs:
        """The first `size` pairs, with as `further` one pair of each other cluster.

        Copies would weigh as much as pairs of their own and seem to have no noise.
        """
        groups = self.groups
        seen, further = set(groups[:size]), []
        for pair, group in zip(self._pairs[size:], groups[size:], strict=True):
            if group not in seen:
                seen.add(group)
                further.append(pair)
        return Pairs(self._pairs[:size], self.about, Pairs(further) if further else None)

    def save(self, path: Path) -> None:
        """Write as JSONL of token ids."""
        lines = [json.dumps({k: v for k, v in asdict(p).items() if v is not None}) for p in self]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @classmethod
    def load(
        cls,
        path: Path,
        tokenizer: PreTrainedTokenizerBase | None = None,
        metric: str | None = None,
    ) -> Pairs:
        """Read a pairs file; a tokenizer is needed for lines of text.

        Args:
            metric: what is to be measured. Target and foil must differ where it is `logit_diff`,
                which compares them; of text also where it is None, since it may be.

        Raises:
            ValueError: with the line's number, for anything that is not a pair, and for a pair that
                tells nothing apart.
        """
        pairs = []
        for row in read_rows(f"file:{path}"):
            try:
                pairs.append(_parse(native(row.values), tokenizer, metric))
            except ValueError as error:
                raise ValueError(f"{row.place}: {error}") from error
        return cls(pairs)

    def batches(self, size: int, pad_id: int = 0) -> Iterator[Batch]:
        """Right-padded batches in order; the last one may be smaller."""
        for start in range(0, len(self), size):
            yield collate(self._pairs[start : start + size], pad_id)

    def check_vocabulary(self, size: int) -> None:
        """Raise ValueError if an id lies outside a vocabulary of `size` tokens."""
        for index, pair in enumerate(self):
            extra = [i for i in (pair.target_id, pair.foil_id) if i is not None]
            for token in (*pair.clean_ids, *pair.corrupted_ids, *extra):
                if not 0 <= token < size:
                    raise ValueError(
                        f"pair {index} has token id {token}, but the model's vocabulary ends at "
                        f"{size - 1}; the pairs were made with another tokenizer"
                    )

    def check_length(self, limit: int | None) -> None:
        """Raise ValueError if a pair is longer than a model that learned its positions allows."""
        for index, pair in enumerate(self):
            if limit is not None and len(pair.clean_ids) > limit:
                raise ValueError(
                    f"pair {index} has {len(pair.clean_ids)} tokens, but the model has positions "
                    f"for {limit}"
                )


def _parse(
    given: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None, metric: str | None
) -> Pair:
    row = {name: value for name, value in given.items() if value is not None}
    if "clean_ids" in row and "corrupted_ids" in row:
        _check_fields(row, "clean_ids", "corrupted_ids", "target_id", "foil_id", "positions")
        pair = Pair(
            clean_ids=_ids("clean_ids", row["clean_ids"]),
            corrupted_ids=_ids("corrupted_ids", row["corrupted_ids"]),
            target_id=_id("target_id", row),
            foil_id=_id("foil_id", row),
            positions=_integers("positions", row.get("positions", [-1])),
        )
    elif "clean" in row and "corrupted" in row:
        pair = _parse_text(row, tokenizer)
    else:
        raise ValueError(
            f"needs clean and corrupted, or clean_ids and corrupted_ids; has {sorted(row)}"
        )
    if pair.clean_ids == pair.corrupted_ids:
        raise ValueError("clean and corrupted are the same prompt, so there is nothing to measure")
    is_compared = metric == "logit_diff" or (metric is None and "clean" in row)
    if is_compared and pair.target_id is not None and pair.target_id == pair.foil_id:
        name = "" if tokenizer is None else f" ({tokenizer.decode([pair.target_id])!r})"
        raise ValueError(
            f"target and foil begin with the same token{name}, and only the first of each counts; "
            "go on with the prompts up to where the two differ"
        )
    return pair


def _parse_text(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None) -> Pair:
    _check_fields(row, "clean", "corrupted", "target", "foil", "positions")
    if tokenizer is None:
        raise ValueError("a pair given as text needs a tokenizer; give one, or write token ids")
    for name in ("clean", "corrupted", "target", "foil"):
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            raise ValueError(
                f"{name} is {json.dumps(value)}, and has to be text, in quotation marks; a pair of "
                "token ids has clean_ids, corrupted_ids, target_id and foil_id"
            )
        if value == "":
            raise ValueError(f"{name} is empty")
    if row.get("target") is not None and row.get("target") == row.get("foil"):
        raise ValueError(f"target and foil are the same text, {row['target']!r}")
    return Pair(
        clean_ids=encode(tokenizer, row["clean"]),
        corrupted_ids=encode(tokenizer, row["corrupted"]),
        target_id=_follows(tokenizer, row["clean"], "target", row.get("target")),
        foil_id=_follows(tokenizer, row["clean"], "foil", row.get("foil")),
        positions=_integers("positions", row.get("positions", [-1])),
    )


def _follows(
    tokenizer: PreTrainedTokenizerBase, prompt: str, name: str, text: str | None
) -> int | None:
    """The token of a text that comes after a prompt, where it stands behind it."""
    if text is None:
        return None
    ids, full = encode(tokenizer, prompt), encode(tokenizer, prompt + text)
    if full[: len(ids)] != ids or len(full) == len(ids):
        raise ValueError(
            f"{name} {text!r} does not follow clean as a token of its own: the two merge; let the "
            f"prompt end elsewhere (a space at its end belongs to {name})"
        )
    return full[len(ids)]


def _check_fields(row: dict[str, Any], *known: str) -> None:
    if unknown := sorted(set(row) - set(known)):
        raise ValueError(f"unknown fields {unknown}; known: {', '.join(known)}")


def _integers(name: str, values: object) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError(f"{name} must hold integers only")
    return tuple(values)


def _ids(name: str, values: object) -> tuple[int, ...]:
    ids = _integers(name, values)
    if low := [token for token in ids if token < 0]:
        raise ValueError(f"{name} has the token id {low[0]}; ids are 0 or more")
    return ids


def _id(name: str, row: dict[str, Any]) -> int | None:
    return None if name not in row else _ids(name, [row[name]])[0]


def holds_text(path: Path) -> bool:
    """True if a pairs file has a row of text, so that reading it needs a tokenizer.

    Raises:
        ValueError: the file can't be read.
    """
    return any("clean" in row.values for row in read_rows(f"file:{path}"))


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of a text that already holds its special tokens."""
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def collate(pairs: Sequence[Pair], pad_id: int = 0) -> Batch:
    """Right-pad pairs to a batch; targets, foils and labels are None unless every pair has them."""
    length = max(len(pair.clean_ids) for pair in pairs)

    def padded(rows: list[tuple[int, ...]], fill: int) -> torch.Tensor:
        return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows])

    def column(values: list[int | None]) -> torch.Tensor | None:
        known = [value for value in values if value is not None]
        return torch.tensor(known) if len(known) == len(values) else None

    return Batch(
        clean=padded([pair.clean_ids for pair in pairs], pad_id),
        corrupted=padded([pair.corrupted_ids for pair in pairs], pad_id),
        mask=padded([(1,) * len(pair.clean_ids) for pair in pairs], 0),
        rows=torch.tensor([row for row, pair in enumerate(pairs) for _ in pair.positions]),
        positions=torch.tensor([p % len(pair.clean_ids) for pair in pairs for p in pair.positions]),
        labels=column([label for pair in pairs for label in pair.labels]),
        target_ids=column([pair.target_id for pair in pairs]),
        foil_ids=column([pair.foil_id for pair in pairs]),
    )
