"""The peers' side of the curation benchmark: runs under a peer's own Python and says how it went as JSON.

Each peer does what its documentation shows for the task, on the same documents and the same word 5-grams,
with datatrove's 14 bands of 8 (its default) where it is MinHash.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.curation_documents import read
from benchmarks.harness import measured

BANDS, ROWS, THRESHOLD = 14, 8, 0.7
_WORD = re.compile(r"\w+")


def rensa(path: Path, repeats: int) -> dict[str, Any]:
    """RMinHash over word 5-grams, RMinHashLSH, the first of alike texts stays."""
    from rensa import RMinHash, RMinHashLSH

    def removed() -> list[int]:
        texts = read(path)
        lsh = RMinHashLSH(threshold=THRESHOLD, num_perm=BANDS * ROWS, num_bands=BANDS)
        minhashes = RMinHash.from_token_sets([_grams(text) for text in texts], BANDS * ROWS, 42)
        gone = []
        for place, minhash in enumerate(minhashes):
            if lsh.query(minhash):
                gone.append(place)
            else:
                lsh.insert(place, minhash)
        return gone

    return measured(removed, repeats)


def datasketch(path: Path, repeats: int) -> dict[str, Any]:
    """MinHash over word 5-grams, MinHashLSH, the first of alike texts stays."""
    from datasketch import MinHash, MinHashLSH

    def removed() -> list[int]:
        texts, gone = read(path), []
        lsh = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
        sets = ([gram.encode() for gram in _grams(text)] for text in texts)
        for place, minhash in enumerate(MinHash.generator(sets, num_perm=BANDS * ROWS)):
            if lsh.query(minhash):
                gone.append(place)
            else:
                lsh.insert(place, minhash)
        return gone

    return measured(removed, repeats)


def datatrove_dedup(path: Path, repeats: int, most: int) -> dict[str, Any]:
    """The four MinHash stages."""

    def removed() -> list[int]:
        with tempfile.TemporaryDirectory() as place:
            source = _head(path, Path(place), most)
            _minhash(source, Path(place))
            gone = (Path(place) / "removed").glob("*.jsonl")
            return sorted(int(json.loads(line)["id"]) for file in gone for line in file.open())

    return measured(removed, repeats)


def datatrove_pii(path: Path, repeats: int, most: int) -> dict[str, Any]:
    """The PIIFormatter: e-mail and IP addresses."""
    from datatrove.pipeline.formatters import PIIFormatter

    formatter, texts = PIIFormatter(), read(path, most)
    return measured(lambda: sum(formatter.format(text) != text for text in texts), repeats)


def datatrove_rules(path: Path, repeats: int, most: int) -> dict[str, Any]:
    """The filters one after the other on every text."""
    from datatrove.data import Document

    filters, texts = _filters(), read(path, most)

    def kept() -> int:
        judged = ([one.filter(Document(text=text, id="")) for one in filters] for text in texts)
        return sum(all(verdict is True for verdict in verdicts) for verdicts in judged)

    return measured(kept, repeats)


def datatrove_curate(path: Path, repeats: int, most: int) -> dict[str, Any]:
    """Personal data, Gopher quality and repetition, FineWeb, then near-duplicates: from file to files."""
    from datatrove.pipeline.formatters import PIIFormatter
    from datatrove.pipeline.writers import JsonlWriter

    def whole() -> int:
        with tempfile.TemporaryDirectory() as place:
            source = _head(path, Path(place), most)
            clean = Path(place) / "clean"
            quality = [one for one in _filters() if type(one).__name__ != "C4QualityFilter"]
            _run(
                [_reader(source), PIIFormatter(), *quality, JsonlWriter(str(clean), compression=None)], place
            )
            return _minhash(clean, Path(place))

    return measured(whole, repeats)


def presidio(path: Path, repeats: int, most: int) -> dict[str, Any]:
    """All of Presidio's pattern recognisers for English, without a model of names."""
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine.no_op_nlp_engine import NoOpNlpEngine

    logging.disable(logging.CRITICAL)
    engine = NoOpNlpEngine(models=[{"lang_code": "en", "model_name": "no_op"}])
    engine.load()
    analyzer, texts = AnalyzerEngine(nlp_engine=engine, supported_languages=["en"]), read(path, most)
    analyzer.analyze(texts[0], language="en")
    return measured(lambda: sum(bool(analyzer.analyze(text, language="en")) for text in texts), repeats)


def _grams(text: str) -> list[str]:
    words = _WORD.findall(text.lower())
    return list({" ".join(words[at : at + 5]) for at in range(max(len(words) - 4, 1))})


def _filters() -> list[Any]:
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    return [GopherQualityFilter(), GopherRepetitionFilter(), C4QualityFilter(), FineWebQualityFilter()]


def _head(path: Path, place: Path, most: int) -> Path:
    """Return a folder with the first documents, in as many files as there are workers."""
    source = place / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    with path.open() as file:
        lines = [line for line, _ in zip(file, range(most), strict=False)]
    size = -(-len(lines) // _workers())
    for part in range(_workers()):
        (source / f"{part}.jsonl").write_text("".join(lines[part * size : (part + 1) * size]))
    return source


def _minhash(source: Path, place: Path) -> int:
    """Run the four stages; return how many documents stay."""
    from datatrove.pipeline.dedup import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig(num_buckets=BANDS, hashes_per_bucket=ROWS)
    folder: Callable[[str], str] = lambda name: str(place / name)  # noqa: E731
    _run([_reader(source), MinhashDedupSignature(folder("signatures"), config)], place)
    _run([MinhashDedupBuckets(folder("signatures"), folder("buckets"), config=config)], place, BANDS)
    _run([MinhashDedupCluster(folder("buckets"), folder("ids"), config=config)], place, 1)
    gone = JsonlWriter(folder("removed"), compression=None)
    kept = JsonlWriter(folder("kept"), compression=None)
    _run([_reader(source), MinhashDedupFilter(folder("ids"), exclusion_writer=gone), kept], place)
    return sum(1 for file in (place / "kept").glob("*.jsonl") for _ in file.open())


def _reader(source: Path) -> Any:
    from datatrove.pipeline.readers import JsonlReader

    return JsonlReader(str(source), glob_pattern="*.jsonl")


def _run(pipeline: list[Any], place: Any, tasks: int = 0) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from loguru import logger

    logger.remove()
    LocalPipelineExecutor(
        pipeline,
        tasks=tasks or _workers(),
        workers=_workers(),
        logging_dir=tempfile.mkdtemp(dir=place),
        skip_completed=False,
    ).run()


def _workers() -> int:
    return int(os.environ["FINETUNE_WORKERS"])


if __name__ == "__main__":
    command, where, *numbers = sys.argv[1:]
    print("\n" + json.dumps(globals()[command](Path(where), *map(int, numbers))))
