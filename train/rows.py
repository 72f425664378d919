"""The rows that a trainer renders, checked as rendered, before any weight is loaded.

Whatever the chat template makes of it, a row of SFT still holds its problem and its answer, begins
with what the model is asked at inference, and ends with a token that ends a turn. A row of GRPO
says what of the answer its prompt holds, for the rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from analysis.prompts.chat import Prompting
from analysis.prompts.template import Message, check_held, generation_prompt, render
from analysis.prompts.turns import Turn, end_of_turn, ends_of, opened_by

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase
    from trl import GRPOConfig, SFTConfig

MEND = (
    "give the tokenizer another chat template (a chat_template.jinja beside it; for SFT also "
    "train.args.chat_template_path=FILE.jinja)"
)


def fit_rows(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    ask: Prompting,
    args: SFTConfig | GRPOConfig,
) -> Dataset:
    """The rows as the trainer is to render them, each of them rendered once and checked.

    Raises:
        ValueError: naming the row, what the template does to it, and the mend.
    """
    from trl import SFTConfig

    if isinstance(args, SFTConfig):
        _check_end(tokenizer, args)
        return _fit(dataset, tokenizer, ask)
    end = end_of_turn(tokenizer)
    if not ends_of(tokenizer, None):
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path} names no end of text (eos_token), and its "
            "chat template writes none after an answer, so no rollout would end; set the eos_token "
            "in its tokenizer_config.json"
        )
    text = "" if end is None else _text_of_end(tokenizer, end)
    turns = [
        _named(number, lambda row=row: ask.prompt_of(tokenizer, row["prompt"]).turn)
        for number, row in enumerate(dataset, start=1)
    ]
    column: Any = [asdict(Turn(turn.opened, text)) for turn in turns]
    return dataset.add_column("turn", column)


def _text_of_end(tokenizer: PreTrainedTokenizerBase, end: int) -> str:
    """Of an end that is no special token, and so stays in what TRL decodes; else nothing."""
    token = tokenizer.added_tokens_decoder[end]
    return "" if token.special else str(token.content)


def _named(number: int, work: Any) -> Any:
    """The result of work on a row, with its number in the error."""
    try:
        return work()
    except ValueError as error:
        raise ValueError(f"row {number} of the training data: {error}") from error


def _check_end(tokenizer: PreTrainedTokenizerBase, args: SFTConfig) -> None:
    """Raise ValueError if SFT would not train a model to end its answers."""
    from trl.chat_template_utils import (
        has_generation_markers,
        is_chat_template_stop_token_trained,
    )

    name = tokenizer.name_or_path
    turns = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": "ANSWER"}]
    after = render(tokenizer, turns).rpartition("ANSWER")[2].lstrip()
    ends = tokenizer.convert_ids_to_tokens(ends_of(tokenizer, None))
    if not after.startswith(tuple(ends)):
        raise ValueError(
            f"the chat template of {name} writes no token after an answer that ends it, so the "
            f"model would not learn to stop; {MEND} that ends an assistant's turn with "
            "{{ eos_token }}"
        )
    marked = args.assistant_only_loss and has_generation_markers(tokenizer.chat_template)
    if marked and not is_chat_template_stop_token_trained(tokenizer):
        raise ValueError(
            f"the chat template of {name} ends an answer outside of {{% generation %}}, so with "
            "train.args.assistant_only_loss=true the model would not learn to stop; leave that "
            f"out, or {MEND}"
        )


def _fit(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, ask: Prompting) -> Dataset:
    """Rows of SFT, changed only where they must be to begin as the model's answers do."""
    generation = generation_prompt(tokenizer)
    is_talk = "messages" in dataset.column_names

    def fitted(row: dict[str, Any]) -> dict[str, Any]:
        if is_talk:
            talk = ask.conversation(_plain(row["messages"]))
            return {"messages": _fitted(tokenizer, talk, generation)}
        talk = [*row["prompt"], *row["completion"]]
        return {"completion": _fitted(tokenizer, talk, generation)[len(row["prompt"]) :]}

    changed = False
    for number, row in enumerate(dataset, start=1):
        new = _named(number, lambda row=row: fitted(row))
        old = _plain(row["messages"]) if is_talk else row["completion"]
        changed = changed or old != next(iter(new.values()))
    if not changed:
        return dataset
    return dataset.map(fitted, load_from_cache_file=False)


def _plain(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages without the keys that other rows have and they have not."""
    return [{k: v for k, v in message.items() if v is not None} for message in messages]


def _fitted(
    tokenizer: PreTrainedTokenizerBase, talk: list[dict[str, Any]], generation: str
) -> list[dict[str, Any]]:
    """A conversation whose last answer goes on from the prompt that it has at inference.

    Raises:
        ValueError: the template leaves out a part of it, or the answer begins otherwise.
    """
    *asked, answer = talk
    content = answer.get("content")
    if answer.get("role") != "assistant" or not isinstance(content, str):
        return talk
    prompt = render(tokenizer, asked, generate=True)
    turn = Turn(opened_by(prompt, generation))
    begun = turn.opened + turn.goes_on(content)
    is_whole = not Turn(begun).thinks  # else the answer would be thinking that never ends
    for text in dict.fromkeys([content, begun] if is_whole else [content]):
        fitted = [*asked, {**answer, "content": text}]
        rendered = render(tokenizer, fitted)
        for message in fitted:
            # of earlier answers, some templates (Qwen3's) leave out the thinking on purpose
            if message is fitted[-1] or message.get("role") in ("system", "user"):
                check_held(tokenizer, rendered, message)
        if rendered.startswith(prompt):
            return fitted
    raise ValueError(
        f"the chat template of {tokenizer.name_or_path} asks for an answer with "
        f"{(generation or prompt)[-60:]!r}, and this answer does not go on from there: "
        f"{content[:60]!r}; begin it with what the template opens (data.completion), or {MEND}"
    )
