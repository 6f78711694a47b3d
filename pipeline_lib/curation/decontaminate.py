"""Decontaminate: no conversation that gives away a benchmark the model will be judged on.

A conversation is contaminated where it shares a 13-gram of words with a benchmark's prompt, where 8-grams of
it cover at least half of the prompt, where it contains the whole of a short prompt, asks the same as a very
short one, or asks what a prompt does in nearly its words (GPT-3, Brown et al. 2020, appendix C, uses 13-grams
and leaves out those that stand in many documents; a single shared 8-gram over-flags templates, and many
prompts are under 13 words).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.errors import DataError
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.curation.sources import Source, source_digests
from pipeline_lib.kinds import Dataset

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline_lib.curation.blocks import Outcome
    from pipeline_lib.curation.overlap import Benchmarks


class DecontaminateConfig(StageConfig):
    """Which held-out texts the training data must not hold."""

    sources: tuple[Source, ...] = Field(
        default=(),
        description="Benchmarks and held-out files, read like any source; their prompts are looked for.",
    )
    long_ngram: int = Field(
        default=13, ge=4, le=64, description="Words of an n-gram that contaminates by one hit."
    )
    short_ngram: int = Field(
        default=8, ge=2, le=64, description="Words of an n-gram that contaminates by coverage."
    )
    coverage: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of a benchmark prompt's words that short n-grams must cover to contaminate.",
    )
    similarity: float = Field(
        default=0.8,
        ge=0.3,
        le=1.0,
        description="Jaccard similarity of word 5-grams from which on a user asks what a prompt does.",
    )
    action: Literal["drop", "report"] = Field(
        default="drop",
        description="Drop contaminated conversations, or keep them with `contaminated` in their metadata.",
    )


def benchmark_digests(config: DecontaminateConfig) -> dict[str, str]:
    """Return the digest of every benchmark's content; none where no benchmark is named."""
    return source_digests(config) if config.sources else {}


@stage(produces=Dataset, version=3, outside=benchmark_digests)
def decontaminate(out: Output, config: DecontaminateConfig, conversations: Dataset) -> None:
    """Every conversation that holds no benchmark's prompt; the others dropped or marked with its place."""
    from pipeline_lib.curation.blocks import sift

    benchmarks = _benchmarks(config)
    judge = partial(_judged, benchmarks, config.action == "drop")
    hits = sum(counts["contaminated"] for counts in sift(out, conversations, judge))
    out.stats |= {"benchmark_prompts": len(benchmarks) if benchmarks else 0, "contaminated": hits}


def _judged(benchmarks: Benchmarks | None, drops: bool, block: pa.RecordBatch) -> Outcome:
    from pipeline_lib import records
    from pipeline_lib.curation.blocks import Outcome

    found = benchmarks.find(_texts(block), _asked(block)) if benchmarks else [None] * block.num_rows
    verdicts = [("contaminated", hit) if hit and drops else None for hit in found]
    if not drops:
        block = records.noted(block, [{"contaminated": hit} if hit else {} for hit in found])
    return Outcome(block, verdicts, {"contaminated": sum(hit is not None for hit in found)})


def _texts(batch: pa.RecordBatch) -> list[str]:
    from pipeline_lib import records

    return records.text_of(
        batch, columns=("messages", "chosen", "rejected"), fields=("content", "tool_calls")
    )


def _asked(batch: pa.RecordBatch) -> list[list[str]]:
    """Return what the user says in each conversation, message by message."""
    lists = batch.column("messages").to_pylist()
    return [
        [m["content"] or "" for m in messages or () if m["role"] in ("user", "text")] for messages in lists
    ]


def _benchmarks(config: DecontaminateConfig) -> Benchmarks | None:
    if not config.sources:
        return None
    from pipeline_lib import records
    from pipeline_lib.curation.intake import open_sources, outcomes
    from pipeline_lib.curation.overlap import Benchmarks

    prompts: list[tuple[str, str]] = []
    for one in open_sources(config.sources):
        batches = (found.batch for found in outcomes([one]))
        texts = [text for batch in batches for text in records.text_of(batch, ("user", "text")) if text]
        if not texts:
            raise DataError(
                f"decontaminate: {one.label} has no prompt to look for; map its columns, such as columns: "
                f"{{prompt: …}}"
            )
        prompts += [(f"{one.label} prompt {number}", text) for number, text in enumerate(texts)]
    return Benchmarks(prompts, config.long_ngram, config.short_ngram, config.coverage, config.similarity)
