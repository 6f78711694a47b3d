"""Our side of the curation benchmark: one command, in a process of its own, that says how it went as JSON."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import curation_documents as made
from benchmarks.harness import measured, peak_mib

WARM = ["a few words that compile what is compiled, and read what is read from a disk"] * 9
THRESHOLD = 0.7


def near_dedup(path: Path, repeats: int) -> dict[str, Any]:
    """From a file to the removed places; ``memory`` is the same without reading."""
    import orjson

    from pipeline_lib.curation.near_duplicates import cluster
    from pipeline_lib.settings import settings

    def texts() -> list[str]:
        with path.open("rb") as file:
            return [orjson.loads(line)["text"] for line in file]

    def removed(given: list[str]) -> Any:
        return cluster(given, threshold=THRESHOLD, workers=settings().workers).duplicates

    cluster(WARM, workers=settings().workers)
    told = measured(lambda: removed(texts()), repeats)
    given = texts()
    memory = measured(lambda: removed(given), repeats)["seconds"]
    return told | {"result": told["result"].nonzero()[0].tolist(), "memory": memory}


def scrub(path: Path, repeats: int, most: int) -> dict[str, Any]:
    """The texts with placeholders for personal data; the result is how many have any."""
    import pyarrow as pa

    from pipeline_lib.personal_data.detect import suspicious
    from pipeline_lib.personal_data.replace import Replacer

    column, replacer = pa.array(made.read(path, most)), Replacer()

    def scrubbed() -> int:
        suspects = column.filter(suspicious(column)).to_pylist()
        return sum(bool(replacer.replace([text])[1]) for text in suspects)

    scrubbed()
    return measured(scrubbed, repeats)


def rules(path: Path, repeats: int, most: int) -> dict[str, Any]:
    """Gopher quality and repetition, C4 and FineWeb together; the result is how many texts are kept."""
    from pipeline_lib.curation.filter import FilterConfig
    from pipeline_lib.curation.quality.web import judge, measure

    texts, limits = made.read(path, most), FilterConfig(preset="web")

    def kept() -> int:
        return judge(measure(texts, limits), limits).count(None)

    measure(WARM, limits)
    return measured(kept, repeats)


def decontaminate(path: Path, repeats: int, most: int) -> dict[str, Any]:
    """Overlap with a thousand prompts of 8 to 60 words, of which a tenth stand in the texts."""
    import random

    from pipeline_lib.curation.overlap import Benchmarks

    draw, texts = random.Random(3), made.read(path, most)
    prompts = [one.text for one in made.documents(1_000, words=30, seed=9)]
    planted = draw.sample(range(len(texts)), 100)
    for prompt, place in enumerate(planted):
        texts[place] += " " + prompts[prompt]
    index = Benchmarks([("prompts", text) for text in prompts], 13, 8, 0.5, 0.8)
    told = measured(lambda: index.find(texts, [[text] for text in texts]), repeats)
    hits = {place for place, found in enumerate(told["result"]) if found}
    return told | {"result": {"missed": len(set(planted) - hits), "false": len(hits - set(planted))}}


def curate(path: Path, repeats: int, words: int = 50) -> dict[str, Any]:
    """All of curation, from the file to the split, in a store of its own; texts of fewer words go."""
    parts: dict[str, float] = {}

    def all_stages() -> Any:
        with tempfile.TemporaryDirectory(dir=path.parent) as place:
            return _curated(path, Path(place), words, parts)

    return measured(all_stages, repeats) | {"parts": parts, "peak_mib": peak_mib()}


def grow(path: Path, repeats: int) -> dict[str, Any]:
    """All of curation once more, after a hundredth was added to the file; ``whole`` is with nothing kept."""
    parts: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        lines = path.read_bytes().splitlines(keepends=True)
        file = Path(place) / path.name
        file.write_bytes(b"".join(lines[: -len(lines) // 100]))
        whole = measured(lambda: _curated(file, Path(place), 50, {}), 1)["seconds"]
        with file.open("ab") as more:
            more.writelines(lines[-len(lines) // 100 :])
        return measured(lambda: _curated(file, Path(place), 50, parts), 1) | {"whole": whole, "parts": parts}


def _curated(path: Path, place: Path, words: int, parts: dict[str, float]) -> int:
    """Return how many conversations are kept; ``parts`` is told the seconds of each stage."""
    from pipeline_lib.curation.decontaminate import DecontaminateConfig, decontaminate
    from pipeline_lib.curation.deduplicate import DeduplicateConfig, deduplicate
    from pipeline_lib.curation.filter import FilterConfig, filter
    from pipeline_lib.curation.format import FormatConfig, format
    from pipeline_lib.curation.normalize import NormalizeConfig, normalize
    from pipeline_lib.curation.scrub import ScrubConfig, scrub

    stages: tuple[tuple[Any, Any], ...] = (
        (normalize, NormalizeConfig()),
        (scrub, ScrubConfig()),
        (deduplicate, DeduplicateConfig()),
        (filter, FilterConfig(preset="web", c4=False, gopher_min_words=words)),
        (decontaminate, DecontaminateConfig()),
        (format, FormatConfig(plain_text="keep")),
    )
    dataset, parts["ingest"] = _ingested(path, place)
    for stage, config in stages:
        done = _store(place).materialize(stage.recipe(config, dataset))
        dataset, parts[stage.name] = done.artifact, done.seconds
    _, parts["split"] = _split(dataset, place)
    return int(dataset.count())


def split(path: Path, repeats: int) -> dict[str, Any]:
    """The places on the test's side, straight from the documents with their duplicates."""
    with tempfile.TemporaryDirectory() as place:
        dataset, _ = _ingested(path, Path(place))
        told = measured(lambda: _split(dataset, Path(place))[0], 1)
        from pipeline_lib import records

        texts = {row["messages"][0]["content"] for row in records.rows(told["result"].shards("test"))}
    given = made.read(path)
    return told | {"result": [place for place, text in enumerate(given) if text in texts]}


def _store(place: Path) -> Any:
    from pipeline_lib.core.store import Store

    return Store(place / "store")


def _ingested(path: Path, place: Path) -> Any:
    from pipeline_lib.curation.ingest import IngestConfig, ingest
    from pipeline_lib.curation.sources import Source

    os.environ["FINETUNE_STORE"] = str(place / "store")
    config = IngestConfig(sources=(Source(path=str(path), format="text"),))
    done = _store(place).materialize(ingest.recipe(config))
    return done.artifact, done.seconds


def _split(dataset: Any, place: Path) -> Any:
    from pipeline_lib.curation.split import SplitConfig, split

    done = _store(place).materialize(split.recipe(SplitConfig(threshold=THRESHOLD), dataset))
    return done.artifact, done.seconds


if __name__ == "__main__":
    command, where, *numbers = sys.argv[1:]
    print(json.dumps(globals()[command](Path(where), *map(int, numbers))))
