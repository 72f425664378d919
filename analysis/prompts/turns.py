"""How an answer begins and ends: one notion for rollouts, rewards, evaluation, pairs and vLLM.

It begins where the prompt stops, and the prompt may hold its start: the `<think>` that a template
(R1-Distill's) opens every answer with, an empty think block, or a prefix. It ends at the first of
some tokens: the tokenizer's end of text, those of the model's generation config, and the one that
the chat template writes after an assistant's turn, which a base model's tokenizer need not name
(Qwen2.5-Math ends a turn with `<|im_end|>` and a text with `<|endoftext|>`). An answer that is cut
off while it thinks has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.prompts.template import render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINK, CLOSE, ANSWER = "<think>", "</think>", "<answer>"
NO_THINK = f"{THINK}\n\n{CLOSE}\n\n"  # the empty think block of Qwen3's templates

_AT_THE_END = re.compile(rf"(?:{THINK}\s*(?:{CLOSE}\s*)?|{ANSWER}\s*)\Z")
_MARKER = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")  # what an end looks like that is not special


@dataclass(frozen=True)
class Turn:
    """One answer. opened: what of it stands in the prompt; end: text of the token that ends it."""

    opened: str = ""
    end: str = ""

    @property
    def thinks(self) -> bool:
        """Whether the prompt leaves the answer in the midst of thinking.

        >>> [Turn(opened).thinks for opened in ("<think>\\n", NO_THINK, "")]
        [True, False, False]
        """
        return THINK in self.opened.rpartition(CLOSE)[2]

    def whole(self, completion: str) -> str:
        """The answer from its beginning to its end.

        >>> Turn("<think>\\n", "<|im_end|>").whole("2</think><answer>2</answer><|im_end|>")
        '<think>\\n2</think><answer>2</answer>'
        """
        return self.opened + completion.removesuffix(self.end)

    def judged(self, completion: str) -> str:
        """The part of the answer that its result is looked for in: a closed think block is over.

        >>> Turn(NO_THINK).judged("<think>2"), Turn("<think>\\n").judged("2")
        ('\\n\\n<think>2', '<think>\\n2')
        """
        return self.opened.rpartition(CLOSE)[2] + completion.removesuffix(self.end)

    def goes_on(self, start: str) -> str:
        """What has to follow the prompt for the answer to begin with a text.

        The tag that the prompt holds already is not repeated, and an `<answer>` closes thinking.

        >>> Turn("<think>\\n").goes_on("<think>7+5"), Turn("<think>\\n").goes_on("<answer>")
        ('7+5', '\\n</think>\\n\\n<answer>')
        """
        if not self.thinks:
            return start
        if start.lstrip().startswith(THINK):
            return start.lstrip().removeprefix(THINK).removeprefix("\n")
        return self.closing + start if start.lstrip().startswith(ANSWER) else start

    @property
    def closing(self) -> str:
        """What ends the thinking that the prompt has opened, as an empty think block."""
        if not self.thinks:
            return NO_THINK
        opened = self.opened[self.opened.rfind(THINK) :]
        rest = NO_THINK.removeprefix(opened)
        return rest if rest != NO_THINK else f"\n{CLOSE}\n\n"


def opened_by(prompt: str, generation: str) -> str:
    """What of the answer a rendered prompt holds; generation: what its template writes last.

    >>> opened_by("<user>7+5=?<assistant><think>\\n", "<assistant><think>\\n")
    '<think>\\n'
    """
    if generation and prompt.endswith(generation):
        starts = [at for tag in (THINK, ANSWER) if (at := generation.find(tag)) >= 0]
        if starts:
            return generation[min(starts) :]
    found = _AT_THE_END.search(prompt)
    return found.group() if found else ""


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template writes after an answer; None if there is none.

    Some templates leave the last turn open, so an answer before another question is looked at too.
    """
    if not tokenizer.chat_template:
        return None
    question, answer = (
        {"role": "user", "content": "QUESTION"},
        {"role": "assistant", "content": "ANSWER"},
    )
    for turns in ([question, answer], [question, answer, question]):
        try:
            text = render(tokenizer, turns)
        except ValueError:  # what can't be written is said where a question is asked
            return None
        before, _, rest = text.partition("QUESTION")
        after = rest.rpartition("ANSWER")[2].partition("QUESTION")[0]
        if not before.endswith(after):  # else it only begins the next question
            token = _first_marker(tokenizer, after.lstrip())
            if token is not None:
                return token
    return None


def _first_marker(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """The added token, the longest, that a text begins with, if it can be an end."""
    found = [
        (len(token.content), index)
        for index, token in tokenizer.added_tokens_decoder.items()
        if text.startswith(token.content) and (token.special or _MARKER.fullmatch(token.content))
    ]
    return max(found)[1] if found else None


def ends_of(tokenizer: PreTrainedTokenizerBase, own: int | Iterable[int] | None) -> list[int]:
    """The tokens that end an answer; own: those of the model's generation config."""
    listed = [own] if isinstance(own, int) else list(own or [])
    ends = {*listed, tokenizer.eos_token_id, end_of_turn(tokenizer)}
    return sorted(token for token in ends if token is not None)
