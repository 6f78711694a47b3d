"""One conversation of every cluster stays, and the clusters are those of brute force."""

import random
import re
from itertools import combinations
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline_lib.curation.deduplicate import DeduplicateConfig, deduplicate
from tests.curation.conftest import Row, Workshop, chat, found, message, pair, reasons, text

WORDS = [f"word{i}" for i in range(400)]


def shingles(written: str, size: int = 5) -> frozenset[tuple[str, ...]]:
    """Return the word n-grams of a text, read independently of the kernel."""
    words = re.findall(r"[a-z0-9]+", written.lower())
    return frozenset(tuple(words[i : i + size]) for i in range(max(len(words) - size + 1, 1)))


def jaccard(one: str, two: str) -> float:
    """Return the share of their n-grams that two texts have in common."""
    a, b = shingles(one), shingles(two)
    return len(a & b) / len(a | b)


def whole(row: Row) -> str:
    """Return all that is said in a conversation."""
    return "\n\n".join(one["content"] for one in row["messages"])


def family(seed: int, count: int) -> list[Row]:
    """Return conversations of which many are more or less changed copies of earlier ones."""
    draw = random.Random(seed)
    rows: list[Row] = []
    for i in range(count):
        words = draw.choices(WORDS, k=draw.randint(30, 60))
        if rows and draw.random() < 0.5:
            words = whole(draw.choice(rows)).split()
            for _ in range(draw.randint(0, 4)):
                words[draw.randrange(len(words))] = draw.choice(WORDS)
        rows.append(chat(" ".join(words[:5]), " ".join(words[5:]), name=f"{i:04d}"))
    return rows


def components(rows: list[Row], threshold: float) -> list[int]:
    """Return for each row the first of its component, by comparing all pairs."""
    roots = list(range(len(rows)))
    for one, two in combinations(range(len(rows)), 2):
        if jaccard(whole(rows[one]), whole(rows[two])) >= threshold:
            low, high = sorted((roots[one], roots[two]))
            roots = [low if root == high else root for root in roots]
    return roots


@pytest.mark.parametrize("threshold", [0.7, 0.85])
def test_the_first_of_every_component_of_brute_force_stays(workshop: Workshop, threshold: float) -> None:
    rows = family(1, 150)
    made = workshop.run(deduplicate, DeduplicateConfig(threshold=threshold), rows)
    roots = components(rows, threshold)
    assert [row["id"] for row in found(made)] == [rows[i]["id"] for i in range(len(rows)) if roots[i] == i]
    table = pq.read_table(made.path / "clusters.parquet").to_pylist()
    assert [row["cluster"] for row in table] == [rows[root]["id"] for root in roots]


@pytest.mark.parametrize("keep", ["first", "longest"])
def test_what_is_dropped_names_what_it_follows_and_how_alike_they_are(
    workshop: Workshop, keep: Literal["first", "longest"]
) -> None:
    rows = family(2, 120)
    texts = {row["id"]: whole(row) for row in rows}
    made = workshop.run(deduplicate, DeduplicateConfig(threshold=0.7, keep=keep), rows)
    dropped = found(made, "dropped")
    assert {row["reason"] for row in dropped} == {"near_duplicate", "exact_duplicate"}
    for row in dropped:
        names = re.findall(r"(?:follows|through) (\d+)", row["detail"])
        if row["reason"] == "exact_duplicate":
            assert texts[row["id"]] == texts[names[0]]
        else:
            told = float(row["detail"].rpartition("Jaccard ")[2].rstrip(")"))
            assert told >= 0.7
            assert jaccard(texts[row["id"]], texts[names[-1]]) == pytest.approx(told, abs=6e-4)


def test_the_longest_of_a_cluster_stays_where_that_is_asked_for(workshop: Workshop) -> None:
    rows = family(3, 120)
    made = workshop.run(deduplicate, DeduplicateConfig(threshold=0.7, keep="longest"), rows)
    roots = components(rows, 0.7)
    best: dict[int, Row] = {}
    for root, row in zip(roots, rows, strict=True):
        if root not in best or len(whole(row)) > len(whole(best[root])):
            best[root] = row
    assert [row["id"] for row in found(made)] == sorted(row["id"] for row in best.values())


