"""Normalize: one form of text and of turns, so that later stages compare like with like."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Dataset

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from pipeline_lib.curation.blocks import Outcome

# Zero-width and bidirectional controls, soft hyphen, byte-order mark; the joiners U+200C/D have a meaning.
INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
TRAILING = re.compile(r"[ \t]+(?=\n|$)")
BLANK_LINES = re.compile(r"\n{4,}")
INDENTED_LINE = re.compile(r"\n[ \t]+\S")
SUSPECT = r"[^\x20-\x7e\n]|\n{4}| \n|\A[ \n]|[ \n]\z"
"""What a text has that is not in its one form yet, and some of those that are (RE2)."""

MOST_PASSES = 8


class NormalizeConfig(StageConfig):
    """How texts and turns are brought into one form."""

    fix_encoding: bool = Field(
        default=True, description="Repair mojibake (text decoded with the wrong encoding), by ftfy."
    )
    repeated_roles: Literal["merge", "drop"] = Field(
        default="merge",
        description="Two messages of one role in a row: joined by a blank line, or the conversation dropped.",
    )
    trailing_prompt: Literal["trim", "drop"] = Field(
        default="trim",
        description="A last message that nobody answers: taken off, or the conversation dropped.",
    )
    language: bool = Field(
        default=False,
        description="Write the language of each conversation (ISO 639-1, by py3langid, offline) into its "
        "metadata, for split.stratify and the like; nothing where too few letters tell it.",
    )


@stage(produces=Dataset, version=1)
def normalize(out: Output, config: NormalizeConfig, conversations: Dataset) -> None:
    """Every text in one Unicode form without invisible characters, every conversation in regular turns."""
    from pipeline_lib.curation.blocks import sift

    changed: Counter[str] = Counter(texts_changed=0, turns_changed=0)
    for counts in sift(out, conversations, partial(_normalized, config)):
        changed.update(counts)
    out.stats.update(changed)


def _normalized(config: NormalizeConfig, block: pa.RecordBatch) -> Outcome:
    from pipeline_lib import records
    from pipeline_lib.curation.blocks import Outcome

    texts, changed = records.map_contents(block, text_normalizer(fix_encoding=config.fix_encoding), SUSPECT)
    batch, verdicts, turned = regular_turns(texts, config)
    if config.language:
        batch = _with_languages(batch)
    return Outcome(batch, verdicts, {"texts_changed": changed, "turns_changed": turned})


def _with_languages(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch with `language` in the metadata of what has one."""
    from pipeline_lib import records
    from pipeline_lib.curation.languages import language_of

    found = [language_of(text) for text in records.text_of(batch, columns=("messages", "chosen"))]
    return records.noted(batch, [{"language": language} if language else {} for language in found])


def text_normalizer(*, fix_encoding: bool) -> Callable[[str], str]:
    """Return a function that gives a text its one form; applying it twice changes nothing more."""
    import ftfy

    settings = ftfy.TextFixerConfig(
        unescape_html=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        normalization=None,
    )

    def once(text: str) -> str:
        if fix_encoding and not text.isascii():
            text = ftfy.fix_text(text, settings)
        text = CONTROL.sub("", INVISIBLE.sub("", LINE_END.sub("\n", text)))
        text = unicodedata.normalize("NFC", text)
        return _without_margins(BLANK_LINES.sub("\n\n\n", TRAILING.sub("", text)))

    def clean(text: str) -> str:
        # What was taken out may have stood inside of mojibake, which only now can be read.
        for _ in range(MOST_PASSES):
            before, text = text, once(text)
            if text == before or text.isascii():
                break
        return text

    return clean


def _without_margins(text: str) -> str:
    """Return a text without blank lines around it; the first line stays indented where others are (code)."""
    text = text.rstrip(" \t\n")
    bare = text.lstrip(" \t\n")
    margin = text[: len(text) - len(bare)]
    return margin[margin.rfind("\n") + 1 :] + bare if margin and INDENTED_LINE.search(bare) else bare


def regular_turns(
    batch: pa.RecordBatch, config: NormalizeConfig
) -> tuple[pa.RecordBatch, list[tuple[str, str] | None], int]:
    """Return the batch with regular turns, (reason, detail) for those without, and how many changed."""
    import pyarrow as pa

    from pipeline_lib import records

    places = _irregular(batch).tolist()
    rows = batch.take(pa.array(places, pa.int64())).to_pylist()
    verdicts: list[tuple[str, str] | None] = [None] * batch.num_rows
    changed = 0
    for place, row in zip(places, rows, strict=True):
        before = row["messages"] or []
        after, verdict = _turns(
            before, config, paired=row["chosen"] is not None or row["rejected"] is not None
        )
        if after != before:
            row["messages"] = after
            changed += 1
        verdicts[place] = verdict or _sides(row)
    return (records.replaced(batch, places, records.from_rows(rows)) if changed else batch), verdicts, changed


