"""What a chat template makes of a conversation: checked, since a template is a program of others.

It is rendered by transformers' own `apply_chat_template`, and four things are seen to:

    It ends. The first conversation of each template is tried in a child process, which can be
    killed whatever it does; every other one has an alarm, on the main thread.
    What it refuses (a system role, an unknown variable) is one line.
    It is a function of its input. `strftime_now` gives a day that does not change: else a run that
    is resumed tomorrow has other pairs, and two evaluations ask two prompts. One that draws random
    numbers is refused.
    It holds what it was given: `check_held`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]

DAY = "2024-07-26"  # what Llama 3's templates print where they have no clock
TIME_LIMIT = 5.0  # seconds for one conversation; a real template takes less than a thousandth

_tried: set[str] = set()  # templates that have ended once in this process


class _TooLong(BaseException):
    """Not an Exception, so that nothing between the alarm and its handler takes it for one."""


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    generate: bool = False,
    options: Mapping[str, Any] | None = None,
    day: str = DAY,
) -> str:
    """A conversation as the tokenizer's chat template writes it.

    generate: up to where the next answer begins. options: of the template (`enable_thinking`).
    day: the date, YYYY-MM-DD, that the template is given.

    Raises:
        ValueError: there is no template, it can't write this conversation, does not end within
            TIME_LIMIT, or draws random numbers.
    """
    name = tokenizer.name_or_path or "this tokenizer"
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {name} has no chat template; use an instruct model, or put a "
            "chat_template.jinja beside its tokenizer"
        )
    write = partial(
        tokenizer.apply_chat_template,
        [dict(message) for message in messages],
        tokenize=False,
        add_generation_prompt=generate,
        **dict(options or {}),
    )
    state = random.getstate()
    try:
        with stopped_clock(day):
            return str(_within_limit(write, str(tokenizer.chat_template)))
    except _TooLong:
        raise ValueError(
            f"the chat template of {name} does not finish a conversation within {TIME_LIMIT:.0f} "
            "s, so it loops; put another chat_template.jinja beside the tokenizer"
        ) from None
    except Exception as error:  # a template is a program of others, and may raise anything
        raise ValueError(_refusal(name, messages, error)) from error
    finally:
        drawn = random.getstate() != state
        random.setstate(state)
        if drawn:
            raise ValueError(
                f"the chat template of {name} draws random numbers, so that no prompt is asked "
                "twice; put another chat_template.jinja beside the tokenizer"
            )


def holds(text: str, part: str) -> bool:
    """Whether a rendered text still has a part of its input, perhaps with other white space.

    A template may write its input as JSON.

    >>> holds("<user> 7 + 5 <assistant>", "7 + 5\\n"), holds("<user> <assistant>", "7 + 5")
    (True, False)
    """
    there = "".join(text.split())
    forms = (part, json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1])
    return any("".join(form.split()) in there for form in forms)


def check_held(tokenizer: PreTrainedTokenizerBase, text: str, message: Message) -> None:
    """Raise ValueError if the rendered text of a conversation lacks one of its messages."""
    content = message.get("content")
    if isinstance(content, str) and not holds(text, content):
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path} leaves out (a part of) what the "
            f"{message.get('role')} says, {content[:80]!r}; put another chat_template.jinja beside "
            "the tokenizer"
        )


def generation_prompt(
    tokenizer: PreTrainedTokenizerBase,
    options: Mapping[str, Any] | None = None,
    day: str = DAY,
) -> str:
    """What the template writes before an answer; empty if that can't be told."""
    asked = [{"role": "user", "content": "?"}]
    plain, complete = (
        render(tokenizer, asked, generate, options, day) for generate in (False, True)
    )
    return complete.removeprefix(plain) if complete.startswith(plain) else ""


@contextmanager
def stopped_clock(day: str) -> Iterator[None]:
    """Inside, `strftime_now` of chat templates gives midnight of a day, YYYY-MM-DD.

    In all of this process, so that the rendering of TRL is reached as well.
    """
    library: Any = import_module("transformers.utils.chat_template_utils")
    real = library.datetime
    library.datetime = _Stopped(datetime.fromisoformat(day))
    try:
        yield
    finally:
        library.datetime = real


class _Stopped:
    """Stands for the class datetime where only its `now` is used."""

    def __init__(self, moment: datetime) -> None:
        self._moment = moment

    def now(self) -> datetime:
        return self._moment


def _refusal(name: str, messages: Sequence[Message], error: Exception) -> str:
    roles = [str(message.get("role")) for message in messages]
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    mend = "put another chat_template.jinja beside the tokenizer"
    if "system" in roles:
        mend = f"if it takes no system prompt, leave that out (system_prompt=null); else {mend}"
    shown = ", ".join(roles[:4]) + (", ..." if len(roles) > 4 else "")
    return f"the chat template of {name} can't write a conversation of {shown}: {reason}; {mend}"


def _within_limit(write: Callable[[], Any], template: str) -> Any:
    if template not in _tried and not _ends_in_a_child(write):
        raise _TooLong
    _tried.add(template)
    with _alarm():
        return write()


def _ends_in_a_child(work: Callable[[], Any]) -> bool:
    """Whether some work comes to an end, with or without an error, before the time limit.

    An alarm can't stop one operation that takes for ever, such as 10**10**10; a process can be.
    """
    if not hasattr(os, "fork"):
        return True
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    deadline, pause = time.monotonic() + TIME_LIMIT, 0.001
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@contextmanager
def _alarm() -> Iterator[None]:
    """Inside, _TooLong comes after the time limit; other threads can have no alarm."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
