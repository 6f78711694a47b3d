"""From files to splits nothing is lost: a row is kept or dropped for a reason, and leads back to its line."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from pipeline_lib.core.store import Store
from pipeline_lib.curation.decontaminate import DecontaminateConfig, decontaminate
from pipeline_lib.curation.deduplicate import DeduplicateConfig, deduplicate
from pipeline_lib.curation.fates import origin, trace
from pipeline_lib.curation.filter import FilterConfig, filter
from pipeline_lib.curation.format import FormatConfig, format
from pipeline_lib.curation.ingest import IngestConfig, ingest
from pipeline_lib.curation.normalize import NormalizeConfig, normalize
from pipeline_lib.curation.scrub import ScrubConfig, scrub
from pipeline_lib.curation.split import SplitConfig, split
from pipeline_lib.kinds import Dataset
from tests.curation.conftest import found

WORDS = [f"{a}{b}" for a in ("ba", "ke", "li", "mo", "nu") for b in ("sto", "ran", "vel", "dik", "pom")]
BENCHMARK = "Which of the twenty old ships in the northern harbour was the first that sailed around the cape?"
PARTS = ("kept", "train", "validation", "test", "dropped")


def _sentence(draw: random.Random, count: int = 12) -> str:
    return f"{' '.join(draw.choices(WORDS, k=count)).capitalize()}."


def _line(draw: random.Random, before: list[str]) -> str:
    """Return one line of a file: mostly a good row, else one that some stage drops or changes."""
    asked, answer = _sentence(draw), " ".join(_sentence(draw) for _ in range(draw.randrange(1, 6)))
    rows: list[Any] = [
        {"instruction": asked, "output": answer},
        {"instruction": asked, "output": answer, "topic": draw.choice(WORDS)},
        {"instruction": asked, "output": f"{answer} Mail {draw.choice(WORDS)}@acme.io or +1 415 867 5309."},
        {"instruction": asked, "output": ""},
        {"instruction": asked, "output": asked},
        {"instruction": asked, "output": "N/A"},
        {"instruction": asked, "output": f"{answer}\n```\nx = 1"},
        {"instruction": BENCHMARK, "output": answer},
        {"instruction": f"  {asked}\u200b\r\n", "output": f"{answer}\n\n\n\n\n\n{answer}"},
        {"messages": [{"role": "user", "content": asked}]},
        {"instruction": None, "output": answer},
        "text",
    ]
    kind = draw.randrange(20)
    if kind == 0 and before:
        return draw.choice(before)
    if kind == 1 and before and (words := draw.choice(before).split(" ")):
        return " ".join(word if draw.random() > 0.03 else draw.choice(WORDS) for word in words)
    if kind == 2:
        return json.dumps(rows[0])[: draw.randrange(1, 40)]
    return json.dumps(rows[draw.randrange(len(rows)) if kind < 14 else 0])


def _stages(bench: Path) -> list[tuple[Any, Any]]:
    held_out = {"sources": [{"path": str(bench), "format": "prompt"}]}
    return [
        (normalize, NormalizeConfig()),
        (scrub, ScrubConfig()),
        (deduplicate, DeduplicateConfig(threshold=0.7)),
        (filter, FilterConfig()),
        (decontaminate, DecontaminateConfig.model_validate(held_out)),
        (format, FormatConfig()),
        (split, SplitConfig(minimum=0)),
    ]


def _curate(home: Path, files: dict[str, list[str]]) -> dict[str, Dataset]:
    data = home / "data"
    data.mkdir()
    for name, lines in files.items():
        (data / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    bench = home / "bench.jsonl"
    bench.write_text(json.dumps({"prompt": BENCHMARK}) + "\n")
    store = Store(home / "store")
    config = IngestConfig.model_validate({"sources": [{"path": str(data)}]})
    made: dict[str, Dataset] = {"ingest": store.materialize(ingest.recipe(config)).artifact}
    for stage, settings in _stages(bench):
        before = made[list(made)[-1]]
        made[stage.name] = store.materialize(stage.recipe(settings, before)).artifact
    return made


def _accounted(made: dict[str, Dataset]) -> list[dict[str, Any]]:
    """Check every stage's account to the row, and return all rows that were dropped anywhere."""
    arrived = {row["id"] for part in ("kept", "dropped") for row in found(made["ingest"], part)}
    assert len(arrived) == made["ingest"].manifest.stats["read"]
    gone = found(made["ingest"], "dropped")
    before = [row["id"] for row in found(made["ingest"])]
    for name, dataset in list(made.items())[1:]:
        parts = {part: found(dataset, part) for part in PARTS if dataset.shards(part)}
        ids = [row["id"] for rows in parts.values() for row in rows]
        assert sorted(ids) == sorted(before), name
        stats = dataset.manifest.stats
        assert stats["read"] == len(before) == sum(stats[part] for part in parts)
        assert {part: stats[part] for part in parts} == {part: len(rows) for part, rows in parts.items()}
        assert sum(stats["reasons"].values()) == stats["dropped"]
        assert all(row["reason"] and row["detail"] for row in parts["dropped"])
        gone += parts["dropped"]
        before = [row["id"] for part, rows in parts.items() if part != "dropped" for row in rows]
    assert arrived == {*before, *(row["id"] for row in gone)}
    return gone


def test_every_row_is_accounted_for_and_leads_back_to_its_line(tmp_path: Path) -> None:
    draw = random.Random(11)
    lines: list[str] = []
    for _ in range(1200):
        lines.append(_line(draw, lines))
    files = {"a.jsonl": lines[:500], "b.jsonl": lines[500:]}
    made = _curate(tmp_path, files)
    gone = _accounted(made)
    reasons = {row["reason"] for row in gone}
    assert reasons >= {"unreadable", "unrecognised", "empty_answer", "exact_duplicate", "near_duplicate"}
    assert reasons >= {"echo", "placeholder", "broken_fence", "contaminated"}
    for row in [*gone[::7], *found(made["split"], "train")[::40], *found(made["split"], "test")[::10]]:
        first, fates = trace(made, row["id"])
        place = json.loads(first["metadata"])
        line = files[place["file"]][place["line"] - 1]
        assert origin(first) == f"data  {place['file']}:{place['line']}"
        if row.get("reason"):
            assert (fates[-1].part, fates[-1].reason) == ("dropped", row["reason"])
        else:
            assert fates[-1].stage == "split"
        if fates[0].part == "kept":
            told = json.loads(line)
            assert first["messages"][-1]["content"] == (told.get("output") or "")


@examples(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**6), count=st.integers(1, 60))
def test_any_files_are_accounted_for(tmp_path_factory: pytest.TempPathFactory, seed: int, count: int) -> None:
    draw = random.Random(seed)
    lines: list[str] = [json.dumps({"instruction": _sentence(draw), "output": _sentence(draw, 30)})]
    for _ in range(count):
        lines.append(_line(draw, lines))
    cut = draw.randrange(len(lines))
    files = {"a.jsonl": [lines[0], *lines[:cut]], "b.jsonl": [lines[0], *lines[cut:]]}
    _accounted(_curate(tmp_path_factory.mktemp("any"), files))