def _irregular(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Return the places of all conversations but those that are regular at a glance.

    A plain text that says something is, and so are turns up to an answer that all say something; a preference
    pair never is.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline_lib import records

    lists = batch.column("messages")
    flat, parents = lists.flatten(), np.asarray(pc.list_parent_indices(lists))
    roles = np.asarray(pc.fill_null(pc.index_in(flat.field("role"), pa.array(records.ROLES)), -1))
    assistant, tool, text = map(records.ROLES.index, ("assistant", "tool", "text"))
    first, last = np.diff(parents, prepend=-1) != 0, np.diff(parents, append=-1) != 0
    repeated = ~first & (np.diff(roles, prepend=-1) == 0) & (roles != tool)
    ends = (first & (roles == assistant)) | (last & (roles != assistant))
    odd = repeated | ends | np.isin(roles, (-1, text))
    odd &= ~records.plain_texts(batch)[parents]
    odd |= np.asarray(pc.fill_null(pc.equal(flat.field("content"), ""), True))
    irregular = np.bincount(parents, minlength=len(lists)) == 0
    irregular[parents[odd]] = True
    for side in ("chosen", "rejected"):
        irregular |= np.asarray(pc.is_valid(batch.column(side)))
    return np.flatnonzero(irregular)


def _sides(row: dict[str, Any]) -> tuple[str, str] | None:
    """Return why a preference pair is none: a side without any answer."""
    for side in ("chosen", "rejected"):
        said = [message["content"] or message["tool_calls"] for message in row[side] or ()]
        if row[side] is not None and not (said and all(said)):
            return "empty_answer", f"the {side} answer is empty"
    return None


def _turns(
    messages: list[dict[str, Any]], config: NormalizeConfig, *, paired: bool
) -> tuple[list[dict[str, Any]], tuple[str, str] | None]:
    if messages and messages[0]["role"] == "assistant" and not paired:
        # Nobody asked for it: ShareGPT conversations often begin with the end of a former answer.
        first = next(
            (i for i, message in enumerate(messages) if message["role"] != "assistant"), len(messages)
        )
        if first == len(messages):
            return messages, ("no_prompt", "an answer to nothing")
        messages = messages[first:]
    roles = [message["role"] for message in messages]
    if not messages:
        return messages, ("no_messages", "the conversation has no message")
    if unknown := sorted(
        {role for role in roles if role not in ("system", "user", "assistant", "tool", "text")}
    ):
        return messages, ("unknown_role", f"role {unknown[0]!r}")
    if "text" in roles:
        return messages, None if messages[0]["content"] else ("empty_text", "the text is empty")
    if any(_mergeable(one, two) for one, two in pairwise(messages)):
        if config.repeated_roles == "drop":
            return messages, ("repeated_role", f"roles {' '.join(roles)}")
        messages = _merged(messages)
    if paired:
        return messages, None
    return _answered(messages, config)


def _answered(
    messages: list[dict[str, Any]], config: NormalizeConfig
) -> tuple[list[dict[str, Any]], tuple[str, str] | None]:
    if "assistant" not in {message["role"] for message in messages}:
        return messages, ("no_assistant_turn", f"roles {' '.join(m['role'] for m in messages)}")
    if messages[-1]["role"] != "assistant":
        if config.trailing_prompt == "drop":
            return messages, ("trailing_prompt", "the last message has no answer")
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        messages = messages[: last + 1]
    for message in messages:
        if not message["content"] and not message["tool_calls"]:
            reason = "empty_answer" if message["role"] == "assistant" else "empty_message"
            return messages, (reason, f"a message of role {message['role']} is empty")
    return messages, None


def _mergeable(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Return whether two messages are one said in two parts; a tool's results and calls for tools are not."""
    if one["role"] != two["role"] or one["role"] == "tool":
        return False
    return not (one["tool_calls"] or two["tool_calls"] or two["reasoning"])


def _merged(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    merged: list[dict[str, Any]] = []
    for message in messages:
        if merged and _mergeable(merged[-1], message):
            joined = "\n\n".join(filter(None, [merged[-1]["content"], message["content"]]))
            merged[-1] = {**merged[-1], "content": joined}
        else:
            merged.append(message)
    return merged
