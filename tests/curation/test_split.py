"""No near duplicate, prompt or group stands on two sides, and a conversation stays where it was."""

import json
import random
from itertools import combinations
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline_lib.core.errors import DataError
from pipeline_lib.curation.split import PARTS, SplitConfig, split
from pipeline_lib.kinds import Dataset
from tests.curation.conftest import Row, Workshop, chat, found, pair, text
from tests.curation.test_deduplicate import WORDS, family, jaccard, shingles, whole

LOOSE = SplitConfig(validation=0.2, test=0.2, minimum=0)


def sides(dataset: Dataset) -> dict[str, str]:
    """Return the split of every conversation by its id."""
    return {row["id"]: part for part in PARTS for row in found(dataset, part)}


def strangers(count: int, seed: int = 0) -> list[Row]:
    """Return conversations of which no two are alike."""
    draw = random.Random(seed)
    return [
        chat(" ".join(draw.choices(WORDS, k=6)), " ".join(draw.choices(WORDS, k=12)), name=f"{seed}-{i:05d}")
        for i in range(count)
    ]


def straddling(rows: list[Row], where: dict[str, str], threshold: float) -> list[tuple[str, str]]:
    """Return the near duplicates on different sides, by comparing all pairs that share an n-gram."""
    holders: dict[tuple[str, ...], list[int]] = {}
    for i, row in enumerate(rows):
        for gram in shingles(whole(row)):
            holders.setdefault(gram, []).append(i)
    near = {couple for held in holders.values() for couple in combinations(held, 2)}
    return [
        (rows[i]["id"], rows[j]["id"])
        for i, j in near
        if where[rows[i]["id"]] != where[rows[j]["id"]]
        and jaccard(whole(rows[i]), whole(rows[j])) >= threshold
    ]


@pytest.mark.parametrize("threshold", [0.4, 0.7])
def test_no_near_duplicate_straddles(workshop: Workshop, threshold: float) -> None:
    rows = [row for seed in range(4) for row in renamed(family(seed, 120), str(seed))]
    made = workshop.run(split, LOOSE.model_copy(update={"threshold": threshold}), rows)
    where = sides(made)
    assert straddling(rows, where, threshold) == []
    assert straddling(rows, {row["id"]: row["id"] for row in rows}, threshold) != []
    assert made.manifest.stats["leaks"]["test_in_train"] == 0


def renamed(rows: list[Row], prefix: str) -> list[Row]:
    """Return the rows with ids of their own."""
    return [{**row, "id": f"{prefix}-{row['id']}"} for row in rows]


def test_a_conversation_keeps_its_side_when_others_are_added(workshop: Workshop) -> None:
    old = sides(workshop.run(split, LOOSE, strangers(300)))
    new = sides(workshop.run(split, LOOSE, [*strangers(200, seed=1), *strangers(300)]))
    assert {name: new[name] for name in old} == old


def test_shares_are_those_asked_for(workshop: Workshop) -> None:
    stats = workshop.run(split, SplitConfig(), strangers(2000)).manifest.stats
    for part, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert abs(stats[part] / 2000 - share) < 0.02


def test_another_seed_is_another_split(workshop: Workshop) -> None:
    rows = strangers(200)
    other = LOOSE.model_copy(update={"seed": 7})
    assert sides(workshop.run(split, LOOSE, rows)) != sides(workshop.run(split, other, rows))


def test_groups_stay_whole_and_keep_their_side(workshop: Workshop) -> None:
    config = LOOSE.model_copy(update={"group": "author"})
    rows = [{**row, "metadata": json.dumps({"author": i % 60})} for i, row in enumerate(strangers(300))]
    where = sides(workshop.run(split, config, rows))
    groups = {author: {where[rows[i]["id"]] for i in range(author, 300, 60)} for author in range(60)}
    assert all(len(found_on) == 1 for found_on in groups.values())
    assert {side for found_on in groups.values() for side in found_on} == set(PARTS)
    fewer = sides(workshop.run(split, config, rows[:100]))
    assert {name: where[name] for name in fewer} == fewer


def test_one_prompt_is_on_one_side_however_few_there_are(workshop: Workshop) -> None:
    rows = [
        chat(f"Which {WORDS[i // 2]} is it?", " ".join(WORDS[3 * i : 3 * i + 12]), name=f"{i:03d}")
        for i in range(120)
    ]
    where = sides(workshop.run(split, LOOSE, rows))
    assert all(where[f"{i:03d}"] == where[f"{i + 1:03d}"] for i in range(0, 120, 2))
    assert set(where.values()) == set(PARTS)


def test_a_constant_instruction_links_nothing(workshop: Workshop) -> None:
    rows = [chat("Translate.", *said, name=row["id"]) for row in strangers(200) for said in [[whole(row)]]]
    assert workshop.run(split, LOOSE, rows).manifest.stats["largest_cluster"] == 1


def test_a_cluster_too_large_for_a_split_is_for_training(workshop: Workshop) -> None:
    template = " ".join(WORDS[:60])
    rows = [chat(f"Number {i}?", f"{template} {WORDS[100 + i]}", name=f"t{i}") for i in range(100)]
    for seed in range(5):
        config = SplitConfig(minimum=0, seed=seed)
        where = sides(workshop.run(split, config, [*rows, *strangers(200)]))
        assert {where[row["id"]] for row in rows} == {"train"}


