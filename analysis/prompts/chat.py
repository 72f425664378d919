"""How a question is put to a chat model: system prompt, suffix, template, thinking on or off."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from analysis.prompts.problems import Problem
from analysis.prompts.template import DAY, Message, check_held, generation_prompt, render
from analysis.prompts.turns import ANSWER, CLOSE, NO_THINK, THINK, Turn, opened_by

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt, and what of the answer it holds already."""

    text: str
    turn: Turn


@dataclass(frozen=True)
class Prompting:
    """System prompt, text added after the question, and options of the chat template.

    `template_options` goes to `apply_chat_template`. `think` is `on` or `off`: by the template's
    own switch (`enable_thinking`, as Qwen3 has it) or, where it has none, off by an empty think
    block and on by nothing. None leaves the template to its default and `template_options`.
    `prefix` begins the answer. `day` is the date that a template prints which prints today's.

    Raises:
        ValueError: `think` is neither on, off nor None.
    """

    system_prompt: str | None = None
    suffix: str = ""
    template_options: dict[str, Any] = field(default_factory=dict)
    think: str | None = None
    prefix: str = ""
    day: str = DAY

    def __post_init__(self) -> None:
        if self.think not in (None, "on", "off"):
            raise ValueError(f"think is {self.think!r}; choose on, off, or leave it out")

    def to_json(self) -> dict[str, Any]:
        """Its fields; a day that is the usual one is left out, as it was before there were others.

        Hashes of what was asked are of this.
        """
        return {k: v for k, v in asdict(self).items() if (k, v) != ("day", DAY)}

    def messages(self, question: str) -> list[dict[str, Any]]:
        """The conversation that asks a question."""
        return self.conversation([{"role": "user", "content": question}])

    def conversation(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """A conversation with this system prompt, in place of its own, and this suffix.

        The suffix follows every question, which is the text of a user.
        """
        own = self.system_prompt
        kept = [dict(m) for m in messages if not (own and m.get("role") == "system")]
        for message in kept:
            if message.get("role") == "user" and isinstance(message.get("content"), str):
                message["content"] += self.suffix
        return [{"role": "system", "content": own}, *kept] if own else kept

    def options(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """What the chat template is given: the template's own switch for thinking included."""
        switch = {"enable_thinking": self.think == "on"} if self._switched(tokenizer) else {}
        return {**self.template_options, **switch}

    def _switched(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        return self.think is not None and "enable_thinking" in str(tokenizer.chat_template)

    def prompt(self, tokenizer: PreTrainedTokenizerBase, question: str) -> Prompt:
        """What a model is asked, up to where its answer begins.

        Raises:
            ValueError: there is no chat template, it can't write the conversation, or leaves the
                question or the system prompt out.
        """
        found = self.prompt_of(tokenizer, self.messages(question))
        more = found.turn.goes_on(self.prefix)
        return Prompt(found.text + more, Turn(found.turn.opened + more, found.turn.end))

    def prompt_of(self, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Prompt:
        """The same of a conversation that ends with a question; without the prefix."""
        options = self.options(tokenizer)
        text = render(tokenizer, messages, True, options, self.day)
        for message in messages:
            if message.get("role") in ("system", "user"):  # of an answer, thinking may be left out
                check_held(tokenizer, text, message)
        generation = ""
        if any(tag in text for tag in (THINK, ANSWER)):
            generation = generation_prompt(tokenizer, options, self.day)
        turn = Turn(opened_by(text, generation))
        if self.think == "off" and not self._switched(tokenizer) and CLOSE not in turn.opened:
            text += turn.closing
            turn = Turn(turn.opened + turn.closing if turn.thinks else NO_THINK)
        return Prompt(text, turn)

    def text(self, tokenizer: PreTrainedTokenizerBase, question: str) -> str:
        """The text of `prompt`."""
        return self.prompt(tokenizer, question).text


def fill(template: str, problem: Problem) -> str:
    """Put a problem's solution and answer into `{solution}` and `{answer}`, each as it stands.

    >>> fill("<think>{solution}</think>{answer}", Problem("7+5=?", "12", "7+5=12"))
    '<think>7+5=12</think>12'

    Raises:
        ValueError: the template asks for a solution or an answer and the problem has none.
    """
    if "{solution}" in template and problem.solution is None:
        raise ValueError(
            f"the template {template!r} asks for a solution, but the problem {problem.question!r} "
            "has none; use a template with only {answer}, or a source with solutions"
        )
    given = {"{solution}": lambda: problem.solution or "", "{answer}": problem.answer_text}
    return re.sub(r"\{(?:solution|answer)\}", lambda found: given[found[0]](), template)


def on_off(name: str, value: object) -> str | None:
    """`on`, `off` or None; YAML reads the bare words on and off as truth values.

    Raises:
        ValueError: anything else.
    """
    modes = {None: None, True: "on", "True": "on", "on": "on"}
    modes |= {False: "off", "False": "off", "off": "off"}
    if not isinstance(value, str | bool | None) or value not in modes:
        raise ValueError(f"{name} is {value!r}; choose on or off, or leave it out")
    return modes[value]
