"""What a training will need, for the command: estimates by method, and the method to choose."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline_lib.config import PipelineConfig
from pipeline_lib.core.errors import ConfigError
from pipeline_lib.training.base_model import local_directory
from pipeline_lib.training.estimate import Estimate, estimate_for
from pipeline_lib.training.model_shape import ModelShape, llama_shape, shape_of
from pipeline_lib.training.recommendation import Case, Recommendation, recommend

__all__ = ["Estimate", "Forecast", "Recommendation", "forecast"]


@dataclass(frozen=True)
class Forecast:
    """What each method needs for one config, and which one is advised."""

    estimates: list[Estimate]
    advice: Recommendation


def forecast(config: PipelineConfig, conversations: int, memory_gb: float) -> Forecast:
    """Return what training as ``config`` says needs, for so many conversations and so much GPU memory."""
    shape = _shape(config)
    length = config.tokenize.max_length
    estimates = estimate_for(config.train, length, shape, conversations)
    case = Case(conversations, memory_gb, sequence_length=length, objective=config.train.objective)
    return Forecast(estimates, recommend(shape, case))


def _shape(config: PipelineConfig) -> ModelShape:
    if config.base_model:
        directory = local_directory(config.base_model)
        return shape_of(directory or config.base_model.source, config.base_model.revision)
    new = config.initialize
    if new is None:
        raise ConfigError("estimate: the config names neither base_model nor initialize")
    return llama_shape(
        hidden=new.hidden_size,
        intermediate=new.intermediate_size,
        layers=new.layers,
        heads=new.heads,
        vocabulary=new.vocab_size,
        tied=True,
    )
