"""From a conversation to token ids and a loss mask: the one home of rendering.

Training, generation, scoring and serving all come here, so a prompt is the same tokens everywhere. A
conversation is rendered by the tokenizer's chat template into one text, cut where an assistant's turn
begins and ends; each piece is tokenized by itself. What is generated from is therefore, by construction,
the exact prefix of what was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline_lib.chat_templates import MARKER_TEMPLATE, NAMES, TemplateName
from pipeline_lib.chat_templates import template as named
from pipeline_lib.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]
__all__ = [
    "MARKER_TEMPLATE",
    "Encoded",
    "Piece",
    "PromptDiffersError",
    "TemplateName",
    "encode",
    "end_tokens",
    "pieces",
    "prompt_ids",
    "render",
    "set_template",
    "stop_ids",
]


class PromptDiffersError(DataError):
    """The template renders a turn that is learnt after another text than it would be generated from."""


@dataclass(frozen=True)
class Piece:
    """A stretch of rendered text that is learnt as a whole or not at all."""

    text: str
    learn: bool


@dataclass(frozen=True)
class Encoded:
    """Token ids of a conversation and which of them are learnt (same length)."""

    ids: list[int]
    mask: list[bool]


def set_template(tokenizer: PreTrainedTokenizerBase, template: str | None) -> None:
    """Give ``tokenizer`` the named template, or keep its own; ConfigError where it then has none."""
    if template is not None:
        tokenizer.chat_template = named(template, set(tokenizer.get_added_vocab()))
    if not tokenizer.chat_template:
        raise ConfigError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; name one: --set "
            f"tokenize.template=chatml (of {', '.join(NAMES)})"
        )


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    prompt: bool = False,
    tools: Any = None,
) -> str:
    """Return the text of ``messages`` under the tokenizer's template; ``prompt`` opens an answer."""
    from jinja2.exceptions import TemplateError

    plain = [_as_template_reads(message) for message in messages]
    try:
        text = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=prompt, tools=tools)
    except (TemplateError, TypeError) as error:
        raise DataError(
            f"the chat template refuses the conversation: {' '.join(str(error).split())[:200]}"
        ) from error
    return str(text)


def _as_template_reads(message: Message) -> dict[str, Any]:
    """Return a message as chat templates expect it: calls as a list, reasoning under its usual name."""
    plain = {key: value for key, value in message.items() if value is not None}
    plain["content"] = plain.get("content", "")
    if isinstance(calls := plain.get("tool_calls"), str):
        plain["tool_calls"] = json.loads(calls)
    if "reasoning" in plain:
        plain["reasoning_content"] = plain.pop("reasoning")
    return plain


def pieces(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    tools: Any = None,
    last_only: bool = False,
) -> list[Piece]:
    """Return the rendered conversation cut at the assistant's turns, which are learnt with their end token.

    ``last_only`` learns the last of them alone; the former ones are cut where the template renders them as
    it did when they were answers. Raises PromptDiffersError where it does not render a turn that is learnt
    as an extension of its own prompt: a model trained on such text is asked something else when it is served.
    """
    turns = _answers(messages)
    return _cut(
        tokenizer,
        messages,
        render(tokenizer, messages, tools=tools),
        turns[-1:] if last_only else turns,
        tools,
    )


def _answers(messages: Sequence[Message]) -> list[int]:
    return [i for i, message in enumerate(messages) if message["role"] == "assistant"]


def _cut(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    whole: str,
    learnt: Sequence[int],
    tools: Any,
) -> list[Piece]:
    cut: list[Piece] = []
    done = 0
    for i in _answers(messages):
        begin, stop = _turn(tokenizer, messages, i, whole, tools)
        if begin < done and i in learnt:
            raise PromptDiffersError(
                "the chat template renders another prompt for training than for generation"
            )
        if begin >= done:
            cut += [Piece(whole[done:begin], learn=False), Piece(whole[begin:stop], learn=i in learnt)]
            done = stop
    return [piece for piece in cut if piece.text]


def _turn(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], i: int, whole: str, tools: Any
) -> tuple[int, int]:
    """Return where answer i begins and ends in ``whole``; (-1, -1) where it is rendered otherwise."""
    before = render(tokenizer, messages[:i], prompt=True, tools=tools)
    after = render(tokenizer, messages[: i + 1], tools=tools)
    if not (whole.startswith(before) and whole.startswith(after)):
        return -1, -1
    return len(before), _end_of_turn(tokenizer, after, len(before))


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, text: str, start: int) -> int:
    """Return where the learnt text ends: after the turn's end token, not after the layout behind it."""
    ends = [
        text.rfind(token, start) + len(token)
        for token in end_tokens(tokenizer)
        if text.rfind(token, start) >= 0
    ]
    return max(ends, default=len(text))


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the special tokens that may end a turn: the tokenizer's end token and the template's."""
    known = [
        token
        for token in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
        if token in tokenizer.get_added_vocab()
    ]
    return [*([tokenizer.eos_token] if tokenizer.eos_token else []), *known]


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of the tokens at which generation stops."""
    ids = tokenizer.convert_tokens_to_ids(end_tokens(tokenizer))
    return sorted({ids} if isinstance(ids, int) else set(ids))


def encode(tokenizer: PreTrainedTokenizerBase, cut: Sequence[Sequence[Piece]]) -> list[Encoded]:
    """Return the token ids and loss masks of many conversations, tokenized in one call."""
    texts = [piece.text for conversation in cut for piece in conversation]
    if not texts:
        return [Encoded([], []) for _ in cut]
    all_ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    encoded = []
    for conversation in cut:
        ids: list[int] = []
        mask: list[bool] = []
        for piece in conversation:
            part = next(all_ids)
            ids += part
            mask += [piece.learn] * len(part)
        encoded.append(Encoded(ids, mask))
    return encoded


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[Message]], *, tools: Any = None
) -> list[list[int]]:
    """Return the tokens to generate from: cut at the former assistant's turns as in training.

    ``tools`` are what all the prompts may call.
    """
    cut = []
    for messages in prompts:
        text = render(tokenizer, messages, prompt=True, tools=tools)
        former = _cut(tokenizer, messages, text, (), tools)
        rest = text[sum(len(piece.text) for piece in former) :]
        cut.append([*former, Piece(rest, learn=False)])
    return [encoded.ids for encoded in encode(tokenizer, cut)]
