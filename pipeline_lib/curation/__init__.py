"""From raw text to conversations worth learning: ingest, normalize, scrub, deduplicate, filter, decontaminate, format, split."""
