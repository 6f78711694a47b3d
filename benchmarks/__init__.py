"""Finetune-flows beside its peers, on the same documents in one run (``python -m benchmarks.NAME``)."""
