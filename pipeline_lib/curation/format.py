"""Format: conversations in the form that training reads: chat messages, Alpaca's prompts, or any template.

A message that was put under a prompt is kept as it was in the metadata (``SAID``), so that ``export_data``
gives back what was read whatever the template made of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.curation.prompt_template import TemplateRefusedError, names_in, rendered
from pipeline_lib.kinds import Dataset

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_lib.curation.blocks import Outcome

# The two prompts of Stanford Alpaca (Taori et al. 2023, train.py PROMPT_DICT).
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)

SAID = "format.messages"
"""Metadata key of the messages as they were before they were put under a prompt."""


class FormatConfig(StageConfig):
    """The form of the conversations that training reads."""

    style: Literal["chat", "alpaca", "template"] = Field(
        default="chat",
        description="Chat messages as they are, Alpaca's prompt in the user's message, or a prompt made by "
        "`template` of all that stands before the answer.",
    )
    template: str | None = Field(
        default=None,
        description="Jinja for the prompt, with style template; it may name instruction, input, system, "
        "messages (those before the answer: role and content) and metadata.",
    )
    system: str | None = Field(default=None, description="System message for conversations that have none.")
    plain_text: Literal["drop", "keep"] = Field(
        default="drop",
        description="What becomes of plain texts, which a chat cannot hold; keep them for language "
        "modelling.",
    )

    @model_validator(mode="after")
    def _template_goes_with_its_style(self) -> FormatConfig:
        if (self.style == "template") != (self.template is not None):
            raise ValueError("template and style: template go together; give both or neither")
        if self.template is not None:
            names_in(self.template)
        return self


@stage(produces=Dataset, version=3)
def format(out: Output, config: FormatConfig, conversations: Dataset) -> None:
    """Every conversation in the configured form, plain texts kept or dropped with the reason."""
    from pipeline_lib.curation.blocks import sift

    for _ in sift(out, conversations, partial(_judged, config)):
        pass


def _judged(config: FormatConfig, block: pa.RecordBatch) -> Outcome:
    from pipeline_lib import records
    from pipeline_lib.curation.blocks import Outcome

    plain = _plain_texts(block)
    refused = ("plain_text", "a plain text has no question and answer")
    verdicts = [refused if text and config.plain_text == "drop" else None for text in plain]
    if config.style == "chat" and not config.system:
        return Outcome(block, verdicts)
    chats = [place for place, text in enumerate(plain) if not text]
    rows = records.select(block, [not text for text in plain]).to_pylist()
    for turn, (place, row) in enumerate(zip(chats, rows, strict=True)):
        verdicts[place] = _verdict(row, config)
        try:
            rows[turn] = _formatted(row, config) if row["messages"] and not verdicts[place] else row
        except TemplateRefusedError as error:
            verdicts[place] = ("template_refused", str(error))
    return Outcome(records.replaced(block, chats, records.from_rows(rows)), verdicts)


def _plain_texts(block: pa.RecordBatch) -> list[bool]:
    """Return for each conversation whether it has a message of role ``text``."""
    import pyarrow.compute as pc

    lists = block.column("messages")
    parents = pc.list_parent_indices(lists).filter(pc.equal(lists.flatten().field("role"), "text"))
    texts = set(parents.to_pylist())
    return [place in texts for place in range(block.num_rows)]


def _verdict(row: dict[str, Any], config: FormatConfig) -> tuple[str, str] | None:
    roles = [message["role"] for message in row["messages"] or ()]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    one_turn = turns == (["user"] if row["chosen"] else ["user", "assistant"])
    if config.style == "alpaca" and not one_turn:
        return "not_alpaca", f"Alpaca holds one question and one answer, not {' '.join(roles)}"
    if config.template is not None and not one_turn:
        if "messages" not in names_in(config.template):
            return "several_turns", f"the template names no messages, there are {' '.join(roles)}"
        if not row["chosen"] and roles[-1:] != ["assistant"]:
            return "no_answer", f"there is no answer at the end of {' '.join(roles)}"
    return None


def _formatted(row: dict[str, Any], config: FormatConfig) -> dict[str, Any]:
    """Return a conversation in the configured form; TemplateRefusedError where the template does not fit."""
    from pipeline_lib import records

    if config.system and row["messages"][0]["role"] != "system":
        row = {**row, "messages": [records.message("system", config.system), *row["messages"]]}
    if config.style == "chat":
        return row
    if config.template is None:
        given = input_in(json.loads(row["metadata"] or "{}"))
        made = [_alpaca(m, given) if m["role"] == "user" else m for m in row["messages"]]
    else:
        made = _templated(row, config.template)
    return {**row, "messages": made, "metadata": _with_what_was_said(row)}


def _templated(row: dict[str, Any], template: str) -> list[dict[str, Any]]:
    """Return one prompt made of all before the answer, and the answer, where the row has no pair of them."""
    from pipeline_lib import records

    before = row["messages"] if row["chosen"] else row["messages"][:-1]
    system = before[0] if before[0]["role"] == "system" else None
    asked = [str(message["content"] or "") for message in before if message["role"] == "user"]
    metadata = json.loads(row["metadata"] or "{}")
    instruction, given = split_input(asked[-1] if asked else "", input_in(metadata))
    fields = {
        "instruction": instruction,
        "input": given,
        "system": str(system["content"] or "") if system else "",
        "messages": [{**message, "content": message["content"] or ""} for message in before],
        "metadata": metadata,
    }
    # A system message that the template leaves out is not lost: it stays where it is.
    apart = [system] if system and not names_in(template) & {"system", "messages"} else []
    return [*apart, records.message("user", rendered(template, fields)), *row["messages"][len(before) :]]


def _with_what_was_said(row: dict[str, Any]) -> str:
    """Return the metadata with the messages as they are now, without the fields that they leave empty."""
    said = [{key: value for key, value in m.items() if value is not None} for m in row["messages"]]
    return json.dumps({**json.loads(row["metadata"] or "{}"), SAID: said}, ensure_ascii=False)


def _alpaca(message: dict[str, Any], given: object) -> dict[str, Any]:
    """Return the user's message under Alpaca's prompt, its input apart where the row had one."""
    instruction, rest = (part.strip("\n") for part in split_input(str(message["content"] or ""), given))
    layout = ALPACA_WITH_INPUT if rest else ALPACA
    return {**message, "content": layout.format(instruction=instruction, input=rest)}


def input_in(metadata: Mapping[str, Any]) -> object:
    """Return the input that an Alpaca row, or the context that a Dolly row was read with."""
    return metadata.get("input") or metadata.get("context")


def split_input(content: str, given: object) -> tuple[str, str]:
    """Return a user's message as instruction and input, where it ends with the input that was ``given``.

    Joined by a line end the two are the message; the input is empty where none stands below an instruction.
    """
    lines = content.split("\n")
    begin = _first_line_of(str(given) if isinstance(given, str | int | float) else "", lines)
    return "\n".join(lines[:begin]), "\n".join(lines[begin:])


def _first_line_of(given: str, lines: list[str]) -> int:
    """Return the line at which the input begins; the number of lines where there is none below another."""
    from pipeline_lib.curation.normalize import text_normalizer

    clean = text_normalizer(fix_encoding=True)
    # The messages were normalised and the metadata were not; a line's white space may differ after that.
    wanted, tail = "".join(clean(given).split()), ""
    for number in range(len(lines) - 1, 0, -1) if wanted else ():
        tail = "".join(clean(lines[number]).split()) + tail
        if len(tail) >= len(wanted):
            return number if tail == wanted else len(lines)
    return len(lines)
