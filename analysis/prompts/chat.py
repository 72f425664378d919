"""How a question is put to a chat model: system prompt, suffix, template, thinking on or off."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from analysis.prompts.problems import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPEN_THINK = "<think>\n"  # with which some templates (R1-Distill's) begin every answer
NO_THINK = "<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class Prompting:
    """System prompt, text added after the question, and options of the chat template.

    `template_options` goes to `apply_chat_template`. `think` is `on` or `off`: by the template's
    own switch (`enable_thinking`, as Qwen3 has it) or, where it has none, off by an empty think
    block and on by nothing. None leaves the template to its default and `template_options`.
    `prefix` begins the answer.

    Raises:
        ValueError: `think` is neither on, off nor None.
    """

    system_prompt: str | None = None
    suffix: str = ""
    template_options: dict[str, Any] = field(default_factory=dict)
    think: str | None = None
    prefix: str = ""

    def __post_init__(self) -> None:
        if self.think not in (None, "on", "off"):
            raise ValueError(f"think is {self.think!r}; choose on, off, or leave it out")

    def messages(self, question: str) -> list[dict[str, str]]:
        """The conversation that asks a question."""
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return [*system, {"role": "user", "content": question + self.suffix}]

    def text(self, tokenizer: PreTrainedTokenizerBase, question: str) -> str:
        """The prompt as text, up to where the answer begins.

        Raises:
            ValueError: the tokenizer has no chat template.
        """
        if not tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template; use an instruct "
                "model, or put a chat_template.jinja beside its tokenizer"
            )
        switched = self.think is not None and "enable_thinking" in str(tokenizer.chat_template)
        options = {"enable_thinking": self.think == "on"} if switched else {}
        text = str(
            tokenizer.apply_chat_template(
                self.messages(question),
                tokenize=False,
                add_generation_prompt=True,
                **{**self.template_options, **options},
            )
        )
        if self.think == "off" and not switched:
            text = text.removesuffix(OPEN_THINK) + NO_THINK
        return text + self.prefix


def fill(template: str, problem: Problem) -> str:
    """Put a problem's solution and answer into `{solution}` and `{answer}`.

    >>> fill("<think>{solution}</think>{answer}", Problem("7+5=?", "12", "7+5=12"))
    '<think>7+5=12</think>12'

    Raises:
        ValueError: the template asks for a solution and the problem has none.
    """
    if "{solution}" in template and problem.solution is None:
        raise ValueError(
            f"the template {template!r} asks for a solution, but the problem {problem.question!r} "
            "has none; use a template with {answer} alone, or a source with solutions"
        )
    with_solution = template.replace("{solution}", problem.solution or "")
    return with_solution.replace("{answer}", problem.answer)


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
