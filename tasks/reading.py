"""Looking into datasets, for the command: rows of a part, and what became of one conversation."""

from pipeline_lib.curation.fates import Fate, head, origin, parts_of, trace, unlearnt

__all__ = ["Fate", "head", "origin", "parts_of", "trace", "unlearnt"]
