"""A model to talk to, for the command."""

from pipeline_lib.evaluation.talk import Talker, load

__all__ = ["Talker", "load"]
