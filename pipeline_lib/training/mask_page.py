"""The mask audit as a page: counts of what is learnt, and examples with the learnt tokens coloured."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

EXAMPLES = 8
MOST_TOKENS = 600
COUNTS = ("read", "kept", "dropped", "truncated", "without_stop", "tokens", "learnt_tokens", "longest")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; color: #222; }
body { padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem; border-bottom: 1px solid #ddd; }
td { text-align: right; } th { text-align: left; font-weight: 500; }
.talk { font: 13px/1.9 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.talk span { background: #eee; color: #555; border-radius: 3px; margin-right: 1px; padding: 1px 2px; }
.talk .learnt { background: #bfe5c7; color: #0a3d17; } .talk .stop { background: #f6c453; color: #3b2a00; }
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
    shown = zip(row["input_ids"][:MOST_TOKENS], row["learn"][:MOST_TOKENS], strict=True)
    spans = "".join(_token(tokenizer, token, learn=learn, stops=token in stops) for token, learn in shown)
    count, hidden = len(row["input_ids"]), max(len(row["input_ids"]) - MOST_TOKENS, 0)
    rest = f" … and {hidden:,} more tokens" if hidden else ""
    title = f"{html.escape(row['id'])}: {sum(row['learn']):,} of {count:,} tokens are learnt"
    return f"<h3>{title}</h3><div class=talk>{spans}{rest}</div>"


def _token(tokenizer: PreTrainedTokenizerBase, token: int, *, learn: bool, stops: bool) -> str:
    text = str(tokenizer.decode([token])).replace("\n", "⏎\n")
    kind = " ".join(["learnt"] * learn + ["stop"] * (learn and stops))
    return f'<span class="{kind}" title="{token}">{html.escape(text)}</span>'
