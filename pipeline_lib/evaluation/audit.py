"""Audit: what the model gives away of what it was trained on, and how much of the test it may have seen.

``memorized`` are answers that repeat a passage of the training data word for word; ``extracted`` are training
answers that the model, given their beginning, goes on with to the letter (Carlini et al. 2023, Quantifying
Memorization, section 3), beside the same figure for test conversations, which it cannot have learnt by heart;
``canaries`` are planted secrets ranked among alternatives (`pipeline_lib.canaries`); ``leaks`` are personal
data in the answers; ``contamination`` is what the test split shares with the training data. No value of
personal data is written down.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipeline_lib.chat_templates import TemplateName
from pipeline_lib.core.config import StageConfig
from pipeline_lib.core.output import Output
from pipeline_lib.core.stage import stage
from pipeline_lib.kinds import Audit, Dataset, Evaluation, Model

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLES = ("train", "test")


class AuditConfig(StageConfig):
    """What is looked for in the model's answers and in the training data."""

    passage_words: int = Field(
        default=20,
        ge=5,
        le=200,
        description="Words in a row that make an answer memorized, where they stand in the training data and "
        "neither in the prompt nor in the reference.",
    )
    extraction_conversations: int = Field(
        default=100,
        ge=0,
        description="Conversations of train, and of test to compare with, that the model is asked to go on "
        "with; 0 asks none.",
    )
    prefix_tokens: int = Field(
        default=32,
        ge=1,
        description="Tokens of the answer that it is given, or half of the answer where that is less.",
    )
    extracted_tokens: int = Field(
        default=32, ge=4, description="Most tokens after them that it must say to the letter."
    )
    canary_alternatives: int = Field(
        default=1000, ge=1, le=100_000, description="Secrets never seen among which a planted one is ranked."
    )
    contamination_words: int = Field(
        default=13,
        ge=4,
        le=64,
        description="Words in a row that a test conversation may share with none of the training data.",
    )
    template: TemplateName | None = Field(
        default=None, description="Named chat template in place of the tokenizer's own; as tokenize.template."
    )
    precision: Literal["bf16", "fp16", "fp32"] = Field(
        default="bf16", description="Number format of weights and computation."
    )
    seed: int = Field(default=42, ge=0, description="Seed of the canaries' alternatives.")


@stage(produces=Audit, version=2)
def audit(out: Output, config: AuditConfig, dataset: Dataset, model: Model, evaluation: Evaluation) -> None:
    """The figures of memorization, extraction, canaries, leaks and contamination, each with its count."""
    from pipeline_lib.evaluation.shared_text import compare_with_training

    shared = compare_with_training(out, config, dataset, evaluation)
    asked = _ask(out, config, dataset, model)
    found = {**shared.figures, "extracted": asked.get("extracted"), "canaries": asked.get("canaries")}
    _write(out.path / "audit.json", found)
    _write(out.path / "passages.json", shared.passages)
    out.stats = {
        "answers": found["memorized"]["of"],
        "memorized": found["memorized"]["count"],
        "leaked": found["leaks"]["in_training"],
        "contaminated": found["contamination"]["ngram"]["count"],
    }
    if found["extracted"]:
        out.stats["extracted"] = {part: found["extracted"][part]["count"] for part in SAMPLES}
    if found["canaries"]:
        out.stats["canaries_extracted"] = found["canaries"]["extracted"]


def _ask(out: Output, config: AuditConfig, dataset: Dataset, model: Model) -> dict[str, Any]:
    """Return what the model itself says, measured in a child process; nothing where nothing is asked."""
    from pipeline_lib import canaries
    from pipeline_lib.launch import device, run_child

    planted = canaries.read(dataset.path)
    if not planted and not config.extraction_conversations:
        return {}
    for part in SAMPLES:
        _sample(dataset, part, config.extraction_conversations, out.work / f"{part}.parquet")
    result = out.work / "asked.json"
    result.unlink(missing_ok=True)
    spec = {
        "config": config.model_dump(mode="json"),
        "samples": {part: str(out.work / f"{part}.parquet") for part in SAMPLES},
        "canaries": str(dataset.path) if planted else None,
        "model": str(model.path),
        "result": str(result),
        "device": device(),
    }
    run_child("pipeline_lib.evaluation.audit_worker", spec, out.work, "audit")
    asked: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return asked


def _sample(dataset: Dataset, part: str, count: int, path: Path) -> None:
    """Write ``count`` conversations of a part, those whose ids have the smallest hashes, in their order."""
    import hashlib
    import heapq

    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline_lib import canaries, records

    shards = dataset.shards(part)
    ids = (
        name
        for shard in shards
        for name, source in zip(*_columns(shard, ["id", "source"]), strict=True)
        if source != canaries.SOURCE
    )
    names = heapq.nsmallest(count, ids, key=lambda name: hashlib.sha256(name.encode()).digest())
    wanted = pa.array(names, pa.string())
    chosen = [_rows_of(shard, wanted) for shard in shards] if names else []
    pq.write_table(pa.concat_tables(chosen) if chosen else records.SCHEMA.empty_table(), path)


def _columns(shard: Path, names: list[str]) -> list[list[Any]]:
    import pyarrow.parquet as pq

    table = pq.read_table(shard, columns=names)
    return [table[name].to_pylist() for name in names]


def _rows_of(shard: Path, wanted: pa.Array) -> pa.Table:
    import pyarrow.dataset as ds

    return ds.dataset(shard).to_table(filter=ds.field("id").isin(wanted))


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
