"""The mask audit as a page: counts of what is learnt, and examples with the learnt tokens coloured.

Of a pair the rejected answer, and an answer labelled false, has a colour of its own; what a prompt is
answered with in reinforcement learning is not there yet, so only the reference is.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

EXAMPLES = 8
MOST_TOKENS = 600
READ, LEARNT, REJECTED = "", "learnt", "rejected"
"""What becomes of a token; the names are the page's classes."""
COUNTS = (
    "read",
    "kept",
    "dropped",
    "truncated",
    "without_stop",
    "tokens",
    "learnt_tokens",
    "rejected_tokens",
    "longest",
)
WORDS = {READ: "read only", LEARNT: "learnt", REJECTED: "rejected"}
MEANING = {
    "supervised": "The loss is taken on learnt tokens alone.",
    "language_modelling": "Every token is learnt, in blocks that documents are cut into end to end.",
    "preference": "Of each pair the chosen answer becomes likelier and the rejected one less likely; a "
    "reward model learns to score the one higher than the other.",
    "feedback": "An answer labelled true is learnt: it becomes likelier. One labelled false is rejected: it "
    "becomes less likely.",
    "prompts": "No token here is learnt: the model answers the prompts itself, and learns from what rewards "
    "say of its answers.",
}
"""What the colours say, by the objective of ``tokenize``."""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; color: #222; }
body { padding: 0 1rem; } h2 { margin: 2rem 0 .6rem; } h3 { margin: 1.6rem 0 .4rem; }
h3 + p { margin: 0 0 .6rem; } h4 { margin: .6rem 0 .2rem; font-weight: 500; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem; border-bottom: 1px solid #ddd; }
th { text-align: left; font-weight: 500; } td, tr:first-child th { text-align: right; }
.talk { font: 13px/1.9 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.talk span { background: #eee; color: #555; border-radius: 3px; margin-right: 1px; padding: 1px 2px; }
.talk .learnt { background: #bfe5c7; color: #0a3d17; }
.talk .rejected { background: #f3c1bd; color: #5a120b; }
.talk .stop { box-shadow: inset 0 -3px #e09b00; }
"""


def write_page(
    path: Path,
    directory: Path,
    tokenizer: PreTrainedTokenizerBase,
    stats: dict[str, Any],
    stops: set[int],
    objective: str,
) -> None:
    """Write ``path`` from the token shards in ``directory`` and what was counted of each part."""
    rows = _first(directory)
    examples = "".join(_example(row, tokenizer, stops) for row in rows)
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8><title>What is learnt</title>"
        f"<style>{STYLE}</style><h1>What is learnt</h1><p>{MEANING[objective]}</p>{_table(stats)}"
        f"<h2>The first of the train split, token by token</h2>{_legend(objective)}{examples}</html>\n",
        encoding="utf-8",
    )


def _legend(objective: str) -> str:
    kinds = {"prompts": (), "preference": (LEARNT, REJECTED), "feedback": (LEARNT, REJECTED)}
    coloured = kinds.get(objective, (LEARNT,))
    keys = [f"<span class='{kind}'>{WORDS[kind]}</span>" for kind in (READ, *coloured)]
    if coloured:
        keys.append(f"<span class='{LEARNT} stop'>ends a turn</span>")
    return f"<p class=talk>{' '.join(keys)}</p>"


def _first(directory: Path) -> list[dict[str, Any]]:
    """Return the first sequences of the train split, read without the rest."""
    import pyarrow.parquet as pq

    shard = min(directory.glob("train-*.parquet"))
    batch = next(pq.ParquetFile(shard).iter_batches(EXAMPLES), None)
    return [] if batch is None else batch.to_pylist()


def _table(stats: dict[str, Any]) -> str:
    parts = list(stats)
    head = "".join(f"<th>{html.escape(part)}</th>" for part in parts)
    counted = [name for name in COUNTS if name in stats[parts[0]]]
    lines = [(name.replace("_", " "), [stats[part][name] for part in parts]) for name in counted]
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
    parts = list(_parts(row))
    kinds = Counter(kind for _, marked in parts for _, kind in marked)
    counts = ", ".join(f"{kinds[kind]:,} {word}" for kind, word in WORDS.items() if kinds[kind])
    shown = "".join(_part(name, marked, tokenizer, stops) for name, marked in parts)
    reference = f"<p>reference: {html.escape(row['answer'])}</p>" if row.get("answer") else ""
    return f"<h3>{html.escape(row['id'])}</h3><p>tokens: {counts}</p>{shown}{reference}"


def _parts(row: dict[str, Any]) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Yield the parts of a row by name, prompt before answers: tokens, each with what becomes of it."""
    if "learn" in row:
        pairs = zip(row["input_ids"], row["learn"], strict=True)
        yield "", [(token, LEARNT if learn else READ) for token, learn in pairs]
        return
    yield "prompt", [(token, READ) for token in row["prompt_ids"]]
    for name, (ids, kind) in _answers(row).items():
        yield name, [(token, kind) for token in ids]


def _answers(row: Mapping[str, Any]) -> dict[str, tuple[list[int], str]]:
    if "chosen_ids" in row:
        return {"chosen": (row["chosen_ids"], LEARNT), "rejected": (row["rejected_ids"], REJECTED)}
    if "completion_ids" in row:
        kind = LEARNT if row["label"] else REJECTED
        return {f"answer, labelled {str(row['label']).lower()}": (row["completion_ids"], kind)}
    return {}


def _part(
    name: str, marked: list[tuple[int, str]], tokenizer: PreTrainedTokenizerBase, stops: set[int]
) -> str:
    spans = "".join(_token(tokenizer, token, kind, stops) for token, kind in marked[:MOST_TOKENS])
    hidden = max(len(marked) - MOST_TOKENS, 0)
    rest = f" … and {hidden:,} more tokens" if hidden else ""
    return f"{f'<h4>{name}</h4>' if name else ''}<div class=talk>{spans}{rest}</div>"


def _token(tokenizer: PreTrainedTokenizerBase, token: int, kind: str, stops: set[int]) -> str:
    text = str(tokenizer.decode([token])).replace("\n", "⏎\n")
    classes = f"{kind} stop" if kind != READ and token in stops else kind
    return f'<span class="{classes}" title="{token}">{html.escape(text)}</span>'
