"""A model out of the pipeline in another form, for the command."""

from pipeline_lib.publishing.export import FORMATS, QUANTIZATIONS, Exported, export_model
from pipeline_lib.publishing.export.hub import check_push, push

__all__ = ["FORMATS", "QUANTIZATIONS", "Exported", "check_push", "export_model", "push"]
