"""Curate: from raw text to train, validation and test."""

from pipeline_lib.config import PipelineConfig
from pipeline_lib.kinds import Dataset
from tasks.curation import (
    decontaminate,
    deduplicate,
    filter_quality,
    format_messages,
    ingest,
    normalize,
    scrub,
    split,
)
from tasks.wrap import flow


@flow
def curate(config: PipelineConfig) -> tuple[Dataset, ...]:
    """Every conversation is kept, or dropped for a stated reason."""
    raw = ingest(config.ingest)
    normal = normalize(config.normalize, raw)
    scrubbed = scrub(config.scrub, normal)
    unique = deduplicate(config.deduplicate, scrubbed)
    good = filter_quality(config.filter, unique)
    clean = decontaminate(config.decontaminate, good)
    formatted = format_messages(config.format, clean)
    dataset = split(config.split, formatted)
    return raw, normal, scrubbed, unique, good, clean, formatted, dataset
