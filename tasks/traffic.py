"""A/B on logged traffic, for the command."""

from pipeline_lib.evaluation.traffic import compare_arms

__all__ = ["compare_arms"]
