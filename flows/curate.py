"""Curate: from raw text to train, validation and test."""

from pipeline_lib.config import PipelineConfig
from pipeline_lib.kinds import Dataset
from tasks.curation import (
    augment,
    decontaminate,
    deduplicate,
    embed,
    embedder,
    filter_quality,
    format_messages,
    ingest,
    normalize,
    normalize_augmented,
    score,
    scorer,
    scrub,
    scrub_augmented,
    split,
    tokenizer,
)
from tasks.wrap import flow


@flow
def curate(config: PipelineConfig) -> tuple[Dataset, ...]:
    """Every conversation is kept, or dropped for a stated reason."""
    raw = ingest(config.ingest)
    normal = normalize(config.normalize, raw)
    scrubbed = scrub(config.scrub, normal)
    first: tuple[Dataset, ...] = (raw, normal, scrubbed)
    if config.augment:
        # What a model wrote takes the same way; what has come that way already stays as it is.
        written = augment(config.augment, scrubbed)
        again = normalize_augmented(config.normalize, written)
        scrubbed = scrub_augmented(config.scrub, again)
        first = (*first, written, again, scrubbed)
    scored = score(config.score, scrubbed, scorer(config.scorer)) if config.scorer else scrubbed
    alike = embed(config.embed, scrubbed, embedder(config.embedder)) if config.embedder else None
    unique = deduplicate(config.deduplicate, scored, alike)
    counts = tokenizer(config.base_model) if config.base_model and config.filter.counts_tokens else None
    good = filter_quality(config.filter, unique, counts)
    clean = decontaminate(config.decontaminate, good)
    formatted = format_messages(config.format, clean)
    dataset = split(config.split, formatted)
    return (
        *first,
        *([scored] if config.scorer else []),
        unique,
        good,
        clean,
        formatted,
        dataset,
    )
