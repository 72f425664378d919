"""GRPO's rollouts are asked, and end, as answers are in evaluation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from analysis.prompts.chat import Prompting
from analysis.prompts.template import render
from analysis.prompts.turns import ends_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl import GRPOConfig, GRPOTrainer


def ask_alike(args: GRPOConfig, tokenizer: PreTrainedTokenizerBase, ask: Prompting) -> None:
    """Give the arguments the options of the chat template and, for vLLM, the ends of a turn."""
    args.chat_template_kwargs = ask.options(tokenizer) or None
    if args.use_vllm:  # it adds those of the generation config
        given: Any = args.generation_kwargs or {}
        own = given.get("stop_token_ids") or []
        args.generation_kwargs = {**given, "stop_token_ids": ends_of(tokenizer, own)}


def end_alike(trainer: GRPOTrainer, tokenizer: PreTrainedTokenizerBase, ask: Prompting) -> None:
    """Let rollouts end at every token that ends an answer, and be masked after it.

    TRL takes the tokenizer's end and those of the generation config, which in a base model need not
    hold the end of a turn: no rollout would end. Where thinking is off and the template has no
    switch for it, rollouts get the closed think block by a template of their own.
    """
    model: Any = trainer.model
    ends = ends_of(tokenizer, model.generation_config.eos_token_id)
    args: Any = trainer.args
    told = (args.generation_kwargs or {}).get("eos_token_id")
    ends = sorted({*ends, *([told] if isinstance(told, int) else told or [])})
    if set(ends) != set(trainer.eos_token_ids) or told is not None:
        trainer.eos_token_ids = ends
        if not trainer.use_vllm:
            trainer.generation_kwargs["eos_token_id"] = ends
            trainer.generation_config.eos_token_id = ends
    closed = closing_template(tokenizer, ask)
    if closed is not None:
        trainer.chat_template = closed


def closing_template(tokenizer: PreTrainedTokenizerBase, ask: Prompting) -> str | None:
    """A template that writes prompts as `ask` does; None if the tokenizer's own does."""
    asked = ask.messages("?")
    own = render(tokenizer, asked, True, ask.options(tokenizer), ask.day)
    more = ask.prompt_of(tokenizer, asked).text.removeprefix(own)
    if not more:
        return None
    # the tokenizer's own loses a newline at its end when it is compiled
    template = tokenizer.get_chat_template().removesuffix("\n")
    return f"{template}{{% if add_generation_prompt %}}{{{{ {json.dumps(more)} }}}}{{% endif %}}"
