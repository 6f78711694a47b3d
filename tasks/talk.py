"""A model to talk to, for the command."""

from pipeline_lib.evaluation.talk import BASE, Talker, load, load_adapters

__all__ = ["BASE", "Talker", "load", "load_adapters"]
