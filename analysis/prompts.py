"""How a question is put to a chat model, and prompt pairs built from questions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.pairs import Pair, Pairs, encode
from analysis.tasks import Problem


@dataclass(frozen=True)
class Prompting:
    """System prompt, text added after the question, and options of the chat template.

    `template_options` goes to `apply_chat_template`, for example `{"enable_thinking": False}`.
    """

    system_prompt: str | None = None
    suffix: str = ""
    template_options: dict[str, Any] = field(default_factory=dict)

    def messages(self, question: str) -> list[dict[str, str]]:
        """The conversation that asks a question."""
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return [*system, {"role": "user", "content": question + self.suffix}]

    def text(self, tokenizer: Any, question: str) -> str:
        """The prompt as text, up to where the answer begins.

        Raises:
            ValueError: the tokenizer has no chat template.
        """
        if not tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template; use an instruct "
                "model, or put a chat_template.jinja beside its tokenizer"
            )
        return tokenizer.apply_chat_template(
            self.messages(question),
            tokenize=False,
            add_generation_prompt=True,
            **self.template_options,
        )


def fill(template: str, problem: Problem) -> str:
    """Put a problem's solution and answer into `{solution}` and `{answer}`.

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


def counterfactual_pairs(
    tokenizer: Any,
    problems: Sequence[Problem],
    prompting: Prompting,
    size: int,
    prefix: str,
    cut_solution_after: str | None = None,
) -> Pairs:
    """Pairs of problems with the same skeleton and token length but another next token.

    The skeleton is the question with its digits masked. Each prompt is the question followed by
    `prefix` and, with `cut_solution_after`, by the solution up to and including the first such
    mark. Target and foil are the next tokens that the two problems call for: of the rest of the
    solution, or of the answer. Each problem is used in one pair at most.

    Raises:
        ValueError: the problems hold fewer than `size` such pairs.
    """
    waiting: dict[tuple[str, int], list[tuple[tuple[int, ...], int]]] = defaultdict(list)
    pairs: list[Pair] = []
    for problem in problems:
        if len(pairs) >= size:
            break
        start, rest = prefix, problem.answer
        if cut_solution_after is not None:
            head, mark, rest = fill("{solution}", problem).partition(cut_solution_after)
            if not mark:
                continue
            start = prefix + head + mark
        text = prompting.text(tokenizer, problem.question) + start
        ids = encode(tokenizer, text)
        full = encode(tokenizer, text + rest)
        if full[: len(ids)] != ids or len(full) == len(ids):
            continue  # the answer's first token merges with the prompt's last
        group = waiting[re.sub(r"\d", "#", problem.question), len(ids)]
        target = full[len(ids)]
        partner = next((p for p in group if p[1] != target and p[0] != ids), None)
        if partner is None:
            group.append((ids, target))
        else:
            group.remove(partner)
            pairs.append(Pair(partner[0], ids, target_id=partner[1], foil_id=target))
    if len(pairs) < size:
        raise ValueError(
            f"{len(problems)} problems gave only {len(pairs)} counterfactual pairs of {size} asked "
            "for (same skeleton and token length, different next token); lower pairs.size, use a "
            "generator (pairs.source=...), or take pairs=answer_style or pairs=file"
        )
    return Pairs(pairs)


def answer_style_pairs(
    tokenizer: Any,
    problems: Sequence[Problem],
    prompting: Prompting,
    clean_start: str,
    corrupted_start: str,
    prefix_tokens: int,
) -> Pairs:
    """Pairs of the same question with a reasoning-style against a base-style start of the answer.

    The starts (texts that may hold `{solution}` and `{answer}`) are cut to `prefix_tokens` tokens
    and to equal length (arXiv 2509.25758; the length is not stated there).
    """
    pairs = []
    for problem in problems:
        prompt = encode(tokenizer, prompting.text(tokenizer, problem.question))
        clean, corrupted = (
            encode(tokenizer, fill(start, problem)) for start in (clean_start, corrupted_start)
        )
        length = min(prefix_tokens, len(clean), len(corrupted))
        if length == 0 or clean[:length] == corrupted[:length]:
            raise ValueError(
                f"the clean start {clean_start!r} and the corrupted start {corrupted_start!r} do "
                f"not differ within {prefix_tokens} tokens; set pairs.clean_start and "
                "pairs.corrupted_start to two styles of answer"
            )
        pairs.append(Pair(prompt + clean[:length], prompt + corrupted[:length]))
    return Pairs(pairs)
