"""Format: conversations in the form that training reads, chat messages or Alpaca prompts."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
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


class FormatConfig(StageConfig):
    """The form of the conversations that training reads."""

    style: Literal["chat", "alpaca"] = Field(
        default="chat", description="Chat messages as they are, or Alpaca's prompt in the user's message."
    )
    system: str | None = Field(default=None, description="System message for conversations that have none.")
    plain_text: Literal["drop", "keep"] = Field(
        default="drop",
        description="What becomes of plain texts, which a chat cannot hold; keep them for language "
        "modelling.",
    )


@stage(produces=Dataset, version=1)
def format(out: Output, config: FormatConfig, conversations: Dataset) -> None:
    """Every conversation in the configured form, plain texts kept or dropped with the reason."""
    from pipeline_lib.curation.blocks import sift

    for _ in sift(out, conversations, partial(_judged, config)):
        pass


def _judged(config: FormatConfig, block: pa.RecordBatch) -> Outcome:
    from pipeline_lib.curation.blocks import Outcome

    rows = block.to_pylist()
    verdicts = [_verdict(row, config) for row in rows]
    return Outcome(_formatted(rows, config), verdicts)


def _verdict(row: dict[str, Any], config: FormatConfig) -> tuple[str, str] | None:
    roles = [message["role"] for message in row["messages"] or ()]
    if "text" in roles:
        return (
            None if config.plain_text == "keep" else ("plain_text", "a plain text has no question and answer")
        )
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if config.style == "alpaca" and turns != (["user"] if row["chosen"] else ["user", "assistant"]):
        return "not_alpaca", f"Alpaca holds one question and one answer, not {' '.join(roles)}"
    return None


def _formatted(rows: list[dict[str, Any]], config: FormatConfig) -> pa.RecordBatch:
    from pipeline_lib import records

    for row in rows:
        if not row["messages"] or row["messages"][0]["role"] == "text":
            continue
        if config.system and row["messages"][0]["role"] != "system":
            row["messages"] = [records.message("system", config.system), *row["messages"]]
        if config.style == "alpaca":
            given = _input(row)
            row["messages"] = [_alpaca(m, given) if m["role"] == "user" else m for m in row["messages"]]
    return records.from_rows(rows)


def _alpaca(message: dict[str, Any], given: object) -> dict[str, Any]:
    """Return the user's message under Alpaca's prompt, its input apart where the row had one."""
    instruction, rest = (part.strip("\n") for part in split_input(str(message["content"] or ""), given))
    layout = ALPACA_WITH_INPUT if rest else ALPACA
    return {**message, "content": layout.format(instruction=instruction, input=rest)}


def _input(row: dict[str, Any]) -> object:
    """Return the input that an Alpaca row, or the context that a Dolly row was read with."""
    metadata = json.loads(row["metadata"] or "{}")
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
