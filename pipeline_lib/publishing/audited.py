"""What a report shows beside scores: the audit line by line, the passages found, what people think."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline_lib.kinds import Audit, Ratings, Tokens
from pipeline_lib.pages.rendering import figure

MASK_AUDIT = "audit.html"
"""The page that `tokenize` leaves beside its shards."""


@dataclass(frozen=True)
class AuditRow:
    """One thing that was looked for, with its count, share and interval as texts."""

    title: str
    count: str
    share: str
    interval: str
    meaning: str


def audit_rows(found: Mapping[str, Any]) -> list[AuditRow]:
    """Return the audit's figures, in the order in which a reader asks for them."""
    memorized, leaks, shared = found["memorized"], found["leaks"], found["contamination"]
    rows = [
        _share(
            "Answers with a passage of the training data",
            memorized,
            f"{memorized['words']} words in a row or more, in neither prompt nor reference; "
            f"the longest has {memorized['longest']}",
        )
    ]
    if extracted := found["extracted"]:
        rows += [
            _share(
                f"{name} answers completed to the letter",
                extracted[part],
                f"given the beginning; {extracted[part]['tokens_right']:.1%} of single tokens are right",
            )
            for part, name in (("train", "Training"), ("test", "Test"))
        ]
    if planted := found["canaries"]:
        rows.append(_canaries(planted))
    kinds = ", ".join(f"{kind} {count}" for kind, count in leaks["kinds"].items())
    rows.append(
        _share(
            "Answers with personal data",
            leaks,
            f"{leaks['values']} values{f' ({kinds})' if kinds else ''}, "
            f"{leaks['in_training']} of them in the training data",
        )
    )
    words = f"{shared['words']} words in a row"
    return [
        *rows,
        _share("Test conversations in the training data", shared["exact"], "the whole, word for word"),
        _share("Test questions in the training data", shared["question"], "the question, word for word"),
        _share("Test conversations that share an n-gram", shared["ngram"], f"{words} or more"),
        _share("Test conversations half covered", shared["half"], f"by n-grams of {words}"),
    ]


def passages(audit: Audit) -> list[dict[str, Any]]:
    """Return the longest passages that answers repeat: the answer's id, the words, the text."""
    found: list[dict[str, Any]] = json.loads(audit.file("passages.json").read_text(encoding="utf-8"))
    return found


def ratings_of(ratings: Ratings | None) -> dict[str, Any] | None:
    """Return what people's ratings came to, models before pairs; None where nobody has rated yet."""
    return ratings.read() if ratings else None


def mask_audit(tokens: Tokens) -> str | None:
    """Return where the page with the loss masks of some conversations stands; None where there is none."""
    page = tokens.path / MASK_AUDIT
    return f"{tokens.address}/{MASK_AUDIT}" if page.exists() else None


def _canaries(planted: Mapping[str, Any]) -> AuditRow:
    return AuditRow(
        "Planted secrets said when asked for",
        f"{planted['extracted']} of {planted['planted']}",
        f"{planted['extracted'] / planted['planted']:.1%}",
        "",
        f"highest exposure {figure(planted['exposure'])} of {figure(planted['most_possible'])} bits possible",
    )


def _share(title: str, found: Mapping[str, Any], meaning: str) -> AuditRow:
    between = f"{found['low']:.1%} … {found['high']:.1%}" if found["of"] else ""
    return AuditRow(
        title, f"{found['count']:,} of {found['of']:,}", f"{found['value']:.1%}", between, meaning
    )
