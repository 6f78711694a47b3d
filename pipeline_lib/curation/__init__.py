"""From raw text to conversations worth learning.

In the order of the process: ingest, normalize, scrub, deduplicate, filter, decontaminate, format, split.
"""
