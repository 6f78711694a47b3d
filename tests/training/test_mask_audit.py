"""The audit page shows every token of its examples once, coloured exactly where the mask learns it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline_lib.training.tokenize import TokenizeConfig
from tests.curation.conftest import chat, pair
from tests.training.test_tokenize import CHAT, ROWS, run, table


class Spans(HTMLParser):
    """Reads the tokens of a page, each with its classes."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[tuple[int, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "span" and given.get("title"):
            self.tokens.append((int(given["title"] or ""), given.get("class") or ""))


def test_every_token_is_shown_and_coloured_as_the_mask_says(tmp_path: Path) -> None:
    rows = [*ROWS, chat("<script>alert(1)</script>", "5 < 6 & so", name="<b>")]
    tokens = run(tmp_path, rows, CHAT)
    text = (tokens.path / "audit.html").read_text(encoding="utf-8")
    page = Spans()
    page.feed(text)
    wanted = [pair for row in table(tokens) for pair in zip(row["input_ids"], row["learn"], strict=True)]
    assert [(token, "learnt" in kind) for token, kind in page.tokens] == wanted
    assert sum("stop" in kind for _, kind in page.tokens) == 2 * len(ROWS) + 1
    assert "<script>" not in text
    assert "<b>" not in text


def test_the_page_counts_what_the_account_counts(tmp_path: Path) -> None:
    tokens = run(tmp_path, [*ROWS, chat("a", "x" * 200, name="long")], CHAT, validation=ROWS[:1])
    text = (tokens.path / "audit.html").read_text(encoding="utf-8")
    stats = tokens.manifest.stats
    for name in ("kept", "dropped", "learnt_tokens"):
        cells = "".join(f"<td>{stats[part][name]:,}</td>" for part in ("train", "validation"))
        assert f"<th>{name.replace('_', ' ')}</th>{cells}" in text
    assert "<th>dropped: too_long</th><td>1</td><td>0</td>" in text


@pytest.mark.parametrize("objective", ["preference", "feedback", "prompts"])
def test_a_rejected_answer_has_another_colour(tmp_path: Path, objective: str) -> None:
    tokens = run(
        tmp_path,
        [pair("q", "good <b>", "bad", "p")],
        TokenizeConfig.model_validate({"objective": objective}),
    )
    text = (tokens.path / "audit.html").read_text(encoding="utf-8")
    page = Spans()
    page.feed(text)
    wanted = []
    for row in table(tokens):
        wanted += [(token, "") for token in row["prompt_ids"]]
        wanted += [(token, "learnt") for token in row.get("chosen_ids", ())]
        wanted += [(token, "rejected") for token in row.get("rejected_ids", ())]
        kind = "learnt" if row.get("label") else "rejected"
        wanted += [(token, kind) for token in row.get("completion_ids", ())]
    assert [(token, kind.removesuffix(" stop")) for token, kind in page.tokens] == wanted
    assert sum(kind.endswith(" stop") for _, kind in page.tokens) == (0 if objective == "prompts" else 2)
    stats = tokens.manifest.stats["train"]
    coloured = [kind.removesuffix(" stop") for _, kind in page.tokens]
    assert stats["learnt_tokens"] == coloured.count("learnt")
    assert stats.get("rejected_tokens", 0) == coloured.count("rejected")
    assert ("<th>rejected tokens</th>" in text) == (objective != "prompts")
    assert ("reference: good &lt;b&gt;" in text) == (objective == "prompts")
    assert "<b>" not in text