def test_pairs_labels_and_texts_pass_whole(workshop: Workshop) -> None:
    rows = [
        pair("Which?", "this", "that", "p"),
        {**chat("Hi", "Yo", name="f"), "label": False, "metadata": '{"a": 1}'},
        text("A text.", "t"),
    ]
    made = workshop.run(split, LOOSE, rows)
    there = {row["id"]: row for part in PARTS for row in found(made, part)}
    assert there == {row["id"]: {**dict.fromkeys(there["p"]), **row} for row in rows}


def test_a_pair_of_pairs_with_the_same_answers_stays_together(workshop: Workshop) -> None:
    answer, other = " ".join(WORDS[:40]), " ".join(WORDS[50:90])
    rows = [
        pair(
            f"Please {WORDS[i + i // 2]}",
            *((answer, other) if i < 8 else (f"{WORDS[i]} {WORDS[-i]}", "no")),
            f"{i}",
        )
        for i in range(60)
    ]
    where = sides(workshop.run(split, LOOSE, rows))
    assert len({where[str(i)] for i in range(8)}) == 1


def test_a_split_that_is_too_small_stops_and_says_what_to_do(workshop: Workshop) -> None:
    with pytest.raises(DataError, match=r"validation has \d of 40 .* split\.minimum=10; add data"):
        workshop.run(split, SplitConfig(), strangers(40))
    with pytest.raises(DataError, match="no conversation is left"):
        workshop.run(split, SplitConfig(), [])


@pytest.mark.parametrize("field", ["group", "stratify", "time"])
def test_a_key_that_no_conversation_has_stops_and_names_it(workshop: Workshop, field: str) -> None:
    with pytest.raises(DataError, match=rf"split\.{field}: no conversation has the metadata key 'thred'"):
        workshop.run(split, SplitConfig(**{field: "thred"}), dated(strangers(100)))


def test_a_split_without_a_share_may_be_empty(workshop: Workshop) -> None:
    made = workshop.run(split, SplitConfig(validation=0, test=0.4), strangers(60))
    assert made.manifest.stats["validation"] == 0
    assert made.shards("validation")


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ValidationError, match="leave nothing to train on"):
        SplitConfig(validation=0.5, test=0.5)


def test_workers_and_shards_do_not_change_a_byte(same_bytes: Any) -> None:
    same_bytes(split, LOOSE, family(5, 60))


def dated(rows: list[Row]) -> list[Row]:
    """Return the rows with a day each, the first the oldest, and a topic of two, one of them rare."""
    return [
        {
            **row,
            "source": "rare" if i % 20 == 0 else "usual",
            "metadata": json.dumps({"day": f"2024-{1 + i // 28:02d}-{1 + i % 28:02d}", "topic": i % 20 == 0}),
        }
        for i, row in enumerate(rows)
    ]


def test_a_number_of_conversations_can_be_asked_for(workshop: Workshop) -> None:
    stats = workshop.run(split, SplitConfig(validation=7, test=50), strangers(300)).manifest.stats
    assert (stats["test"], stats["validation"], stats["train"]) == (50, 7, 243)
    with pytest.raises(DataError, match="train has 0"):
        workshop.run(split, SplitConfig(test=300), strangers(300))


@pytest.mark.parametrize("by", ["source", "topic"])
def test_every_stratum_is_split_in_the_shares_asked_for(workshop: Workshop, by: str) -> None:
    rows = dated(strangers(400))
    made = workshop.run(split, SplitConfig(validation=0.1, test=0.2, stratify=by), rows)
    counts = {part: [row["source"] == "rare" for row in found(made, part)] for part in ("validation", "test")}
    assert {part: (len(rare), sum(rare)) for part, rare in counts.items()} == (
        {"validation": (40, 2), "test": (80, 4)}
    )


def test_the_newest_conversations_are_the_test(workshop: Workshop) -> None:
    rows = dated(strangers(200))
    random.Random(1).shuffle(rows)
    made = workshop.run(split, SplitConfig(validation=0.1, test=0.2, time="day"), rows)
    days = {part: [json.loads(row["metadata"])["day"] for row in found(made, part)] for part in PARTS}
    assert max(days["train"]) < min(days["validation"]) <= max(days["validation"]) < min(days["test"])
    assert [len(days[part]) for part in PARTS] == [140, 20, 40]
    with pytest.raises(DataError, match="no conversation has the metadata key 'when'"):
        workshop.run(split, SplitConfig(time="when"), rows)


def test_near_duplicates_and_groups_stay_together_by_rank_too(workshop: Workshop) -> None:
    rows = dated([row for seed in range(4) for row in renamed(family(seed, 120), str(seed))])
    for config in (
        LOOSE.model_copy(update={"stratify": "source"}),
        LOOSE.model_copy(update={"time": "day"}),
        LOOSE.model_copy(update={"test": 60.0}),
    ):
        made = workshop.run(split, config, rows)
        assert straddling(rows, sides(made), config.threshold) == []
        assert made.manifest.stats["leaks"]["test_in_train"] == 0
