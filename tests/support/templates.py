"""Chat templates of the kinds that models come with, on the tiny model's tokenizer."""

from __future__ import annotations

from typing import Any

from train.recipes.tiny import build_tokenizer

_TURNS = """\
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}\
{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
_LLAMA32 = """\
{%- if not date_string is defined %}{%- if strftime_now is defined %}\
{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}\
{%- endif %}{%- endif %}{{- 'Today Date: ' + date_string + '\\n' }}"""

TEMPLATES = {
    "chatml": _TURNS,
    # opens every answer, as R1's; writes answers as they are
    "opens_think": _TURNS + "{%- if add_generation_prompt %}{{- '<think>\\n' }}{%- endif %}",
    # R1-Distill's: of an answer only what follows its thinking
    "drops_thinking": _TURNS.replace("m.content +", "m.content.split('</think>')[-1] +")
    + "{%- if add_generation_prompt %}{{- '<think>\\n' }}{%- endif %}",
    # Qwen3's: thinking is written anew, with other white space
    "respaces": _TURNS.replace(
        "m.content +",
        "('<think>\\n' + m.content.split('</think>')[0].split('<think>')[-1].strip() "
        "+ '\\n</think>\\n\\n' + m.content.split('</think>')[-1] if '</think>' in m.content "
        "else m.content) +",
    ),
    # Gemma's
    "no_system": "{%- if messages[0].role == 'system' %}"
    "{{- raise_exception('System role not supported') }}{%- endif %}" + _TURNS,
    "drops_system": _TURNS.replace("in messages", "in messages if m.role != 'system'"),
    "dated": _LLAMA32 + _TURNS,
    "random": "{{- range(1000) | random }}" + _TURNS,
    "loops": "{%- for i in range(99999) %}{%- for j in range(99999) %}{%- for k in range(9999) %}"
    "{%- endfor %}{%- endfor %}{%- endfor %}" + _TURNS,
    "computes": "{%- set x = (messages | length + 9) ** (10 ** 10) %}" + _TURNS,
    "broken": "{{- messages[0].content.nothing.at_all }}" + _TURNS,
    "no_end": "{%- for m in messages %}{{- m.role + ': ' + m.content + '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'assistant:' }}{%- endif %}",
    # the last turn is left open
    "open_end": "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content }}"
    "{%- if not loop.last %}{{- '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_end|>\\n<|im_start|>assistant\\n' }}{%- endif %}",
    # every turn begins with a token, and none ends with one
    "headers": "{%- for m in messages %}{{- '<|im_start|>' + m.content }}{%- endfor %}",
}


def tokenizer_with(template: str) -> Any:
    """A base model's: its own end, `<|endoftext|>`, is not the one of the template's turns."""
    tokenizer = build_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.chat_template = TEMPLATES[template]
    return tokenizer
