"""A model out of the pipeline in another form, for the command."""

from pipeline_lib.publishing.export import FORMATS, QUANTIZATIONS, Exported, export_model

__all__ = ["FORMATS", "QUANTIZATIONS", "Exported", "export_model"]
