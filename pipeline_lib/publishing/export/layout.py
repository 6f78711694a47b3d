"""A chat template as five strings, found by rendering and proven by rendering.

Ollama's templates are Go's, so a Jinja template has to be translated. Nearly all lay a chat out alike:
`head`, then for every message `opening`, its role, `middle`, its content, `closing`; a prompt ends with an
assistant's `opening`, role and `middle`. `find_layout` reads the five from a rendered chat and keeps them
only where they reproduce every chat of `CHATS`: markers, ChatML and Llama 3 do, templates with logic do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline_lib import chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chat = Sequence[chat.Message]


def _chat(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


CHATS: tuple[Chat, ...] = (
    _chat(("user", "What is the capital of France?")),
    _chat(("system", "Answer in one sentence."), ("user", "Why is the sky blue? It's noon, I'd say 12:34.")),
    _chat(
        ("user", "Say 'hi'."),
        ("assistant", "Hi! How can I help?"),
        ("user", "Count: 1, 22, 333, 4444, 55555."),
    ),
    _chat(("user", "Fix this:\n\n```python\ndef f(x):\n\treturn   x **2\n```\n\n\nThanks  in advance!")),
    _chat(
        ("system", "Be kind."),
        ("user", "Größe, naïve, 你好, здравствуй, 🙂👍🏽, e\u0301."),
        ("assistant", "好的。"),
        ("user", "…?"),
    ),
)
"""Prompts that between them hold a system message, former turns, code, runs of spaces and many scripts."""


@dataclass(frozen=True)
class Layout:
    """How a template lays a chat out, and the system message that it adds where a chat has none."""

    head: str
    opening: str
    middle: str
    closing: str
    default_system: str | None = None

    def turn(self, role: str, content: str) -> str:
        """Return one message as it stands in the text."""
        return f"{self.opening}{role}{self.middle}{content}{self.closing}"

    def prompt(self, messages: Chat) -> str:
        """Return a prompt that an assistant's answer continues."""
        turns = [(str(m["role"]), str(m["content"])) for m in messages]
        if self.default_system is not None and turns[0][0] != "system":
            turns.insert(0, ("system", self.default_system))
        text = "".join(self.turn(role, content) for role, content in turns)
        return f"{self.head}{text}{self.opening}assistant{self.middle}"


def find_layout(tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat] = CHATS) -> Layout | None:
    """Return the layout of the tokenizer's chat template, or None where none reproduces all ``chats``."""
    layout = _read(tokenizer)
    if layout is None or any(layout.prompt(c) != chat.render(tokenizer, c, prompt=True) for c in chats):
        return None
    return layout


def trims(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the template takes spaces off the ends of a message."""
    return "  edge  " not in chat.render(tokenizer, _chat(("user", "  edge  ")), prompt=True)


def _read(tokenizer: PreTrainedTokenizerBase) -> Layout | None:
    turns = _chat(
        ("system", "SYS0TEM"), ("user", "QUES1TION"), ("assistant", "ANS2WER"), ("user", "LAST3ONE")
    )
    closed = chat.render(tokenizer, turns)
    gaps = _between(closed, [turn["content"] for turn in turns])
    if gaps is None:
        return None
    before, user, assistant, again, closing = gaps
    left, found, middle = user.partition("user")
    if not found or user != again or assistant != f"{left}assistant{middle}" or not left.startswith(closing):
        return None
    opening = left.removeprefix(closing)
    first = f"{opening}system{middle}"
    if not before.endswith(first):
        return None
    layout = Layout(before.removesuffix(first), opening, middle, closing)
    return _with_default_system(tokenizer, layout)


def _between(text: str, contents: Sequence[str]) -> list[str] | None:
    gaps = []
    for content in contents:
        gap, found, text = text.partition(content)
        if not found:
            return None
        gaps.append(gap)
    return [*gaps, text]


def _with_default_system(tokenizer: PreTrainedTokenizerBase, layout: Layout) -> Layout:
    alone = chat.render(tokenizer, _chat(("user", "QUES1TION")), prompt=True)
    first = f"{layout.head}{layout.opening}system{layout.middle}"
    rest = f"{layout.closing}{layout.turn('user', 'QUES1TION')}{layout.opening}assistant{layout.middle}"
    if not (alone.startswith(first) and alone.endswith(rest)):
        return layout
    return Layout(layout.head, layout.opening, layout.middle, layout.closing, alone[len(first) : -len(rest)])
