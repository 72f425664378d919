"""A chat template is checked: it ends, is a function of its input, and holds what it was given."""

from __future__ import annotations

import random
from datetime import datetime

import pytest

from analysis.prompts import template as module
from analysis.prompts.chat import Prompting
from analysis.prompts.template import render, stopped_clock
from tests.support.templates import tokenizer_with

ASKED = [{"role": "user", "content": "7+5=?"}]


@pytest.mark.parametrize(
    ("template", "system", "message"),
    [
        ("no_system", "Be brief.", "of system, user: System role not supported; if it takes no"),
        ("drops_system", "Be brief.", "leaves out .* what the system says, 'Be brief.'"),
        ("broken", None, "can't write a conversation of user: .*has no attribute 'nothing'; put"),
        ("random", None, "draws random numbers"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(template, system, message):
    state = random.getstate()
    with pytest.raises(ValueError, match=message) as caught:
        Prompting(system).text(tokenizer_with(template), "7+5=?")
    assert "\n" not in str(caught.value)
    assert random.getstate() == state


@pytest.mark.parametrize("template", ["loops", "computes"])
def test_a_template_that_loops_is_stopped(template, monkeypatch):
    """Also where one operation takes for ever, which no signal reaches."""
    monkeypatch.setattr(module, "TIME_LIMIT", 0.2)
    with pytest.raises(ValueError, match="does not finish a conversation within 0 s, so it loops"):
        Prompting().text(tokenizer_with(template), "7+5=?")


def test_a_later_conversation_that_loops_is_stopped(monkeypatch):
    """A template that loops on some input only, after it was tried."""
    tokenizer = tokenizer_with("chatml")
    tokenizer.chat_template = (
        "{%- if messages | length > 1 %}" + tokenizer_with("loops").chat_template + "{%- endif %}x"
    )
    assert render(tokenizer, ASKED) == "x"
    monkeypatch.setattr(module, "TIME_LIMIT", 0.1)
    with pytest.raises(ValueError, match="it loops"):
        render(tokenizer, ASKED * 2)


def test_the_day_does_not_change(monkeypatch):
    tokenizer = tokenizer_with("dated")
    assert Prompting().text(tokenizer, "7+5=?").startswith("Today Date: 26 Jul 2024\n")
    another = Prompting(day="2026-11-25")
    assert another.text(tokenizer, "7+5=?").startswith("Today Date: 25 Nov 2026\n")
    assert Prompting(**another.to_json()) == another
    assert "day" not in Prompting().to_json()

    def theirs() -> str:  # as TRL renders
        return str(tokenizer.apply_chat_template(ASKED, tokenize=False))

    today = datetime.now().strftime("%d %b %Y")
    assert today in theirs()
    with stopped_clock("2025-01-02"):
        assert "02 Jan 2025" in theirs()
    assert today in theirs()


def test_messages_get_the_system_prompt_and_the_suffix():
    talk = [
        {"role": "system", "content": "old"},
        {"role": "user", "content": "7+5=?"},
        {"role": "assistant", "content": "12"},
    ]
    assert Prompting().conversation(talk) == talk
    assert Prompting("new", " Answer.").conversation(talk) == [
        {"role": "system", "content": "new"},
        {"role": "user", "content": "7+5=? Answer."},
        talk[2],
    ]
    assert talk[0]["content"] == "old"
