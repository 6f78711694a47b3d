"""Named chat templates for a base model that comes without one: one skeleton in Jinja, a form for each name.

Every form keeps what was said before as it was said, reasoning included, so the prompt of any turn is the
exact prefix of the conversation that holds its answer. Tools stand with the system message; calls and
reasoning are written alike in every form, since no two families agree on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

TemplateName = Literal[
    "markers", "chatml", "llama3", "mistral", "qwen", "gemma", "phi", "alpaca", "vicuna", "plain"
]
NAMES: tuple[TemplateName, ...] = get_args(TemplateName)
MARKER_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>\\n' -}}"
    "{{- message['content'] + eos_token + '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}"
)
"""The smallest: ``<|role|>``, a line end, the content, the end token; it knows no tools."""


@dataclass(frozen=True)
class Form:
    """What stands around the messages of a conversation."""

    user: tuple[str, str]
    """Before and after what the user said."""
    assistant: str
    """Before an answer: what a prompt ends with."""
    after: str = ""
    """The layout between an answer's end token and the next turn."""
    system: tuple[str, str] | None = None
    """Before and after the system message; None puts it before what the user said first."""
    tool: tuple[str, str] | None = None
    """Before and after the result of a tool; None takes the user's."""
    end: str | None = None
    """The end token of the family; the tokenizer's own where it has no such token."""
    begins: bool = False
    """Whether the begin token opens the conversation."""
    default: str = ""
    """The system message of a conversation that has none."""
    trimmed: bool = False
    """Whether white space around a message is left out."""


CHATML = Form(
    user=("<|im_start|>user\n", "<|im_end|>\n"),
    assistant="<|im_start|>assistant\n",
    after="\n",
    system=("<|im_start|>system\n", "<|im_end|>\n"),
    tool=("<|im_start|>tool\n", "<|im_end|>\n"),
    end="<|im_end|>",
)
FORMS: dict[str, Form] = {
    "chatml": CHATML,
    "llama3": Form(
        user=("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        assistant="<|start_header_id|>assistant<|end_header_id|>\n\n",
        system=("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        tool=("<|start_header_id|>ipython<|end_header_id|>\n\n", "<|eot_id|>"),
        end="<|eot_id|>",
        begins=True,
        trimmed=True,
    ),
    "mistral": Form(
        user=("[INST] ", " [/INST]"),
        assistant="",
        tool=("[TOOL_RESULTS] ", "[/TOOL_RESULTS]"),
        begins=True,
    ),
    "qwen": Form(
        user=CHATML.user,
        assistant=CHATML.assistant,
        after="\n",
        system=CHATML.system,
        tool=("<|im_start|>user\n<tool_response>\n", "\n</tool_response><|im_end|>\n"),
        end="<|im_end|>",
    ),
    "gemma": Form(
        user=("<start_of_turn>user\n", "<end_of_turn>\n"),
        assistant="<start_of_turn>model\n",
        after="\n",
        end="<end_of_turn>",
        begins=True,
        trimmed=True,
    ),
    "phi": Form(
        user=("<|user|>\n", "<|end|>\n"),
        assistant="<|assistant|>\n",
        after="\n",
        system=("<|system|>\n", "<|end|>\n"),
        tool=("<|tool|>\n", "<|end|>\n"),
        end="<|end|>",
    ),
    "alpaca": Form(
        user=("### Instruction:\n", "\n\n"),
        assistant="### Response:\n",
        after="\n\n",
        system=("", "\n\n"),
        tool=("### Result:\n", "\n\n"),
        begins=True,
        default="Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.",
    ),
    "vicuna": Form(
        user=("USER: ", " "),
        assistant="ASSISTANT: ",
        system=("", " "),
        tool=("TOOL: ", " "),
        begins=True,
        default="A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions.",
    ),
    "plain": Form(
        user=("User: ", "\n\n"),
        assistant="Assistant: ",
        after="\n\n",
        system=("", "\n\n"),
        tool=("Tool: ", "\n\n"),
    ),
}

SKELETON = """
{%- set told = namespace(system=DEFAULT, first=true) -%}
{%- if messages and messages[0].role == 'system' -%}
  {%- set told.system = messages[0].content TRIM -%}{%- endif -%}
{%- if tools -%}
  {%- set listed = ('\\n\\n' if told.system else '') + TOOLS + (tools | tojson) -%}
  {%- set told.system = told.system + listed -%}{%- endif -%}
{%- macro said(m) -%}
  {%- if m.reasoning_content -%}{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' -}}{%- endif -%}
  {{- m.content TRIM -}}
  {%- for call in m.tool_calls or [] -%}
    {%- set body = {'name': call.function.name, 'arguments': call.function.arguments} -%}
    {{- '<tool_call>' + (body | tojson) + '</tool_call>' -}}
  {%- endfor -%}
{%- endmacro -%}
BEGIN
{%- if told.system and not MERGES -%}
  {{- SYSTEM_BEFORE + told.system + SYSTEM_AFTER -}}{%- endif -%}
{%- for m in messages -%}
  {%- if m.role == 'assistant' -%}
    {{- ANSWER + said(m) + END + AFTER -}}
  {%- elif m.role == 'tool' -%}
    {{- TOOL_BEFORE + m.content + TOOL_AFTER -}}
  {%- elif m.role == 'user' -%}
    {{- USER_BEFORE + (told.system + '\\n\\n' if MERGES and told.first and told.system else '') -}}
    {{- (m.content TRIM) + USER_AFTER -}}
    {%- set told.first = false -%}
  {%- elif not loop.first or m.role != 'system' -%}
    {{- raise_exception('a message of the role ' + m.role + ' has no place after the first') -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ANSWER -}}{%- endif -%}
"""
TOOLS = "Tools that may be called, each as <tool_call>{name, arguments}</tool_call>: "


def template(name: str, tokens: set[str]) -> str:
    """Return the named template in Jinja for a tokenizer that has these special tokens.

    A turn ends with the family's end token, or with the tokenizer's own where that is not among ``tokens``:
    spelled in ordinary tokens it would be no token to stop at.
    """
    if name == "markers":
        return MARKER_TEMPLATE
    form = FORMS[name]
    own = form.end is not None and form.end in tokens
    system, tool = form.system or ("", ""), form.tool or form.user
    values = {
        "DEFAULT": repr(form.default),
        "TOOLS": repr(TOOLS),
        "TRIM": "| trim" if form.trimmed else "",
        "MERGES": str(form.system is None).lower(),
        "BEGIN": "{{- bos_token -}}" if form.begins else "",
        "SYSTEM_BEFORE": repr(system[0]),
        "SYSTEM_AFTER": _spelt(system[1], form, own),
        "TOOL_BEFORE": repr(tool[0]),
        "TOOL_AFTER": _spelt(tool[1], form, own),
        "USER_BEFORE": repr(form.user[0]),
        "USER_AFTER": _spelt(form.user[1], form, own),
        "ANSWER": repr(form.assistant),
        "AFTER": repr(form.after),
        "END": repr(form.end) if own else "eos_token",
    }
    text = "".join(line.strip() for line in SKELETON.splitlines())
    return _filled(text, values)


def _spelt(text: str, form: Form, own: bool) -> str:
    """Return a literal in which the family's end token is the tokenizer's own where it must be."""
    if own or not form.end or form.end not in text:
        return repr(text)
    before, after = text.split(form.end)
    return f"({before!r} + eos_token + {after!r})"


def _filled(text: str, values: dict[str, str]) -> str:
    import re

    return re.sub(r"\b[A-Z][A-Z_]+\b", lambda found: values[found.group()], text)
