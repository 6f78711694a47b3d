"""The mask audit as a page: counts of what is learnt, and examples with the learnt tokens coloured.

An answer that is to become less likely (rejected, or labelled false) has a colour of its own; what a prompt
is answered with in reinforcement learning is not there yet, so only the reference is.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

EXAMPLES = 8
MOST_TOKENS = 600
READ, LEARNT, AVOIDED = "", "learnt", "avoided"
"""What becomes of a token; the names are the page's classes."""
COUNTS = ("read", "kept", "dropped", "truncated", "without_stop", "tokens", "learnt_tokens", "longest")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; color: #222; }
body { padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem; border-bottom: 1px solid #ddd; }
td { text-align: right; } th { text-align: left; font-weight: 500; }
.talk { font: 13px/1.9 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.talk span { background: #eee; color: #555; border-radius: 3px; margin-right: 1px; padding: 1px 2px; }
.talk .learnt { background: #bfe5c7; color: #0a3d17; } .talk .avoided { background: #f3c1bd; color: #5a120b; }
.talk .stop { background: #f6c453; color: #3b2a00; }
"""


def write_page(
    path: Path, directory: Path, tokenizer: PreTrainedTokenizerBase, stats: dict[str, Any], stops: set[int]
) -> None:
    """Write ``path`` from the token shards in ``directory`` and what was counted of each part."""
    rows = _first(directory)
    examples = "".join(_example(row, tokenizer, stops) for row in rows)
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8><title>What is learnt</title>"
        f"<style>{STYLE}</style><h1>What is learnt</h1>{_table(stats)}"
        "<p class=talk><span>read only</span> <span class=learnt>learnt</span> "
        "<span class=avoided>made less likely</span> "
        f"<span class='learnt stop'>learnt, ends a turn</span></p>{examples}</html>\n",
        encoding="utf-8",
    )


def _first(directory: Path) -> list[dict[str, Any]]:
    """Return the first sequences of the train split, read without the rest."""
    import pyarrow.parquet as pq

    shard = min(directory.glob("train-*.parquet"))
    batch = next(pq.ParquetFile(shard).iter_batches(EXAMPLES), None)
    return [] if batch is None else batch.to_pylist()


def _table(stats: dict[str, Any]) -> str:
    parts = list(stats)
    head = "".join(f"<th>{html.escape(part)}</th>" for part in parts)
    lines = [(name.replace("_", " "), [stats[part][name] for part in parts]) for name in COUNTS]
    reasons = sorted({reason for part in parts for reason in stats[part]["reasons"]})
    lines += [
        (f"dropped: {reason}", [stats[part]["reasons"].get(reason, 0) for part in parts])
        for reason in reasons
    ]
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{value:,}</td>' for value in values)}</tr>"
        for name, values in lines
    )
    return f"<table><tr><th></th>{head}</tr>{body}</table>"


def _example(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, stops: set[int]) -> str:
    kinds = [kind for _, kind in _marked(row)]
    learnt = f"{len(kinds) - kinds.count(READ):,} of {len(kinds):,} tokens are learnt"
    spans = "".join(_token(tokenizer, token, kind, stops) for token, kind in _marked(row)[:MOST_TOKENS])
    hidden = max(len(kinds) - MOST_TOKENS, 0)
    rest = f" … and {hidden:,} more tokens" if hidden else ""
    reference = f"<p>reference: {html.escape(row['answer'])}</p>" if row.get("answer") else ""
    return f"<h3>{html.escape(row['id'])}: {learnt}</h3><div class=talk>{spans}{rest}</div>{reference}"


def _marked(row: dict[str, Any]) -> list[tuple[int, str]]:
    """Return the tokens of a row, prompt before answers, each with what becomes of it."""
    if "learn" in row:
        return [
            (token, LEARNT if learn else READ)
            for token, learn in zip(row["input_ids"], row["learn"], strict=True)
        ]
    answers = {
        "chosen_ids": LEARNT,
        "rejected_ids": AVOIDED,
        "completion_ids": LEARNT if row.get("label") else AVOIDED,
    }
    marked = [(token, READ) for token in row["prompt_ids"]]
    return marked + [(token, kind) for name, kind in answers.items() for token in row.get(name, ())]


def _token(tokenizer: PreTrainedTokenizerBase, token: int, kind: str, stops: set[int]) -> str:
    text = str(tokenizer.decode([token])).replace("\n", "⏎\n")
    classes = f"{kind} stop" if kind != READ and token in stops else kind
    return f'<span class="{classes}" title="{token}">{html.escape(text)}</span>'