def test_the_best_of_a_cluster_stays_by_its_score_or_the_quality_rules(workshop: Workshop) -> None:
    asked, answer = " ".join(WORDS[:20]), " ".join(WORDS[50:80])
    rows = [
        chat(asked, f"{answer}\n```\nand more of it", name="broken", metadata='{"rating": 2}'),
        chat(asked, f"{answer} and", name="short", metadata='{"rating": "4.5"}'),
        chat(asked, f"{answer} and more.", name="good", metadata='{"rating": "none"}'),
        chat(asked, f"{answer} and more!", name="later"),
    ]

    def kept(**values: Any) -> list[str]:
        config = DeduplicateConfig(threshold=0.7, keep="best", **values)
        return [row["id"] for row in found(workshop.run(deduplicate, config, rows))]

    assert kept() == ["good"]
    assert kept(score="rating") == ["short"]
    with pytest.raises(ValidationError, match="keep: best"):
        DeduplicateConfig(score="rating")


def test_case_and_punctuation_make_no_difference(workshop: Workshop) -> None:
    rows = [chat("What is this?", "A house.", name="1"), chat("what is THIS", "a house", name="2")]
    assert reasons(workshop.run(deduplicate, DeduplicateConfig(), rows)) == {"2": "exact_duplicate"}


PROMPT, ANSWER = " ".join(WORDS[:20]), " ".join(WORDS[50:80])
CALLS = [
    {
        "id": str(i),
        "messages": [
            message("user", PROMPT),
            message("assistant", "", tool_calls=f'[{{"n": "{WORDS[i]}"}}]'),
        ],
    }
    for i in (1, 2)
]


def test_the_prompt_or_the_answer_alone_can_be_compared(workshop: Workshop) -> None:
    rows = [
        chat(PROMPT, ANSWER, name="1"),
        chat(PROMPT, "Something else altogether.", name="2"),
        chat("Another thing?", ANSWER, name="3"),
    ]
    for compare, dropped in (("conversation", set()), ("prompt", {"2"}), ("answer", {"3"})):
        config = DeduplicateConfig.model_validate({"compare": compare})
        assert set(reasons(workshop.run(deduplicate, config, rows))) == dropped


def test_answers_that_are_different_tool_calls_or_missing_are_no_copies(workshop: Workshop) -> None:
    unanswered = [{"id": f"u{i}", "messages": [message("user", f"What {WORDS[i]}?")]} for i in range(3)]
    for compare in ("answer", "conversation"):
        config = DeduplicateConfig.model_validate({"compare": compare, "threshold": 1.0})
        assert reasons(workshop.run(deduplicate, config, [*CALLS, *unanswered])) == {}


def test_pairs_with_one_prompt_and_other_answers_both_stay(workshop: Workshop) -> None:
    rows = [
        pair(PROMPT, ANSWER, "no", "1"),
        pair(PROMPT, " ".join(WORDS[100:140]), "never", "2"),
        pair(PROMPT, ANSWER, "no", "3"),
    ]
    for compare in ("conversation", "answer"):
        config = DeduplicateConfig.model_validate({"compare": compare})
        assert set(reasons(workshop.run(deduplicate, config, rows))) == {"3"}


def test_plain_texts_and_feedback_are_compared_too(workshop: Workshop) -> None:
    rows = [text(ANSWER, "1"), text(ANSWER, "2"), {**chat(PROMPT, "Yes.", name="3"), "label": True}]
    made = workshop.run(deduplicate, DeduplicateConfig(), rows)
    assert [row["id"] for row in found(made)] == ["1", "3"]
    assert found(made)[1]["label"] is True


def test_no_rows_make_no_clusters(workshop: Workshop) -> None:
    assert workshop.run(deduplicate, DeduplicateConfig(), []).manifest.stats["clusters"] == 0


def test_workers_and_shards_do_not_change_a_byte(same_bytes: Any) -> None:
    same_bytes(deduplicate, DeduplicateConfig(threshold=0.7, keep="longest"), family(4, 60))
