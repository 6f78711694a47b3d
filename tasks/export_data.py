"""Datasets out of the store as files that other tools read, for the command."""

from pipeline_lib.curation.export_data import FORMS, Form, Written, export_data

__all__ = ["FORMS", "Form", "Written", "export_data"]
